"""Whole runs whose teachers are shown other responses: who read what, by loops over the recorded batch."""

import pytest
import torch
from reference import ratio_weight
from runs import COIN_REWARD, MODES, TEMPERATURE, good, run
from teacher_texts import shown
from transformers import AutoModelForCausalLM

from examples.tiny_cpu import model as tiny


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_each_teacher_is_the_initial_model_that_was_shown_a_correct_peer(mode, inputs, tmp_path):
    """Two ranks, eight responses a step, half of them right by chance. log p_T by a plain forward pass of the model."""
    overrides = [*COIN_REWARD, "trainer.n_gpus_per_node=2", "trainer.total_training_steps=2",
                 "algorithm.egrsd.privilege=peer_correct", f"trainer.v1.trainer_mode={mode}"]  # fmt: skip
    result = good(run(inputs, tmp_path, overrides, algorithm="egrsd"))
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32)
    end = set(tiny.build_tokenizer().all_special_ids)
    taught = 0
    for step in (1, 2):
        batch = result.probe(step)
        responses = [row.tolist() for row in batch["responses"]]
        bare = [shown(row, end) for row in responses]
        right = [row.sum().item() > 0 for row in batch["rm_scores"]]
        for i, uid in enumerate(batch["uid"]):
            peers = [j for j, other in enumerate(batch["uid"]) if other == uid and right[j] and bare[j] and j != i]
            assert batch["teacher_mask"][i].bool().tolist() == [bool(peers)] * len(responses[i])
            if not peers:
                assert not batch["teacher_log_probs"][i].any()
                continue
            prompt, least = list(batch["teacher_prompt_ids"][i]), min(len(bare[j]) for j in peers)
            assert any(
                prompt[at : at + least] == bare[j] for j in peers if len(bare[j]) == least for at in range(len(prompt))
            )
            with torch.no_grad():
                logits = model(torch.tensor([prompt + responses[i]])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
            expected = logits.log_softmax(-1).gather(-1, batch["responses"][i][:, None])[:, 0]
            torch.testing.assert_close(batch["teacher_log_probs"][i].float(), expected, atol=2e-4, rtol=0)
            taught += 1
        weights = [
            ratio_weight([batch["old_log_probs"][i].tolist()], [batch["teacher_log_probs"][i].tolist()],
                         [batch["advantages"][i][0].item()], 0.2)[0]
            for i in range(len(responses)) if batch["teacher_mask"][i].any()
        ]  # fmt: skip
        values = [value for row in weights for value in row]
        logged = result.metrics[step - 1]
        assert logged["egrsd/ratio_weight_mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert logged["egrsd/no_peer_frac"] == pytest.approx(1 - len(weights) / len(responses))
    assert taught
