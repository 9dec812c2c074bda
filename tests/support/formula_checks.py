"""The papers' formulas against their oracle. Every ``check_*`` takes the function under test, so that
test_mutants_on_cpu.py can show that it rejects wrong versions.

Tolerances are absolute: 1e-6, or equality where the definition leaves no rounding.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from strategies import Batch, Rewards, Scores
from torch import Tensor

from recipe.egrsd.method import weights
from recipe.egrsd.method.advantage import RunningBaseline

GOLDEN = json.loads((Path(__file__).parents[1] / "method" / "golden.json").read_text())
ATOL = 1e-6


# ---------------------------------------------------------------- weights


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


# ---------------------------------------------------------------- reward and baseline


def check_shaped_reward(shaped_reward: Callable[..., Tensor], scores: Scores) -> None:
    correct, length, knobs = scores.correct, scores.length, (scores.max_length, scores.length_bonus)
    expected = reference.shaped_reward(correct.tolist(), length.tolist(), *knobs)
    actual = shaped_reward(correct, length, max_length=scores.max_length, length_bonus=scores.length_bonus)
    assert actual.shape == correct.shape and actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), atol=ATOL, rtol=0)


def run_baseline(rewards: Rewards) -> list[list[float]]:
    """Advantages of each training step, asked for before the step's own rewards are added."""
    baseline = RunningBaseline(rewards.warmup_steps, rewards.warmup_mean, rewards.min_std)
    result = []
    for step in rewards.steps:
        result.append(baseline.advantages(torch.tensor(step)).tolist())
        baseline.update(torch.tensor(step))
    return result


def check_running_baseline(run_baseline: Callable[[Rewards], list[list[float]]], rewards: Rewards) -> None:
    expected = reference.running_advantages(*rewards)
    actual = run_baseline(rewards)
    assert [len(step) for step in actual] == [len(step) for step in expected]
    for step, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        assert found == pytest.approx(wanted, abs=ATOL, rel=0), f"step {step}"
