"""Means over the tokens of a step, from sums over the tokens of its micro-batches.

Sums, because a mean of means would depend on how the batch was split. B  responses      T  response positions
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recipe.egrsd.method.weights import TokenWeights

OF_PULL = ("divergence_mean", "clipped_entries_frac", "clipped_tokens_frac", "propagation_mean")
OF_STUDENT = ("student_surprise_mean", "rollout_probs_diff_mean")


def student_sums(per_token: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Sums over the sampled tokens of a micro-batch; token_means turns their totals over micro-batches and ranks into
    means.

    Args:
        per_token: values, each (B, T).
        mask: (B, T) bool.
    """
    return _sums(per_token, mask) | {"num_tokens": mask.sum().float()}


def teacher_sums(log_ratio: Tensor, per_token: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """The same over the tokens that have a teacher.

    Args:
        log_ratio: (B, T) log p_T - log p_S, nats.
        per_token: more values, each (B, T).
        mask: (B, T) bool.
    """
    first = mask & (mask.cumsum(-1) == 1)
    sums = _sums({"log_ratio_mean": log_ratio, "log_ratio_abs_mean": log_ratio.abs(), **per_token}, mask)
    sums |= _sums({"first_token_log_ratio": log_ratio}, first)
    return sums | {"num_taught_tokens": mask.sum().float(), "num_responses": first.sum().float()}


def _sums(per_token: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    return {name: torch.where(mask, value.float(), 0.0).sum() for name, value in per_token.items()}


def pull_sums(per_token: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """The same over the tokens that a divergence pulls; arguments as of student_sums."""
    return _sums(per_token, mask) | {"num_pulled_tokens": mask.sum().float()}


def token_means(sums: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a step from the totals of student_sums, teacher_sums and pull_sums over all micro-batches and ranks; a
    mean over nothing is left out."""
    counts = dict.fromkeys(OF_STUDENT, "num_tokens") | dict.fromkeys(OF_PULL, "num_pulled_tokens")
    counts |= {"first_token_log_ratio": "num_responses", "clip_removed": "positive_shares"}
    totals = {name: (total, sums[counts.get(name, "num_taught_tokens")]) for name, total in sums.items()}
    return {
        f"egrsd/{name}": total / count
        for name, (total, count) in totals.items()
        if count and not name.startswith(("num_", "positive_"))
    }


def weight_metrics(weights: TokenWeights, *, clip_range: float, floor: float) -> dict[str, Tensor]:
    """What is logged of a micro-batch's weights, each (B, T); nothing of a part that they lack."""
    logged = {"token_weight_mean": weights.token}
    if weights.added is not None:
        logged |= {"added_abs_mean": weights.added.abs(), "added_frac": weights.added != 0}
    if weights.gate is not None:
        logged |= {"gate_mean": weights.gate, "gate_floor_frac": weights.gate <= floor}
        if weights.gate_without_lookahead is not None:
            logged["lookahead_restored_mean"] = weights.gate - weights.gate_without_lookahead
    if weights.ratio is not None:
        logged |= {
            "ratio_weight_mean": weights.ratio,
            "ratio_clip_low_frac": weights.ratio <= 1.0 - clip_range,
            "ratio_clip_high_frac": weights.ratio >= 1.0 + clip_range,
        }
    return logged
