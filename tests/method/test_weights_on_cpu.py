"""recipe/egrsd/method/weights.py against hand arithmetic, loop oracles and the properties the paper claims.

Every ``check_*`` takes the function under test, so that test_mutants_on_cpu.py can show that it rejects wrong versions.
Tolerances are absolute: 1e-6, or equality where the definition leaves no rounding.
"""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import GAMMAS, Batch, batches, num_cases, small_batches
from torch import Tensor

from recipe.egrsd.method import weights

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
ATOL = 1e-6

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)


# ---------------------------------------------------------------- checks, shared with test_mutants_on_cpu.py


def assert_tokens_close(actual: Tensor, expected: list[list[float | None]], mask: Tensor) -> None:
    """Compares the positions under the mask; the oracle holds a number for each of them."""
    assert actual.shape == mask.shape, f"shape {tuple(actual.shape)}, expected {tuple(mask.shape)}"
    wanted = [
        v for row, tokens in zip(expected, mask.tolist(), strict=True) for v, m in zip(row, tokens, strict=True) if m
    ]
    torch.testing.assert_close(actual[mask].double(), torch.tensor(wanted, dtype=torch.float64), atol=ATOL, rtol=0)


def check_ratio_weight(ratio_weight: Callable[..., Tensor], batch: Batch) -> None:
    student, teacher, advantages = batch.student_log_probs, batch.teacher_log_probs, batch.advantages
    row_advantages = [row[0] if row else 0.0 for row in advantages.tolist()]
    expected = reference.ratio_weight(student.tolist(), teacher.tolist(), row_advantages, batch.clip_range)
    actual = ratio_weight(student, teacher, advantages, clip_range=batch.clip_range)
    assert_tokens_close(actual, expected, batch.response_mask)


def check_lookahead_entropy(lookahead_entropy: Callable[..., Tensor], batch: Batch) -> None:
    expected = reference.lookahead_entropy(batch.entropy.tolist(), batch.response_mask.tolist(), batch.window)
    actual = lookahead_entropy(batch.entropy, batch.response_mask, window=batch.window)
    assert_tokens_close(actual, expected, batch.response_mask)


def check_entropy_scale(entropy_scale: Callable[..., Tensor], batch: Batch) -> None:
    expected = reference.entropy_scale(batch.entropy.tolist(), batch.response_mask.tolist(), batch.min_nats)
    actual = entropy_scale(batch.entropy, batch.response_mask, min_nats=batch.min_nats)
    assert actual.shape == ()
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), atol=ATOL, rtol=0)


def check_entropy_gate(entropy_gate: Callable[..., Tensor], batch: Batch) -> None:
    scale = reference.entropy_scale(batch.entropy.tolist(), batch.response_mask.tolist(), batch.min_nats)
    expected = reference.entropy_gate(batch.entropy.tolist(), scale, batch.gamma, batch.floor)
    for given_scale in (scale, torch.tensor(scale)):  # both forms of the argument
        actual = entropy_gate(batch.entropy, given_scale, gamma=batch.gamma, floor=batch.floor)
        assert_tokens_close(actual, expected, batch.response_mask)


def token_advantages(batch: Batch) -> Tensor:
    """A * w * g, put together from the four functions as the paper's Alg. 1 does."""
    weight = weights.ratio_weight(
        batch.student_log_probs, batch.teacher_log_probs, batch.advantages, clip_range=batch.clip_range
    )
    entropy = weights.lookahead_entropy(batch.entropy, batch.response_mask, window=batch.window)
    scale = weights.entropy_scale(batch.entropy, batch.response_mask, min_nats=batch.min_nats)
    return batch.advantages * weight * weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)


def check_token_advantages(token_advantages: Callable[[Batch], Tensor], batch: Batch) -> None:
    expected = reference.token_advantages(
        batch.student_log_probs.tolist(),
        batch.teacher_log_probs.tolist(),
        batch.entropy.tolist(),
        batch.response_mask.tolist(),
        [row[0] if row else 0.0 for row in batch.advantages.tolist()],
        gamma=batch.gamma,
        window=batch.window,
        clip_range=batch.clip_range,
        floor=batch.floor,
        min_nats=batch.min_nats,
    )
    assert_tokens_close(token_advantages(batch), expected, batch.response_mask)


