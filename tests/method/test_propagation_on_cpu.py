"""DASH's coefficients: the published numbers, float64 loops, the paper's backward recursion, and wrong versions."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipe.egrsd.method.pull import propagation

KAPPA = 5.0
PUBLISHED = [0.01, 0.09, 0.02, 0.04]
"""Mean .04; gates sigma(-5 (r - .04)) = sigma(.15), sigma(-.25), sigma(.1) = .537430, .437823, .524979."""
COEFFICIENTS = [1.0, 1.537430, 1.673123, 1.878355]
"""1 + .537430, 1 + .437823 * 1.537430, 1 + .524979 * 1.673123."""
LOSS = 0.064241
"""(.01 + 1.537430 * .09 + 1.673123 * .02 + 1.878355 * .04) / 4; the plain mean is .04."""


def check(function: Callable[..., Tensor]) -> None:
    """Beside another response, and with a tool's token in between: neither changes anything."""
    rows = torch.tensor([[*PUBLISHED, 9.0], [*PUBLISHED[:2], 9.0, *PUBLISHED[2:]], [0.5, 0.1, 9.0, 9.0, 9.0]])
    pulled = rows < 9
    found = function(rows, pulled, kappa=KAPPA)
    for row, mask in zip(found[:2], pulled[:2], strict=True):
        assert row[mask].tolist() == pytest.approx(COEFFICIENTS, abs=2e-6)
    # 1 + sigma(-5 (.5 - .3)) = 1 + sigma(-1)
    assert found[2, :2].tolist() == pytest.approx([1.0, 1.268941], abs=2e-6)
    assert (found[0, :4] * rows[0, :4]).mean().item() == pytest.approx(LOSS, abs=1e-6)


def test_the_published_numbers():
    check(propagation)
    for kappa, gate in ((0.0, 0.5), (1e4, None)):  # no adaptation: every gate is 1/2; a hard one: 1 below the mean
        found = propagation(torch.tensor([PUBLISHED]), torch.ones(1, 4, dtype=torch.bool), kappa=kappa)[0].tolist()
        expected = [1.0, 1.5, 1.75, 1.875] if gate else [1.0, 2.0, 1.0, 2.0]
        assert found == pytest.approx(expected, abs=1e-6)


def loops(divergence: list[float], pulled: list[bool], kappa: float) -> list[float | None]:
    """The definition, in float64; None where nothing is pulled."""
    counted = [r for r, counts in zip(divergence, pulled, strict=True) if counts]
    mean, found, handed = math.fsum(counted) / max(1, len(counted)), [], 0.0
    for r, counts in zip(divergence, pulled, strict=True):
        found.append(1 + handed if counts else None)
        if counts:
            handed = found[-1] / (1 + math.exp(kappa * (r - mean)))
    return found


def backward(divergence: list[float], kappa: float) -> float:
    """The sum of the paper's A = r + gate * A, the last of the next token."""
    mean, total, ahead = math.fsum(divergence) / len(divergence), 0.0, 0.0
    for r in reversed(divergence):
        ahead = r + ahead / (1 + math.exp(kappa * (r - mean)))
        total += ahead
    return total


