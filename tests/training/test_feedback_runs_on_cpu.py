"""Whole runs whose teachers are told what the reward function said: who read what, by loops over the recorded batch."""

import pytest
import torch
from feedback_reward import FORGED, compute_score
from reference import ratio_weight
from runs import ROOT, TEMPERATURE, good, run
from transformers import AutoModelForCausalLM

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import INSTRUCTION


def prompts(tokenizer, batch: dict, row: int, said: list[str], *, shuffled: bool) -> list[list[int]]:
    """What the row's teacher may have read: a prompt for each text that it may have been told."""
    question = tokenizer.decode(batch["prompts"][row]).split("user\n")[1].split(f"\n\n{INSTRUCTION}")[0]
    texts = [said[row]]
    if shuffled:
        texts = [text for other, text in enumerate(said) if batch["uid"][other] != batch["uid"][row] and text]
    found = []
    for text in texts if said[row] else []:
        before, after = (
            (ROOT / "recipe/egrsd/privilege/teacher_prompt_feedback.jinja").read_text().split("#}\n")[1].split("{%-")[0]
        ).split("{{ feedback }}")
        before = "<|im_start|>user\n" + before.replace("{{ problem }}", question)
        after = after.rstrip() + f"\n\n{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
        found.append([token for part in (before, text, after) for token in tokenizer.encode(part)])
    return found


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("privilege", "mode"), [("feedback", "egrsd_sync"), ("feedback_shuffled", "egrsd_colocate_async")]
)
def test_each_teacher_is_the_initial_model_that_was_told_what_the_reward_said(privilege, mode, inputs, tmp_path):
    """Two ranks, eight responses a step of two problems; four steps, so that chance shows some teacher some text.

    log p_T by a plain forward pass of the model; the texts by the reward function once more, of the decoded
    responses.
    """
    overrides = [f"reward.custom_reward_function.path={ROOT}/tests/support/feedback_reward.py",
                 "trainer.n_gpus_per_node=2", "trainer.total_training_steps=4", "algorithm.egrsd.save_tokens_every=1",
                 f"algorithm.egrsd.privilege={privilege}", "algorithm.egrsd.teacher.template=null",
                 "algorithm.egrsd.teacher.max_prompt_length=460", f"trainer.v1.trainer_mode={mode}"]  # fmt: skip
    result = good(run(inputs, tmp_path, overrides, algorithm="egrsd"))
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32)
    tokenizer, taught, forged_ones = tiny.build_tokenizer(), 0, 0
    for step in (1, 2, 3, 4):
        batch = result.probe(step)
        responses = [row.tolist() for row in batch["responses"]]
        decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in responses]
        said = [compute_score("", text, "").get("feedback", "") for text in decoded]
        forged = sum(FORGED in text for text in said)
        said = ["" if FORGED in text else text for text in said]
        weights = []
        for i, response in enumerate(responses):
            possible = prompts(tokenizer, batch, i, said, shuffled="shuffled" in privilege)
            assert batch["teacher_mask"][i].bool().tolist() == [bool(possible)] * len(response)
            if not possible:
                assert not batch["teacher_log_probs"][i].any() and not list(batch["teacher_prompt_ids"][i])
                continue
            read = list(batch["teacher_prompt_ids"][i])
            assert read in possible
            with torch.no_grad():
                logits = model(torch.tensor([read + response])).logits[0, len(read) - 1 : -1] / TEMPERATURE
            expected = logits.log_softmax(-1).gather(-1, batch["responses"][i][:, None])[:, 0]
            torch.testing.assert_close(batch["teacher_log_probs"][i].float(), expected, atol=2e-4, rtol=0)
            student, teacher = ([batch[name][i].tolist()] for name in ("old_log_probs", "teacher_log_probs"))
            weights += ratio_weight(student, teacher, [batch["advantages"][i][0].item()], 0.2)
        values, logged = [value for row in weights for value in row], result.metrics[step - 1]
        if values:
            assert logged["egrsd/ratio_weight_mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert logged["egrsd/no_feedback_frac"] == pytest.approx(1 - len(weights) / len(responses))
        assert logged["egrsd/unusable_feedback_frac"] == pytest.approx(forged / len(responses))
        taught, forged_ones = taught + len(weights), forged_ones + forged
    assert taught and bool(forged_ones) == ("EGRSD shows no teacher the feedback of" in result.log)