def check_all(batch: Batch) -> None:
    check_ratio_weight(weights.ratio_weight, batch)
    check_lookahead_entropy(weights.lookahead_entropy, batch)
    check_entropy_scale(weights.entropy_scale, batch)
    check_entropy_gate(weights.entropy_gate, batch)
    check_token_advantages(token_advantages, batch)


# ---------------------------------------------------------------- golden values


def golden_batch(case: dict) -> Batch:
    """The two responses of golden.json, of 5 and 3 tokens; NaN under the padding."""

    def padded(rows: list[list[float]], fn: Callable[[float], float] = float) -> Tensor:
        return torch.tensor([[fn(v) for v in row] + [math.nan] * (5 - len(row)) for row in rows])

    student = padded(GOLDEN["student_probs"], math.log)
    return Batch(
        student_log_probs=student,
        teacher_log_probs=padded(GOLDEN["teacher_probs"], math.log),
        entropy=padded(GOLDEN["teacher_entropy_nats"]),
        response_mask=~student.isnan(),
        advantages=torch.tensor(GOLDEN["advantages"]).unsqueeze(-1).expand(2, 5),
        window=case["window"],
        gamma=case["gamma"],
        floor=GOLDEN["floor"],
        clip_range=GOLDEN["clip_range"],
        min_nats=GOLDEN["min_entropy_scale"],
    )


# The case gamma = 0.3, window = 3 by hand.
#   response 1: A = +0.75, so w = p_T / p_S, clipped to 0.8 ... 1.2:
#     .90/.80 = 1.125   .20/.40 = .5 -> .8   .50/.50 = 1   .99/.90 = 1.1   .60/.40 = 1.5 -> 1.2
#   response 2: A = -1.25, so w = p_S / p_T:
#     .60/.30 = 2 -> 1.2   .70/.80 = .875   .30/.10 = 3 -> 1.2
#   scale: largest entropy of both responses is 2.0 > 1 nat, so 2.0
#   minimum over t ... t+3, cut at the end of the response:
#     [.05 2.0 1.5 .02 .8] -> [.02 .02 .02 .02 .8]      [1.0 .4 1.8] -> [.4 .4 1.8]
#   g = 1 - .3 H / 2: .02 -> .997   .8 -> .88   .4 -> .94   1.8 -> .73
#   A w g: .75 * 1.125 * .997 = .84121875   .75 * .8 * .997 = .5982   .75 * .997 = .74775
#          .75 * 1.1 * .997 = .822525       .75 * 1.2 * .88 = .792
#          -1.25 * 1.2 * .94 = -1.41        -1.25 * .875 * .94 = -1.028125   -1.25 * 1.2 * .73 = -1.095
#   loss = -(.84121875 ln .8 + .5982 ln .4 + .74775 ln .5 + .822525 ln .9 + .792 ln .4
#            - 1.41 ln .6 - 1.028125 ln .7 - 1.095 ln .3) / 8
#        = -(-.187713 - .548125 - .518301 - .086662 - .725702 + .720264 + .366702 + 1.318355) / 8
#        = -.338818 / 8 = -.042352
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"gamma={case['gamma']},window={case['window']}")
def test_golden_values(case: dict):
    batch = golden_batch(case)
    mask = batch.response_mask
    padded = {
        key: [row + [None] * (5 - len(row)) for row in case[key]]
        for key in ("ratio_weight", "gate", "token_advantages")
    }

    weight = weights.ratio_weight(batch.student_log_probs, batch.teacher_log_probs, batch.advantages, clip_range=0.2)
    assert_tokens_close(weight, padded["ratio_weight"], mask)
    scale = weights.entropy_scale(batch.entropy, mask)
    torch.testing.assert_close(scale, torch.tensor(case["entropy_scale"]), atol=ATOL, rtol=0)
    entropy = weights.lookahead_entropy(batch.entropy, mask, window=case["window"])
    assert_tokens_close(weights.entropy_gate(entropy, scale, gamma=case["gamma"]), padded["gate"], mask)
    assert_tokens_close(token_advantages(batch), padded["token_advantages"], mask)
    loss = -(token_advantages(batch)[mask] * batch.student_log_probs[mask]).sum() / 8
    torch.testing.assert_close(loss, torch.tensor(case["loss"]), atol=ATOL, rtol=0)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"gamma={case['gamma']},window={case['window']}")
