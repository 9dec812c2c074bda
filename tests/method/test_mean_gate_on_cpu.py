"""The control gate=mean: by hand, against plausible wrong means, and refused where there is no gate."""

from collections.abc import Callable

import pytest
import torch
from composing import settings
from micro_batches import GATE_MEAN
from torch import Tensor

from recipe.egrsd.method.weights import entropy_gate, gate_mean, lookahead_entropy, token_weights

# Two responses, the second of two tokens, of which a tool wrote the last; under the mask lie values that would show.
ENTROPY = torch.tensor([[0.0, 3.0, 1.0, 2.0], [3.0, 50.0, torch.nan, torch.nan]])
MASK = torch.tensor([[True] * 4, [True, False, False, False]])
KNOBS = {"scale": 3.0, "gamma": 0.9, "floor": 0.4}
CASES = [
    # 1 - .9 H / 3 = 1, .1, .7, .4 and .1, not below .4: (1 + .4 + .7 + .4 + .4) / 5 = 2.9 / 5.
    (0, 0.58),
    # With one token ahead H = 0, 1, 1, 2 and 3: (1 + .7 + .7 + .4 + .4) / 5 = 3.2 / 5.
    (1, 0.64),
]


def check(function: Callable[..., float]) -> None:
    for window, expected in CASES:
        assert function(ENTROPY, MASK, window=window, **KNOBS) == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    check(gate_mean)
    assert gate_mean(ENTROPY, MASK & False, window=0, **KNOBS) == 1.0  # nobody has a teacher


def gates(entropy: Tensor, mask: Tensor, *, scale: float, window: int, gamma: float, floor: float) -> Tensor:
    return entropy_gate(lookahead_entropy(entropy, mask, window=window), scale, gamma=gamma, floor=floor)


def of_the_mean_entropy(entropy: Tensor, mask: Tensor, *, scale: float, window: int, **knobs: float) -> float:
    return entropy_gate(lookahead_entropy(entropy, mask, window=window)[mask].mean(), scale, **knobs).item()


def of_responses(entropy: Tensor, mask: Tensor, **knobs: float) -> float:
    found = gates(entropy, mask, **knobs)
    return sum(row[counts].mean().item() for row, counts in zip(found, mask, strict=True)) / len(mask)


MUTANTS: dict[str, Callable[..., float]] = {
    "gate of the mean entropy": of_the_mean_entropy,
    "mean of the responses' means": of_responses,
    "tokens of a tool count": lambda entropy, mask, **knobs: gates(entropy, mask, **knobs)[~entropy.isnan()].mean(),
    "no lookahead": lambda entropy, mask, *, window, **knobs: gates(entropy, mask, window=0, **knobs)[mask].mean(),
    "without the floor": lambda entropy, mask, *, floor, **k: gates(entropy, mask, floor=0.0, **k)[mask].mean(),
    "median": lambda entropy, mask, **knobs: gates(entropy, mask, **knobs)[mask].median(),
    "largest entropy of these tokens as the scale": lambda entropy, mask, *, scale, **knobs: gates(
        entropy, mask, scale=entropy[~entropy.isnan()].max().item(), **knobs
    )[mask].mean(),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_rejects(mutant):
    with pytest.raises(AssertionError):
        check(lambda *tensors, **knobs: float(MUTANTS[mutant](*tensors, **knobs)))


@pytest.mark.parametrize("window", [0, 2])
def test_every_token_with_a_teacher_has_the_batchs_gate(window):
    """Token weight = ratio weight * .625 for all of them, however certain the teacher is; exactly 1 elsewhere."""
    generator = torch.Generator().manual_seed(0)
    student, teacher, entropy = (-torch.rand(2, 5, generator=generator) for _ in range(3))
    mask = torch.tensor([[True, True, False, True, True], [True, True, False, False, False]])
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 5)
    knobs = {"entropy_scale": 2.0, "gate_mean": GATE_MEAN, "mixing": 1.0, "clip_range": 0.2, "window": window}
    found = {
        gate: token_weights(student, teacher, -entropy, advantages, mask, gate=gate, gamma=0.9, floor=0.1, **knobs)
        for gate in ("token", "mean")
    }
    assert torch.equal(found["mean"].ratio, found["token"].ratio)
    assert torch.equal(found["mean"].token[mask], found["mean"].ratio[mask] * GATE_MEAN)
    assert torch.equal(found["mean"].gate[mask], torch.full((6,), GATE_MEAN))
    assert (found["mean"].token[~mask] == 1).all() and (found["token"].gate[mask] != GATE_MEAN).all()


def test_the_preset_is_egrsd_with_that_key_alone():
    egrsd, control = settings(), settings("egrsd_mean_gate")
    assert {name for name in vars(egrsd) if getattr(egrsd, name) != getattr(control, name)} == {"gate"}
    assert settings("cl_egrsd", gate="mean").window == 3