row = st.lists(st.tuples(st.floats(-0.5, 2, width=32), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=300, deadline=None)
@given(st.lists(row, min_size=1, max_size=4), st.sampled_from([0.0, 0.5, 5.0, 20.0]))
@example([[(0.1, True)] * 40, [(0.1, False)]], 0.0)
def test_it_is_the_definition_of_each_response_by_itself(rows, kappa):
    """Responses of several lengths with holes; what is not pulled may be NaN."""
    length = max(map(len, rows))
    values, pulled = torch.full((len(rows), length), torch.nan), torch.zeros(len(rows), length, dtype=torch.bool)
    for i, tokens in enumerate(rows):
        pulled[i, : len(tokens)] = torch.tensor([counts for _, counts in tokens])
        values[i, : len(tokens)] = torch.tensor([r if counts else math.nan for r, counts in tokens])
    found = propagation(values, pulled, kappa=kappa)
    for i, tokens in enumerate(rows):
        divergence, counts = [r for r, _ in tokens], [c for _, c in tokens]
        expected = loops(divergence, counts, kappa)
        assert found[i, : len(tokens)][counts].tolist() == pytest.approx([c for c in expected if c], rel=1e-4)
        chosen = [r for r, c in tokens if c]
        if chosen:
            total = sum(c * r for c, r in zip(filter(None, expected), chosen, strict=True))
            assert total == pytest.approx(backward(chosen, kappa), abs=1e-9)


def test_no_gradient_flows_through_a_coefficient():
    values = torch.tensor([PUBLISHED], requires_grad=True)
    found = propagation(values, torch.ones(1, 4, dtype=torch.bool), kappa=KAPPA)
    assert not found.requires_grad
    (found * values).sum().backward()
    assert values.grad[0].tolist() == pytest.approx(COEFFICIENTS, abs=2e-6)


def variant(gate_of: Callable[..., float] | None = None, mean_of: Callable[..., float] | None = None) -> Callable:
    """The loops with one part exchanged."""

    def function(divergence: Tensor, pulled: Tensor, *, kappa: float) -> Tensor:
        every = divergence[pulled].tolist()
        found = torch.ones_like(divergence)
        for i, (values, counts) in enumerate(zip(divergence.tolist(), pulled.tolist(), strict=True)):
            own = [r for r, c in zip(values, counts, strict=True) if c]
            mean, handed = (mean_of or (lambda own, every: sum(own) / len(own)))(own, every), 0.0
            for t in [t for t, c in enumerate(counts) if c]:
                found[i, t] = 1 + handed
                gap = kappa * (values[t] - mean)
                handed = (gate_of or (lambda gap: 1 / (1 + math.exp(gap))))(gap) * found[i, t].item()
        return found

    return function


def current_tokens_gate(divergence: Tensor, pulled: Tensor, *, kappa: float) -> Tensor:
    found = torch.ones_like(divergence)
    for i, (values, counts) in enumerate(zip(divergence, pulled, strict=True)):
        mean, before = values[counts].mean(), 0.0
        for t in counts.nonzero()[1:, 0].tolist():
            before = 1 + torch.sigmoid(-kappa * (values[t] - mean)).item() * (before or 1.0)
            found[i, t] = before
    return found


def over_holes(divergence: Tensor, pulled: Tensor, *, kappa: float) -> Tensor:
    """A token that is not pulled ends the chain."""
    found = torch.ones_like(divergence)
    mean = torch.where(pulled, divergence, 0.0).sum(-1) / pulled.sum(-1)
    for t in range(1, divergence.size(-1)):
        gate = torch.sigmoid(-kappa * (divergence[:, t - 1] - mean))
        found[:, t] = torch.where(pulled[:, t - 1], 1 + gate * found[:, t - 1], 1.0)
    return found


def flipped(divergence: Tensor, pulled: Tensor, *, kappa: float) -> Tensor:
    return propagation(divergence.flip(-1), pulled.flip(-1), kappa=kappa).flip(-1)


def of_mean_1(divergence: Tensor, pulled: Tensor, *, kappa: float) -> Tensor:
    found = torch.where(pulled, propagation(divergence, pulled, kappa=kappa), 0.0)
    return found / found.sum(-1, keepdim=True) * pulled.sum(-1, keepdim=True)


MUTANTS = {
    "nothing": lambda divergence, pulled, *, kappa: torch.ones_like(divergence),
    "sign of the gap": variant(gate_of=lambda gap: 1 / (1 + math.exp(-gap))),
    "exponential gate": variant(gate_of=lambda gap: min(1.0, math.exp(-gap))),
    "mean of the micro-batch": variant(mean_of=lambda own, every: sum(every) / len(every)),
    "median": variant(mean_of=lambda own, every: sorted(own)[len(own) // 2]),
    "zero instead of the mean": variant(mean_of=lambda own, every: 0.0),
    "mean of all positions": lambda divergence, pulled, *, kappa: propagation(
        divergence, torch.ones_like(pulled), kappa=kappa
    ),
    "gate of the token itself": current_tokens_gate,
    "a hole ends the chain": over_holes,
    "from the end": flipped,
    "mean 1": of_mean_1,
}


def test_the_loops_behind_the_mutants_are_right_when_untouched():
    check(variant())


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_rejects(mutant):
    with pytest.raises(AssertionError):
        check(MUTANTS[mutant])
