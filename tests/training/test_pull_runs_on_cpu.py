"""Whole runs of methods of the literature and of controls: each step is gradient descent on the loss that loops make of
it."""

import math

import pytest
import reference
import torch
from plain import SGD, TOKENS, assert_close_parameters, descend
from runs import COIN_REWARD, TEMPERATURE, good, parameters, run
from teacher_texts import shown
from torch import Tensor
from transformers import AutoModelForCausalLM

from examples.tiny_cpu import model as tiny

Scored = list[tuple[Tensor, Tensor]]
"""Of each response the student's log-probs with a graph, and the teacher's, (T, V) each."""


def scored(model, teacher, batch: dict) -> Scored:
    """Two plain transformers forwards a response; of one without a teacher the second is the student's own."""

    def log_probs(network, prompt, response) -> Tensor:
        ids = torch.cat([torch.as_tensor(list(prompt)), response])[None]
        return (network(ids).logits[0, -len(response) - 1 : -1] / TEMPERATURE).log_softmax(-1)

    found = []
    for prompt, privileged, response in zip(
        batch["prompts"], batch["teacher_prompt_ids"], batch["responses"], strict=True
    ):
        with torch.no_grad():
            taught = log_probs(teacher, list(privileged) or prompt, response)
        found.append((log_probs(model, prompt, response), taught))
    return found


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


def clipped_divergences(rows: Scored) -> list[Tensor]:
    """KL(teacher || student) of each token, a vocabulary entry's share at most 0.05 nats."""
    return [(taught.exp() * (taught - student)).clamp(max=0.05).sum(-1) for student, taught in rows]


def of_sampled(rows: Scored, batch: dict) -> list[tuple[Tensor, Tensor]]:
    """Log-probs of the sampled tokens, of student and teacher."""
    labels = [response[:, None] for response in batch["responses"]]
    return [tuple(table.gather(-1, ids)[:, 0] for table in row) for row, ids in zip(rows, labels, strict=True)]


def pull_loss(algorithm: str, rows: Scored, batch: dict, logged: dict) -> Tensor:
    weights, lengths = pulled(algorithm, batch), [len(response) for response in batch["responses"]]
    expected = sum(weight * min(TOKENS, lengths[i]) for i, weight in weights.items())
    assert logged["egrsd/pull_weight_sum"] == pytest.approx(expected, abs=1e-6)
    divergences = clipped_divergences(rows)
    total = sum(weight * divergences[i][:TOKENS].sum() for i, weight in weights.items())
    if algorithm == "ssopd":
        of_student = (student for student, _ in of_sampled(rows, batch))
        for advantages, student in zip(batch["advantages"], of_student, strict=True):
            total = total - (advantages * student).mean() / len(rows)
    return total


def dash_loss(algorithm: str, rows: Scored, batch: dict, logged: dict) -> Tensor:
    """c r, a mean over each response, c = 1 + sigma(-5 (r - mean r)) c of the token before."""
    total, factors = 0.0, []
    for values in clipped_divergences(rows):
        factor, mean, handed = [], values.mean().item(), 0.0
        for r in values.tolist():
            factor.append(1 + handed)
            handed = factor[-1] / (1 + math.exp(5 * (r - mean)))
        total = total + (torch.tensor(factor) * values).mean() / len(rows)
        factors += factor
    assert logged["egrsd/propagation_mean"] == pytest.approx(sum(factors) / len(factors), abs=1e-4)
    return total


def hsd_loss(algorithm: str, rows: Scored, batch: dict, logged: dict) -> Tensor:
    """KL(teacher || student), a mean over each response; each has a teacher, which is shown a correct peer if any."""
    end, alone = set(tiny.build_tokenizer().all_special_ids), 0
    bare, right = (
        [shown(row.tolist(), end) for row in batch["responses"]],
        [row.sum() > 0 for row in batch["rm_scores"]],
    )
    for i, uid in enumerate(batch["uid"]):
        peers = [bare[j] for j, other in enumerate(batch["uid"]) if other == uid and right[j] and bare[j] and j != i]
        prompt = list(batch["teacher_prompt_ids"][i])
        held = [ids for ids in peers if any(prompt[at : at + len(ids)] == ids for at in range(len(prompt)))]
        assert bool(held) == bool(peers) and batch["teacher_mask"][i].all()
        alone += not peers
    assert logged["egrsd/no_peer_frac"] == pytest.approx(alone / len(rows))
    return sum((taught.exp() * (taught - student)).sum(-1).mean() for student, taught in rows) / len(rows)


