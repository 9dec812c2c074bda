"""Whole runs of methods that pull some responses: each step is gradient descent on the loss that loops make of it."""

import pytest
import torch
from plain import assert_close_parameters, descend
from runs import COIN_REWARD, TEMPERATURE, good, parameters, run
from test_divergence_runs_on_cpu import SGD
from torch import Tensor
from transformers import AutoModelForCausalLM

TOKENS = 10


def pulled(algorithm: str, batch: dict) -> dict[int, float]:
    """Row -> the weight of each of its first TOKENS tokens, from rewards, lengths and who has a teacher alone."""
    right = [row.sum().item() > 0 for row in batch["rm_scores"]]
    lengths, problems = [len(row) for row in batch["responses"]], sorted(set(batch["uid"]))
    found = {}
    for problem in problems:
        rows = [i for i, uid in enumerate(batch["uid"]) if uid == problem]
        taught = [i for i in rows if list(batch["teacher_prompt_ids"][i])]
        if algorithm == "ssopd" and any(not right[i] for i in taught):
            longest = max(lengths[i] for i in taught if not right[i])
            p = sum(right[i] for i in rows) / len(rows)
            candidates = [i for i in taught if not right[i] and lengths[i] == longest]
            found[tuple(candidates)] = 0.5 * 4 * p * (1 - p) / len(problems)
        if algorithm == "oasis" and any(right[i] for i in taught):
            shortest = min(lengths[i] for i in taught if right[i])
            candidates = [i for i in taught if right[i] and lengths[i] == shortest]
            found[tuple(candidates)] = None
    # Of equal lengths the first rollout is taken, whose number the probe does not keep: the one that was scored.
    scored = {i for i, mask in enumerate(batch["teacher_mask"]) if mask.any()}
    chosen = {}
    for rows, weight in found.items():
        (row,) = scored & set(rows)
        chosen[row] = weight and weight / min(TOKENS, lengths[row])
    assert scored == set(chosen)  # nobody else was scored
    total = sum(min(TOKENS, lengths[i]) for i in chosen)
    return {i: weight or 1 / total for i, weight in chosen.items()}


def whole_batch_loss(model, teacher, batch: dict, weights: dict[int, float], *, policy_gradient: bool) -> Tensor:
    total = 0.0
    for i, response in enumerate(batch["responses"]):

        def log_probs(network, prompt, response=response) -> Tensor:
            ids = torch.cat([torch.as_tensor(list(prompt)), response])[None]
            return (network(ids).logits[0, -len(response) - 1 : -1] / TEMPERATURE).log_softmax(-1)

        student = log_probs(model, batch["prompts"][i])
        if policy_gradient:
            of_tokens = student.gather(-1, response[:, None])[:, 0]
            total = total - (batch["advantages"][i] * of_tokens).mean() / len(batch["responses"])
        if i in weights:
            with torch.no_grad():
                taught = log_probs(teacher, batch["teacher_prompt_ids"][i])
            shares = (taught.exp() * (taught - student)).clamp(max=0.05).sum(-1)
            total = total + weights[i] * shares[:TOKENS].sum()
    return total


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("algorithm", ["ssopd", "oasis"])
def test_a_step_is_gradient_descent_on_its_loss(algorithm, inputs, tmp_path):
    """Two ranks; parameters after each of two steps equal those of a plain training loop on the same responses."""
    overrides = [*COIN_REWARD, *SGD, "trainer.n_gpus_per_node=2", f"algorithm.egrsd.pull.tokens={TOKENS}"]
    result = good(run(inputs, tmp_path, overrides, algorithm=algorithm, timeout=850))
    model, teacher = (AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32) for _ in range(2))
    seen = 0
    for step in (1, 2):
        batch = result.probe(step)
        weights = pulled(algorithm, batch)
        seen += len(weights)
        logged = result.metrics[step - 1]
        sums = {i: weights[i] * min(TOKENS, len(batch["responses"][i])) for i in weights}
        assert logged["egrsd/pull_weight_sum"] == pytest.approx(sum(sums.values()), abs=1e-6)
        loss = whole_batch_loss(model, teacher, batch, weights, policy_gradient=algorithm == "ssopd")
        descend(model, loss)
        assert_close_parameters(parameters(result, step), model)
    assert seen
