"""No gradient flows through a token's weight, and a tensor of another dtype is refused by its name."""

from typing import Any

import pytest
import torch
from formula_checks import ATOL, token_advantages
from strategies import Batch

from recipe.egrsd.method import weights


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