def mean_gate_loss(algorithm: str, rows: Scored, batch: dict, logged: dict) -> Tensor:
    """-A w g log p, g the mean of all tokens' gates by the loops of the paper."""
    entropy = [(-(taught.exp() * taught).sum(-1)).tolist() for _, taught in rows]
    mask = [[True] * len(row) for row in entropy]
    scale = reference.entropy_scale(entropy, mask, 1.0)
    gates = [gate for row in reference.entropy_gate(entropy, scale, 0.3, 0.1) for gate in row]
    mean, total = sum(gates) / len(gates), 0.0
    assert logged["egrsd/gate_mean"] == pytest.approx(mean, abs=1e-5) and min(gates) < mean < max(gates)
    for advantages, (student, taught) in zip(batch["advantages"], of_sampled(rows, batch), strict=True):
        log_probs = [student.tolist()], [taught.tolist()], [advantages[0].item()]
        weight = torch.tensor(reference.ratio_weight(*log_probs, 0.2)[0])
        total = total - (advantages * weight * mean * student).sum() / len(gates)
    return total


def ratio_loss(algorithm: str, rows: Scored, batch: dict, logged: dict) -> Tensor:
    """-A (1 - m + m w) log p, w by the loops of the paper; RLSD's m falls from .5 to 0 in 50 steps, EGRSD's is 1."""
    mixing = 0.5 * (1 - (logged["training/global_step"] - 1) / 50) if algorithm == "rlsd" else 1.0
    assert logged["egrsd/mixing"] == pytest.approx(mixing)
    total, tokens = 0.0, sum(map(len, batch["responses"]))
    for advantages, (student, taught) in zip(batch["advantages"], of_sampled(rows, batch), strict=True):
        log_probs = [student.tolist()], [taught.tolist()], [advantages[0].item()]
        weight = torch.tensor(reference.ratio_weight(*log_probs, 0.2)[0])
        total = total - (advantages * (1 - mixing + mixing * weight) * student).sum() / tokens
    return total


LOSSES = {
    "ssopd": (pull_loss, [f"algorithm.egrsd.pull.tokens={TOKENS}"]),
    "oasis": (pull_loss, [f"algorithm.egrsd.pull.tokens={TOKENS}"]),
    "dash": (dash_loss, []),
    "hsd": (hsd_loss, []),
    "egrsd_mean_gate": (mean_gate_loss, []),
    "egrsd_ungated": (ratio_loss, []),
    "rlsd": (ratio_loss, []),
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("algorithm", LOSSES)
def test_a_step_is_gradient_descent_on_its_loss(algorithm, inputs, tmp_path):
    """Two ranks; parameters after each of two steps equal those of a plain training loop on the same responses."""
    loss_of, overrides = LOSSES[algorithm]
    overrides = [*COIN_REWARD, *SGD, "trainer.n_gpus_per_node=2", *overrides]
    result = good(run(inputs, tmp_path, overrides, algorithm=algorithm, timeout=850))
    model, teacher = (AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32) for _ in range(2))
    moved = 0.0
    for step in (1, 2):
        batch = result.probe(step)
        taught_by = model if algorithm == "hsd" else teacher  # a live teacher, or the initial weights
        loss = loss_of(algorithm, scored(model, taught_by, batch), batch, result.metrics[step - 1])
        if isinstance(loss, Tensor):  # or nothing was to be learned from
            moved += descend(model, loss)
        assert_close_parameters(parameters(result, step), model)
    assert moved > 1e-3


@pytest.mark.slow
@pytest.mark.long
def test_a_live_teacher_teaches_beside_a_kl_term(inputs, tmp_path):
    """The term has verl build a reference model, which is not the teacher: its head is another, its last pass another
    batch."""
    both = ["algorithm.egrsd.pull.policy_gradient=true", "actor_rollout_ref.actor.use_kl_loss=true"]
    overrides = [*COIN_REWARD, *both, "trainer.total_training_steps=2"]
    result = good(run(inputs, tmp_path, overrides, algorithm="hsd"))
    for step in result.metrics:
        assert step["egrsd/divergence_mean"] > 0 and step["actor/kl_loss"] >= 0 and step["actor/grad_norm"] > 0