def test_the_oracle_knows_the_golden_values(case: dict):
    student = [[math.log(p) for p in row] for row in GOLDEN["student_probs"]]
    teacher = [[math.log(p) for p in row] for row in GOLDEN["teacher_probs"]]
    mask = [[True] * len(row) for row in student]
    args = (student, teacher, GOLDEN["teacher_entropy_nats"], mask, GOLDEN["advantages"])
    result = reference.token_advantages(*args, gamma=case["gamma"], window=case["window"])
    for row, expected in zip(result, case["token_advantages"], strict=True):
        assert row == pytest.approx(expected, abs=1e-12, rel=0)
    assert reference.token_mean_loss(result, student, mask) == pytest.approx(case["loss"], abs=1e-12, rel=0)


def test_defaults_are_the_papers():
    """clip_range = 0.2, floor = 0.1, min_nats = 1."""
    teacher, student = torch.zeros(1, 1), torch.full((1, 1), -9.0)
    torch.testing.assert_close(weights.ratio_weight(student, teacher, torch.ones(1, 1)), torch.tensor([[1.2]]))
    torch.testing.assert_close(weights.entropy_gate(torch.ones(1, 1), 1.0, gamma=1.0), torch.tensor([[0.1]]))
    assert weights.entropy_scale(torch.tensor([[0.3]]), torch.tensor([[True]])) == 1.0


# ---------------------------------------------------------------- agreement with the loops


def test_agrees_with_the_loops_on_10_000_rows():
    """One case = one row with at least one token, compared token by token in all five checks; repeats don't count."""
    seen: set[tuple] = set()
    num_compared = 0

    @settings(max_examples=320, deadline=None, derandomize=True, database=None)
    @given(batches())
    def compare(batch: Batch) -> None:
        nonlocal num_compared
        check_all(batch)
        num_compared += num_cases(batch)
        knobs = (batch.window, batch.gamma, batch.floor, batch.clip_range, batch.min_nats)
        columns = (batch.student_log_probs, batch.teacher_log_probs, batch.entropy, batch.advantages)
        for i, mask in enumerate(batch.response_mask):
            if mask.any():
                seen.add((*knobs, *(tuple(column[i][mask].tolist()) for column in columns)))

    compare()
    assert len(seen) >= 10_000, f"{len(seen)} different rows of {num_compared}"


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(small_batches())
def test_agrees_with_the_loops_on_small_batches(batch: Batch):
    check_all(batch)


@few
@given(batches(), st.sampled_from([1.0, 0.5, 0.25, 0.0]))
def test_without_the_gate_it_is_rlsds_update(batch: Batch, mixing: float):
    """gamma = 0 against RLSD's published formula; mixing 1 is RLSD without its schedule."""
    advantages = [row[0] if row else 0.0 for row in batch.advantages.tolist()]
    student, teacher = batch.student_log_probs, batch.teacher_log_probs
    expected = reference.rlsd_token_advantages(
        student.tolist(), teacher.tolist(), advantages, clip_range=batch.clip_range, mixing=mixing
    )
    entropy = weights.lookahead_entropy(batch.entropy, batch.response_mask, window=batch.window)
    scale = weights.entropy_scale(batch.entropy, batch.response_mask, min_nats=batch.min_nats)
    gate = weights.entropy_gate(entropy, scale, gamma=0.0, floor=batch.floor)
    ratio = weights.ratio_weight(student, teacher, batch.advantages, clip_range=batch.clip_range)
    assert_tokens_close(
        batch.advantages * weights.mixed_weight(ratio, mixing=mixing) * gate, expected, batch.response_mask
    )


def test_mixing_by_hand():
    weight = torch.tensor([[0.8, 1.0, 1.2]])
    torch.testing.assert_close(
        weights.mixed_weight(weight, mixing=0.5), torch.tensor([[0.9, 1.0, 1.1]]), atol=1e-7, rtol=0
    )
    assert torch.equal(weights.mixed_weight(weight, mixing=1.0), weight)
    assert weights.mixed_weight(weight, mixing=0.0).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0)])
