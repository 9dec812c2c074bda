"""What a step makes of a teacher that is told what the reward function said.

The trainer's own steps run on a real TransferQueue with a real tokenizer, as in test_peer_steps_on_cpu.py; only the
forward pass is a table.
"""

import pytest
import transfer_queue as tq
from queued_steps import TOKENIZER, TOLD, telling
from queues import PromptTable
from verl.utils.tensordict_utils import list_of_dict_to_tensordict


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("privilege", ["feedback", "feedback_shuffled"])
def test_each_teacher_is_told_what_was_said_of_the_response_that_it_scores(privilege, ranks, feedback_batch, capsys):
    """Two of five can be: nothing was said of the right ones, and one text is forged."""
    trainer, metrics = telling(privilege, ranks), {}
    trainer._compute_advantage(feedback_batch, metrics)
    tens, no_box = (TOKENIZER.encode(text, add_special_tokens=False) for text in ("Add the tens.", "No box."))
    first, second = (tens, no_box) if privilege == "feedback" else (no_box, tens)
    shown = {"a_0_0": [1, *first, 2], "b_0_0": [3, *second, 4]}
    names = ["teacher_mask", "teacher_log_probs", "teacher_prompt_ids"]
    data = tq.kv_batch_get(keys=feedback_batch.keys, partition_id="train", select_fields=names)
    masks, log_probs = data["teacher_mask"].unbind(), data["teacher_log_probs"].unbind()
    prompts = dict(zip(feedback_batch.keys, data["teacher_prompt_ids"], strict=True))
    for key, mask, scores in zip(feedback_batch.keys, masks, log_probs, strict=True):
        length = len(TOLD[key][1]) if key in TOLD else 1
        assert mask.tolist() == [int(key in shown)] * length
        assert list(prompts[key]) == shown.get(key, [])
        expected = PromptTable.log_probs(shown[key], length) if key in shown else [0.0] * length
        assert scores.tolist() == pytest.approx(expected, abs=1e-6)
    assert metrics["egrsd/no_feedback_frac"] == pytest.approx(3 / 5)
    assert metrics["egrsd/unusable_feedback_frac"] == pytest.approx(1 / 5)
    told = "EGRSD shows no teacher the feedback of 1 of 5 responses; row a_2_0: the feedback contains the control token"
    assert told in capsys.readouterr().out


def test_a_batch_of_which_nothing_is_said_asks_no_teacher(feedback_batch):
    fields = [{"extra_fields": {}} for _ in feedback_batch.keys]
    tq.kv_batch_put(keys=feedback_batch.keys, partition_id="train", fields=list_of_dict_to_tensordict(fields))
    trainer, metrics = telling("feedback"), {}
    trainer._compute_advantage(feedback_batch, metrics)
    assert not hasattr(trainer.teacher.workers, "rows") and metrics["egrsd/no_feedback_frac"] == 1.0
