"""Whole runs whose teacher is steered by right and wrong guides: each step is gradient descent towards it."""

import pytest
import torch
from plain import SGD, TOKENS, assert_close_parameters, descend
from runs import COIN_REWARD, TEMPERATURE, good, parameters, run
from teacher_texts import frames, shown
from torch import Tensor
from transformers import AutoModelForCausalLM

from examples.tiny_cpu import model as tiny


def steered_loss(model, teacher, batch: dict, known: dict, *, strength: float, clip: float | None) -> Tensor:
    """Mean over the first TOKENS tokens of wrong responses of KL(student || steered teacher), each share in ±clip.
    Guides' logits are averaged as logits, by loops."""
    control, total, tokens = set(tiny.build_tokenizer().all_special_ids), 0.0, 0
    right = [row.sum().item() > 0 for row in batch["rm_scores"]]
    bare = [shown(row.tolist(), control) for row in batch["responses"]]
    for i, uid in enumerate(batch["uid"]):
        response, prompt = batch["responses"][i][:TOKENS], batch["prompts"][i].tolist()
        before, behind, solution = known[tuple(prompt)]
        pools = {True: [solution], False: []}
        for j, other in enumerate(batch["uid"]):
            if other == uid and bare[j]:
                pools[right[j]].append(bare[j])
        if right[i] or not pools[False]:
            continue

        def logits(network, ids, response=response) -> Tensor:
            return network(torch.cat([torch.tensor(ids), response])[None]).logits[0, len(ids) - 1 : -1]

        with torch.no_grad():
            of_pool = {side: [logits(teacher, [*before, *guide, *behind]) for guide in pools[side]] for side in pools}
            mean = {side: torch.stack(of_guides).mean(0) for side, of_guides in of_pool.items()}
            taught = (logits(teacher, prompt) + strength * (mean[True] - mean[False])) / TEMPERATURE
        student, taught = (logits(model, prompt) / TEMPERATURE).log_softmax(-1), taught.log_softmax(-1)
        total = total + (student.exp() * (student - taught)).clamp(-(clip or torch.inf), clip or torch.inf).sum()
        tokens += len(response)
    return total / tokens


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("ranks", "highest", "clip"), [(2, 3.0, 0.05), (1, 0.5, None)], ids=["published", "no clip"])
def test_a_step_is_gradient_descent_towards_the_steered_teacher(ranks, highest, clip, inputs, tmp_path):
    """A ramp over two steps: the first changes nothing, after the second the teacher is no longer the student.

    The published clip leaves a random model next to no gradient; without it there is one.
    """
    overrides = [*COIN_REWARD, *SGD, f"trainer.n_gpus_per_node={ranks}", f"algorithm.egrsd.pull.tokens={TOKENS}",
                 "algorithm.egrsd.steering.warmup_steps=2", "trainer.total_training_steps=3",
                 f"algorithm.egrsd.steering.strength={highest}", f"algorithm.egrsd.divergence_clip={clip or 'null'}",
                 f"algorithm.egrsd.divergence_clip_low={-clip if clip else 'null'}"]  # fmt: skip
    result = good(run(inputs, tmp_path, overrides, algorithm="ogls_sd", timeout=850))
    model, teacher = (AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32) for _ in range(2))
    known, moved = frames(inputs), []
    for step, strength in ((1, 0.0), (2, highest / 2), (3, highest)):
        logged = result.metrics[step - 1]
        assert logged["egrsd/steering_strength"] == strength
        assert logged["egrsd/pull_weight_sum"] == pytest.approx(float(step > 1), abs=1e-6)
        if strength:
            loss = steered_loss(model, teacher, result.probe(step), known, strength=strength, clip=clip)
            assert logged["egrsd/divergence_mean"] == pytest.approx(loss.item(), abs=1e-5)
            moved.append(descend(model, loss))
        assert_close_parameters(parameters(result, step), model)
    assert min(moved) > (1e-2 if clip is None else 0)