@pytest.mark.parametrize("window", [0, 2])
def test_a_batch_without_rows_or_positions(shape: tuple[int, int], window: int):
    values, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    assert weights.ratio_weight(values, values, values).shape == shape
    assert weights.lookahead_entropy(values, mask, window=window).shape == shape
    assert weights.entropy_scale(values, mask) == 1.0
    assert weights.entropy_gate(values, 1.0, gamma=0.3).shape == shape


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


def test_arguments_are_not_changed():
    entropy, mask = torch.tensor([[3.0, math.nan, 1.0]]), torch.tensor([[True, False, True]])
    before = entropy.clone()
    weights.lookahead_entropy(entropy, mask, window=2)
    weights.entropy_scale(entropy, mask)
    weights.entropy_gate(entropy, 3.0, gamma=1.0)
    weights.ratio_weight(entropy, entropy, entropy)
    torch.testing.assert_close(entropy, before, atol=0, rtol=0, equal_nan=True)


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


# ---------------------------------------------------------------- gradients and dtypes


@pytest.mark.parametrize("window", [0, 1, 3])
def test_every_result_is_detached(window: int):
    student, teacher, entropy, advantages = (torch.rand(2, 4, requires_grad=True) for _ in range(4))
    mask = torch.ones(2, 4, dtype=torch.bool)
    results = [
        weights.ratio_weight(student, teacher, advantages),
        weights.lookahead_entropy(entropy, mask, window=window),
        weights.entropy_scale(entropy, mask),
        weights.entropy_gate(entropy, weights.entropy_scale(entropy, mask), gamma=0.3),
    ]
    assert not any(result.requires_grad for result in results)


def test_the_gradient_of_the_loss_is_minus_the_token_advantage():
    """No gradient reaches the teacher, and none the student through w: dL/dlog p = -A w g / number of tokens."""
    student = torch.tensor([[-0.5, -1.0, -2.0]], requires_grad=True)
    teacher = torch.tensor([[-0.4, -1.2, -2.0]], requires_grad=True)
    entropy = torch.tensor([[0.5, 2.0, 1.0]], requires_grad=True)
    mask, advantages = torch.tensor([[True, True, True]]), torch.full((1, 3), -0.7)
    batch = Batch(student, teacher, entropy, mask, advantages, 1, 0.3, 0.1, 0.2, 1.0)
    (-(token_advantages(batch) * student).sum() / 3).backward()
    torch.testing.assert_close(student.grad, -token_advantages(batch) / 3, atol=ATOL, rtol=0)
    assert teacher.grad is None and entropy.grad is None


FLOATS = {"student_log_probs", "teacher_log_probs", "advantages"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
@pytest.mark.parametrize("name", sorted(FLOATS))
def test_ratio_weight_refuses_other_dtypes_by_name(name: str, dtype: torch.dtype):
    tensors: dict[str, Any] = {other: torch.zeros(1, 2) for other in FLOATS} | {name: torch.zeros(1, 2, dtype=dtype)}
    with pytest.raises(TypeError, match=rf"^{name} is {dtype}.*float32"):
        weights.ratio_weight(**tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_entropy_of_another_dtype_is_refused_by_name(dtype: torch.dtype):
    entropy, mask = torch.zeros(1, 2, dtype=dtype), torch.ones(1, 2, dtype=torch.bool)
    calls = [
        lambda: weights.lookahead_entropy(entropy, mask, window=0),
        lambda: weights.lookahead_entropy(entropy, mask, window=1),
        lambda: weights.entropy_scale(entropy, mask),
        lambda: weights.entropy_gate(entropy, 1.0, gamma=0.3),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"^entropy is {dtype}.*float32"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_a_mask_that_is_not_bool_is_refused(dtype: torch.dtype):
    entropy, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=dtype)
    calls = [
        lambda: weights.lookahead_entropy(entropy, mask, window=0),
        lambda: weights.lookahead_entropy(entropy, mask, window=1),
        lambda: weights.entropy_scale(entropy, mask),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"^response_mask is {dtype}.*\.bool\(\)"):
            call()
