"""Lookahead over the teacher's entropy, the scale of a batch, the gate: functions of recipe/egrsd/method/weights.py."""

import itertools
import math

import pytest
import torch
from formula_checks import ATOL
from hypothesis import given
from hypothesis import strategies as st
from strategies import GAMMAS, Batch, few, num_cases, small_batches

from recipe.egrsd.method import weights

# ---------------------------------------------------------------- lookahead


@few
@given(small_batches().filter(num_cases), st.sampled_from([0, 1, 2, 3]), st.data())
def test_lookahead_reads_only_its_window(batch: Batch, window: int, data: st.DataObject):
    """Changing one token moves no result but those of the same row at most `window` positions before it."""
    i, s = data.draw(st.sampled_from(batch.response_mask.nonzero().tolist()))
    changed = batch.entropy.clone()
    changed[i, s] = data.draw(st.sampled_from([0.0, changed[i, s].item() + 5.0]))
    before, after = (
        weights.lookahead_entropy(values, batch.response_mask, window=window) for values in (batch.entropy, changed)
    )
    may_move = torch.zeros_like(batch.response_mask)
    may_move[i, max(0, s - window) : s + 1] = True
    kept = batch.response_mask & ~may_move
    assert torch.equal(before[kept], after[kept])


def test_lookahead_reads_its_whole_window():
    """A drop at position 4 is seen from 4 - window on, not earlier."""
    entropy = torch.full((1, 6), 2.0)
    entropy[0, 4] = 0.5
    result = weights.lookahead_entropy(entropy, torch.ones(1, 6, dtype=torch.bool), window=3)
    assert result.tolist() == [[2.0, 0.5, 0.5, 0.5, 0.5, 2.0]]


def test_lookahead_skips_a_hole_and_goes_on_behind_it():
    entropy = torch.tensor([[3.0, 0.0, 1.0, 2.0]])
    mask = torch.tensor([[True, False, True, True]])
    result = weights.lookahead_entropy(entropy, mask, window=2)
    assert result[mask].tolist() == [1.0, 1.0, 2.0]  # the hole's 0 is nowhere; it uses up one position of the window
    assert weights.lookahead_entropy(entropy, mask, window=1)[mask].tolist() == [3.0, 1.0, 2.0]


@few
@given(small_batches())
def test_lookahead_of_window_0_is_the_entropy(batch: Batch):
    result = weights.lookahead_entropy(batch.entropy, batch.response_mask, window=0)
    assert torch.equal(result[batch.response_mask], batch.entropy[batch.response_mask])


@few
@given(small_batches())
def test_a_longer_window_never_raises_the_entropy(batch: Batch):
    mask = batch.response_mask
    results = [weights.lookahead_entropy(batch.entropy, mask, window=w)[mask] for w in (0, 1, 2, 4, 400)]
    for shorter, longer in itertools.pairwise(results):
        assert (longer <= shorter).all()


@pytest.mark.parametrize("window", [-1, -5])
def test_a_negative_window_is_refused(window: int):
    with pytest.raises(ValueError, match=rf"window={window}.*window >= 0"):
        weights.lookahead_entropy(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), window=window)


# ---------------------------------------------------------------- scale and gate


@pytest.mark.parametrize("min_nats", [1.0, 0.25])
def test_the_scale_of_an_empty_mask_is_min_nats(min_nats: float):
    entropy = torch.tensor([[9.0, math.nan, math.inf]])
    scale = weights.entropy_scale(entropy, torch.zeros(1, 3, dtype=torch.bool), min_nats=min_nats)
    assert scale.shape == () and scale == min_nats


def test_the_scale_is_one_number_for_all_rows():
    entropy, mask = torch.tensor([[0.5, 4.0], [2.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    assert weights.entropy_scale(entropy, mask) == 4.0


def test_a_nan_under_the_mask_is_not_hidden():
    entropy, mask = torch.tensor([[0.5, math.nan, 0.1]]), torch.ones(1, 3, dtype=torch.bool)
    assert weights.entropy_scale(entropy, mask).isnan()
    assert weights.lookahead_entropy(entropy, mask, window=2).isnan().tolist() == [[True, True, False]]
    assert weights.entropy_gate(entropy, 1.0, gamma=0.3).isnan().tolist() == [[False, True, False]]


@few
@given(small_batches())
def test_the_gate_lies_between_floor_and_1(batch: Batch):
    scale = weights.entropy_scale(batch.entropy, batch.response_mask, min_nats=batch.min_nats)
    gate = weights.entropy_gate(batch.entropy, scale, gamma=batch.gamma, floor=batch.floor)[batch.response_mask]
    assert (gate >= torch.tensor(batch.floor)).all() and (gate <= 1.0).all()


@few
@given(
    st.lists(st.floats(0.0, 12.0, width=32), min_size=2, max_size=20),
    st.sampled_from(GAMMAS),
    st.floats(1.0, 12.0, width=32),
)
def test_the_gate_never_rises_with_entropy(values: list[float], gamma: float, scale: float):
    gate = weights.entropy_gate(torch.tensor([sorted(values)]), scale, gamma=gamma)
    assert (gate.diff() <= 0).all()


def test_the_most_uncertain_token_of_a_confident_batch_is_not_floored():
    """Entropies far below 1 nat are measured against 1 nat, not against their own maximum: 1 - 1 * 0.05 / 1 = 0.95."""
    entropy, mask = torch.tensor([[0.01, 0.05]]), torch.ones(1, 2, dtype=torch.bool)
    gate = weights.entropy_gate(entropy, weights.entropy_scale(entropy, mask), gamma=1.0)
    torch.testing.assert_close(gate, torch.tensor([[0.99, 0.95]]), atol=ATOL, rtol=0)
