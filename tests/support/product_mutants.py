"""Wrong ways to put a token's advantage together from weight, lookahead, scale and gate, each of which is right."""

from collections.abc import Callable

import torch
from strategies import Batch
from torch import Tensor
from weight_mutants import _ratio

from recipe.egrsd.method import weights


def _parts(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w, filtered entropy, scale, g of the real implementation."""
    args = batch.student_log_probs, batch.teacher_log_probs, batch.advantages
    entropy = weights.lookahead_entropy(batch.entropy, batch.response_mask, window=batch.window)
    scale = weights.entropy_scale(batch.entropy, batch.response_mask, min_nats=batch.min_nats)
    gate = weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)
    return weights.ratio_weight(*args, clip_range=batch.clip_range), entropy, scale, gate


def _scale_of_filtered_entropy(batch: Batch) -> Tensor:
    weight, entropy, _, _ = _parts(batch)
    scale = weights.entropy_scale(entropy, batch.response_mask, min_nats=batch.min_nats)
    return batch.advantages * weight * weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _scale_per_row(batch: Batch) -> Tensor:
    weight, entropy, _, _ = _parts(batch)
    largest = torch.where(batch.response_mask, batch.entropy, 0.0)
    if largest.numel():
        largest = largest.amax(dim=-1, keepdim=True)
    scale = largest.clamp(min=batch.min_nats)
    return batch.advantages * weight * weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _gate_inside_the_clip(batch: Batch) -> Tensor:
    log_ratio = batch.advantages.sign() * (batch.teacher_log_probs - batch.student_log_probs)
    inside = (log_ratio.exp() * _parts(batch)[3]).clamp(1 - batch.clip_range, 1 + batch.clip_range)
    return batch.advantages * inside


def _gate_scales_the_log_ratio(batch: Batch) -> Tensor:
    log_ratio = batch.advantages.sign() * (batch.teacher_log_probs - batch.student_log_probs)
    return batch.advantages * _ratio(log_ratio * _parts(batch)[3], batch.clip_range)


def _gate_of_raw_entropy(batch: Batch) -> Tensor:
    weight, _, scale, _ = _parts(batch)
    return batch.advantages * weight * weights.entropy_gate(batch.entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _gate_averages_raw_and_filtered_entropy(batch: Batch) -> Tensor:
    weight, entropy, scale, _ = _parts(batch)
    entropy = (entropy + batch.entropy) / 2
    return batch.advantages * weight * weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=batch.floor)


def _floor_of_the_product(batch: Batch) -> Tensor:
    weight, entropy, scale, _ = _parts(batch)
    gate = weights.entropy_gate(entropy, scale, gamma=batch.gamma, floor=0.0)
    return batch.advantages * (weight * gate).clamp(min=batch.floor)


def _half_of_the_weight(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    return batch.advantages * (0.5 + 0.5 * weight) * gate  # RLSD's lambda


def _mean_weight_1(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    product = weight * gate
    return batch.advantages * product / product[batch.response_mask].mean()


def _magnitude_of_the_advantage_dropped(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    return batch.advantages.sign() * weight * gate


def _only_positive_responses_gated(batch: Batch) -> Tensor:
    weight, _, _, gate = _parts(batch)
    return batch.advantages * weight * torch.where(batch.advantages > 0, gate, 1.0)


PRODUCT_MUTANTS: dict[str, Callable[[Batch], Tensor]] = {
    "scale of the filtered entropy": _scale_of_filtered_entropy,
    "scale per row": _scale_per_row,
    "gate inside the clip": _gate_inside_the_clip,
    "gate scales the log-ratio": _gate_scales_the_log_ratio,
    "gate of the raw entropy": _gate_of_raw_entropy,
    "gate averages raw and filtered entropy": _gate_averages_raw_and_filtered_entropy,
    "floor of the product": _floor_of_the_product,
    "half of the weight": _half_of_the_weight,
    "weights of mean 1": _mean_weight_1,
    "magnitude of the advantage dropped": _magnitude_of_the_advantage_dropped,
    "only positive responses gated": _only_positive_responses_gated,
}
