"""recipe/egrsd/method/weights.py against hand arithmetic, loop oracles and RLSD's published formula."""

import math

import pytest
import reference
import torch
from formula_checks import ATOL, GOLDEN, assert_tokens_close, check_all, golden_batch, token_advantages
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Batch, batches, few, num_cases, small_batches

from recipe.egrsd.method import weights

# ---------------------------------------------------------------- golden values


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
