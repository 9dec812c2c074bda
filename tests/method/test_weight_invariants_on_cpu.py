"""What holds of every token's weight: identities of the formulas, and what the results must not depend on (padding, the
order of the rows, micro-batches)."""

import math

import pytest
import torch
from formula_checks import ATOL, token_advantages
from hypothesis import given
from hypothesis import strategies as st
from strategies import Batch, batches, few, small_batches

from recipe.egrsd.method import weights

# ---------------------------------------------------------------- identities


@few
@given(small_batches())
def test_switched_off_every_weight_is_exactly_1(batch: Batch):
    """gamma = 0 and clip_range = 0 leave the advantages bit for bit."""
    mask = batch.response_mask
    ones = torch.ones(int(mask.sum()))
    weight = weights.ratio_weight(batch.student_log_probs, batch.teacher_log_probs, batch.advantages, clip_range=0.0)
    assert torch.equal(weight[mask], ones)
    scale = weights.entropy_scale(batch.entropy, mask)
    assert torch.equal(weights.entropy_gate(batch.entropy, scale, gamma=0.0)[mask], ones)
    assert torch.equal(token_advantages(batch._replace(gamma=0.0, clip_range=0.0))[mask], batch.advantages[mask])


@few
@given(small_batches())
def test_where_both_agree_only_the_gate_is_left(batch: Batch):
    batch = batch._replace(teacher_log_probs=batch.student_log_probs, gamma=0.0)
    assert torch.equal(token_advantages(batch)[batch.response_mask], batch.advantages[batch.response_mask])


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_an_advantage_of_0_gives_weight_1(zero: float):
    student, teacher = torch.tensor([[-0.1, -80.0, -5.0]]), torch.tensor([[-80.0, -0.1, -5.0]])
    assert torch.equal(weights.ratio_weight(student, teacher, torch.full((1, 3), zero)), torch.ones(1, 3))


@few
@given(small_batches())
def test_only_the_sign_of_the_advantage_counts(batch: Batch):
    args = batch.student_log_probs, batch.teacher_log_probs
    weight = weights.ratio_weight(*args, batch.advantages)[batch.response_mask]
    of_sign = weights.ratio_weight(*args, batch.advantages.sign() * 7.0)[batch.response_mask]
    assert torch.equal(weight, of_sign)


@few
@given(small_batches())
def test_swapping_student_and_teacher_is_flipping_the_sign(batch: Batch):
    student, teacher, mask = batch.student_log_probs, batch.teacher_log_probs, batch.response_mask
    swapped = weights.ratio_weight(teacher, student, batch.advantages)[mask]
    assert torch.equal(swapped, weights.ratio_weight(student, teacher, -batch.advantages)[mask])


# ---------------------------------------------------------------- what the results must not depend on


@few
@given(small_batches(), st.sampled_from([0.0, math.nan, math.inf, -math.inf]))
def test_what_lies_under_the_mask_is_never_read(batch: Batch, filler: float):
    mask = batch.response_mask
    changed = batch._replace(
        **{
            name: torch.where(mask, getattr(batch, name), filler)
            for name in ("student_log_probs", "teacher_log_probs", "entropy", "advantages")
        }
    )
    assert torch.equal(token_advantages(batch)[mask], token_advantages(changed)[mask])


@few
@given(small_batches(), st.integers(1, 20), st.sampled_from([0.0, math.nan, math.inf]))
def test_right_padding_changes_nothing(batch: Batch, num_pad: int, filler: float):
    tensors = ("student_log_probs", "teacher_log_probs", "entropy", "advantages")
    longer = batch._replace(
        response_mask=torch.nn.functional.pad(batch.response_mask, (0, num_pad), value=False),
        **{name: torch.nn.functional.pad(getattr(batch, name), (0, num_pad), value=filler) for name in tensors},
    )
    before, after = token_advantages(batch)[batch.response_mask], token_advantages(longer)[longer.response_mask]
    torch.testing.assert_close(before, after, atol=ATOL, rtol=0)


@few
@given(small_batches(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(batch: Batch, rng):
    order = list(range(batch.response_mask.size(0)))
    rng.shuffle(order)
    tensors = ("student_log_probs", "teacher_log_probs", "entropy", "advantages", "response_mask")
    shuffled = batch._replace(**{name: getattr(batch, name)[order] for name in tensors})
    before, after = token_advantages(batch)[order], token_advantages(shuffled)
    torch.testing.assert_close(before[shuffled.response_mask], after[shuffled.response_mask], atol=ATOL, rtol=0)


@few
@given(batches())
def test_micro_batches_agree_with_the_whole_once_the_scale_is_shared(batch: Batch):
    mask, half = batch.response_mask, batch.response_mask.size(0) // 2
    scale = weights.entropy_scale(batch.entropy, mask)
    parts = [weights.entropy_scale(batch.entropy[rows], mask[rows]) for rows in (slice(half), slice(half, None))]
    assert scale == max(parts)
    whole = weights.lookahead_entropy(batch.entropy, mask, window=batch.window)
    split = [
        weights.lookahead_entropy(batch.entropy[rows], mask[rows], window=batch.window)
        for rows in (slice(half), slice(half, None))
    ]
    assert torch.equal(whole[mask], torch.cat(split)[mask])


def test_arguments_are_not_changed():
    entropy, mask = torch.tensor([[3.0, math.nan, 1.0]]), torch.tensor([[True, False, True]])
    before = entropy.clone()
    weights.lookahead_entropy(entropy, mask, window=2)
    weights.entropy_scale(entropy, mask)
    weights.entropy_gate(entropy, 3.0, gamma=1.0)
    weights.ratio_weight(entropy, entropy, entropy)
    torch.testing.assert_close(entropy, before, atol=0, rtol=0, equal_nan=True)
