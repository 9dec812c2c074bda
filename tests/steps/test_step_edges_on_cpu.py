"""Steps at their edges: a pulled response with tokens of a tool, a prompt that just fits, a draw that follows the step,
what a step logs and saves."""

from dataclasses import replace

import pytest
import torch
import transfer_queue as tq
from guided_steps import contrasting
from micro_batches import jagged
from queued_steps import FRAME, ROLLOUTS, TOKENIZER, ssopd, telling, trainer, with_limit
from queues import PromptTable, columns
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.egrsd.watch import tokens


def test_tokens_of_a_tool_count_as_positions_of_what_is_pulled(peer_batch):
    """Of [11, 11, 11, EOS] a tool wrote the second: two of the first three are pulled, with .5 * 8/9 / 3 problems / 2
    tokens each, and three have to be read."""
    fields = TensorDict({"response_mask": jagged([torch.tensor([1, 0, 1, 1])])}, batch_size=1)
    tq.kv_batch_put(keys=["a_0_0"], partition_id="train", fields=fields)
    ours = trainer(**ssopd(tokens=3))
    ours._compute_advantage(peer_batch, {})
    assert [1, 12, 12, 2, 11, 11, 11] in ours.teacher.workers.rows
    found = columns(peer_batch, "pull_weight", "teacher_mask", "teacher_hidden")
    assert found["pull_weight"]["a_0_0"] == pytest.approx([2 / 27, 0, 2 / 27, 0])
    assert found["teacher_mask"]["a_0_0"] == [1, 0, 1, 0]
    scores = PromptTable.log_probs([1, 12, 12, 2], 3)
    assert found["teacher_hidden"]["a_0_0"] == pytest.approx([score for score in scores for _ in range(2)], abs=1e-6)


def test_a_random_peer_is_drawn_anew_at_every_step(peer_batch):
    """a_0 may be shown a_1 or a_2 where all are right."""
    scores = tq.kv_batch_get(keys=peer_batch.keys, partition_id="train", select_fields=["rm_scores"])
    tq.kv_batch_put(keys=peer_batch.keys, partition_id="train", fields=scores.apply(lambda rows: rows * 0 + 1))
    ours, shown = trainer(), []
    ours.egrsd = replace(ours.egrsd, teacher=replace(ours.egrsd.teacher, peer="random"), length_bonus=0.0)
    for step in (*range(1, 11), 10):
        ours.global_steps = step
        ours._compute_advantage(peer_batch, {})
        shown.append(tuple(columns(peer_batch, "teacher_prompt_ids")["teacher_prompt_ids"]["a_0_0"]))
        fields = [{"teacher_prompt_ids": FRAME.get(key[0], [0])} for key in peer_batch.keys]
        tq.kv_batch_put(keys=peer_batch.keys, partition_id="train", fields=list_of_dict_to_tensordict(fields))
    assert set(shown) == {(1, 12, 12, 2), (1, 13, 13, 2)} and shown[-1] == shown[-2]


@pytest.mark.parametrize("room", [0, 1])
def test_feedback_that_just_fits_is_told(room, feedback_batch):
    """The frame without its slot, 2 tokens, and the text are the whole prompt."""
    ids = TOKENIZER.encode("Add the tens.", add_special_tokens=False)
    ours, metrics = with_limit(telling("feedback"), 2 + len(ids) - 1 + room), {}
    ours._compute_advantage(feedback_batch, metrics)
    mask = columns(feedback_batch, "teacher_mask")["teacher_mask"]["a_0_0"]
    assert mask == [room] * 3 and metrics["egrsd/unusable_feedback_frac"] == pytest.approx((2 - room) / 5)


@pytest.mark.parametrize("room", [0, 1])
def test_a_wrong_answer_that_just_fits_is_shown(room, contrast_batch):
    """Every answer is one token, the frame two without its slot."""
    ours, metrics = with_limit(contrasting(1, "answer_contrast"), 2 + room), {}
    ours._compute_advantage(contrast_batch, metrics)
    assert metrics["egrsd/no_peer_frac"] == pytest.approx(1 / 7 if room else 1)


class Sums:
    """Stands for verl's update: what each micro-batch is told, and the sums of its loss hook."""

    def __init__(self, **sums: float):
        self.sums, self.told = sums, {}

    def __call__(self, batch, metrics):
        self.told = dict(batch.extra_info)
        metrics |= {f"actor/egrsd_sum/{name}": value for name, value in self.sums.items()}
        return batch


@pytest.mark.parametrize(("step", "mixing"), [(1, 0.5), (26, 0.25), (51, 0.0)])
def test_the_mixing_of_a_step_reaches_the_loss_and_the_log(step, mixing, monkeypatch):
    """RLSD's .5 falls by .01 a step: .5 * (1 - 25 / 50) = .25."""
    update = Sums(num_tokens=4.0, student_surprise_mean=2.0, num_taught_tokens=2.0, gate_mean=1.0)
    monkeypatch.setattr(PPOTrainerSync, "_update_actor", update)
    ours, metrics = trainer(mixing=0.5, mixing_decay_steps=50), {}
    ours.global_steps, ours.of_batch, ours.student_scores_needed = step, {"entropy_scale": 2.0}, ""
    ours._update_actor(KVBatchMeta(keys=["a_0_0"], tags=[{}], partition_id="train", extra_info={}), metrics)
    assert update.told["egrsd_mixing"] == pytest.approx(mixing) and update.told["egrsd_entropy_scale"] == 2.0
    means = {"egrsd/student_surprise_mean": 2 / 4, "egrsd/gate_mean": 1 / 2}
    assert metrics == {"egrsd/mixing": pytest.approx(mixing), **means}


def test_saved_tokens_have_the_students_own_scores(peer_batch, monkeypatch):
    """Under the student's prompt, at the rollout's temperature; the batch that trains is told nothing of them."""
    ours, saved, temperatures = trainer(), {}, []
    ours._compute_advantage(peer_batch, {})
    ours.student_scores_needed = ""
    ours.config.actor_rollout_ref.rollout.temperature = 0.7
    score = ours.teacher.workers.compute_log_prob
    ours.teacher.workers.compute_log_prob = lambda rows: temperatures.append(rows["temperature"]) or score(rows)
    monkeypatch.setattr(tokens, "save", lambda folder, data, **settings: saved.update(data=data, folder=folder))
    monkeypatch.setattr(tokens, "FIELDS", tuple(name for name in tokens.FIELDS if name != "extra_info"))
    ours._save_tokens(peer_batch, mixing=1.0)
    names = sorted(ROLLOUTS)  # the padding sample is not saved
    for key, values in zip(names, saved["data"]["student_log_probs"].unbind(), strict=True):
        response = ROLLOUTS[key][1]
        own = PromptTable.log_probs([FRAME[key[0]][0]], len(response))
        assert values.tolist() == pytest.approx(own, abs=1e-6)
    assert temperatures == [0.7] and saved["folder"].name == "tokens"
