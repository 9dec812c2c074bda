"""The idea of the paper: how much of a rollout's advantage each of its tokens receives (arXiv 2605.13255, sections 3
and 4).

    token advantage = advantage * ratio_weight * entropy_gate

B  responses      T  response positions

Every tensor is float32; log-probabilities and entropies are in nats. Masks are bool, True = a token the model sampled
and trains on; what lies under False is never read and may be NaN. Every result is detached: weights are data, no
gradient flows through them. A dtype other than float32 (bool for masks) raises TypeError, because a bfloat16 entropy is
off by up to 0.1 nat, which is the size of the signal.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class TokenWeights:
    """The weights of a micro-batch, each (B, T) float32 and detached; exactly 1 where there is no teacher, what is
    added exactly 0. None for a part that a weight does not have."""

    token: Tensor
    """What the advantage is multiplied by."""
    added: Tensor | None = None
    """What is then added to it (evidence.py)."""
    ratio: Tensor | None = None
    """In [1 - clip_range, 1 + clip_range]."""
    gate: Tensor | None = None
    """In [floor, 1]."""
    gate_without_lookahead: Tensor | None = None
    """What the gate would be at window 0."""


def token_weights(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    teacher_entropy: Tensor,
    advantages: Tensor,
    teacher_mask: Tensor,
    *,
    entropy_scale: float,
    gate_mean: float,
    mixing: float,
    clip_range: float,
    window: int,
    gamma: float,
    floor: float,
    gate: str,
) -> TokenWeights:
    """Ratio weight, gate and their product for every token: paper Eq. 3, 5 and 8, in the order of Alg. 1.

    Args:
        student_log_probs, teacher_log_probs: (B, T) of the sampled tokens, nats.
        teacher_entropy: (B, T) nats.
        advantages: (B, T); only the sign is read.
        teacher_mask: (B, T) bool, sampled tokens that have a teacher.
        entropy_scale: the batch's, nats.
        gate_mean: the batch's, of the function of that name.
        mixing: the step's.
        clip_range, window, gamma, floor: as of the functions below.
        gate: token, or mean: every token's gate is gate_mean.
    """
    gate_knobs = {"scale": entropy_scale, "gamma": gamma, "floor": floor}
    ratio = ratio_weight(student_log_probs, teacher_log_probs, advantages, clip_range=clip_range)
    gates = entropy_gate(lookahead_entropy(teacher_entropy, teacher_mask, window=window), **gate_knobs)
    if gate == "mean":
        gates = torch.full_like(gates, gate_mean)
    parts = {
        "token": mixed_weight(ratio, mixing=mixing) * gates,
        "ratio": ratio,
        "gate": gates,
        "gate_without_lookahead": entropy_gate(teacher_entropy, **gate_knobs),
    }
    return TokenWeights(**{name: torch.where(teacher_mask, weight, 1.0) for name, weight in parts.items()})


def ratio_weight(
    student_log_probs: Tensor, teacher_log_probs: Tensor, advantages: Tensor, *, clip_range: float = 0.2
) -> Tensor:
    """Magnitude w = clip(exp(sign(A) * (log p_T - log p_S)), 1 - clip_range, 1 + clip_range); paper Eq. 3, Alg. 1 line
    9.

    Above 1 where the teacher agrees with the direction of the update more than the student does. sign(0) = 0 gives w =
    1.

    Args:
        student_log_probs: (B, T) log-probability of each sampled token under the prompt alone.
        teacher_log_probs: (B, T) the same tokens under the privileged prompt.
        advantages: (B, T); only the sign is read.
        clip_range: half-width of the clip around 1; 0 makes every weight exactly 1.

    Returns:
        (B, T) weights in [1 - clip_range, 1 + clip_range].
    """
    require_float32(student_log_probs=student_log_probs, teacher_log_probs=teacher_log_probs, advantages=advantages)
    require_shape(student_log_probs, teacher_log_probs=teacher_log_probs, advantages=advantages)
    log_ratio = (teacher_log_probs - student_log_probs).detach()
    return (advantages.detach().sign() * log_ratio).exp().clamp(1.0 - clip_range, 1.0 + clip_range)


def mixed_weight(weight: Tensor, *, mixing: float) -> Tensor:
    """1 - mixing + mixing * weight, as RLSD mixes its ratio weight with 1 (arXiv 2604.03128, Alg. 1); EGRSD has mixing
    = 1.

    Args:
        weight: (B, T) of ratio_weight.
        mixing: 1 returns the weight unchanged, 0 returns 1.

    Returns:
        (B, T) float32.
    """
    require_float32(weight=weight)
    return (1.0 - mixing) + mixing * weight.detach()


def lookahead_entropy(entropy: Tensor, response_mask: Tensor, *, window: int) -> Tensor:
    """Smallest entropy over the positions t ... t + window of the same response; paper Eq. 8 (CL-EGRSD).

    A position where the teacher hesitates only for a moment (a pivot) borrows the confidence of the tokens behind it;
    one that opens a real fork does not. Masked positions are skipped and the window ends with the response.

    Args:
        entropy: (B, T) teacher entropy, nats.
        response_mask: (B, T) bool.
        window: number of later positions to look at; 0 returns the entropy unchanged (EGRSD).

    Returns:
        (B, T) nats. Masked positions keep their input value.

    Raises:
        ValueError: if window is negative.
    """
    require_float32(entropy=entropy)
    require_bool(response_mask=response_mask)
    require_shape(entropy, response_mask=response_mask)
    if window < 0:
        raise ValueError(f"window={window} would look at past tokens; use window >= 0 (0 is EGRSD, no lookahead).")
    entropy = entropy.detach()
    window = min(window, entropy.size(-1) - 1)
    if window <= 0:
        return entropy
    # A minimum is a maximum of the negatives; -inf never wins it. One pooling kernel, so no (T x window) tensor exists.
    negated = (-entropy).masked_fill(~response_mask, -torch.inf)
    smallest = -F.max_pool1d(F.pad(negated, (0, window), value=-torch.inf).unsqueeze(1), window + 1, stride=1).squeeze(
        1
    )
    return torch.where(response_mask, smallest, entropy)


def entropy_scale(entropy: Tensor, response_mask: Tensor, *, min_nats: float = 1.0) -> Tensor:
    """Denominator of the gate: max(largest entropy under the mask, min_nats); paper Eq. 5 and Alg. 1 line 13.

    Taken over the raw entropies, before any lookahead (Eq. 8), and over the whole batch, so that it does not depend on
    the number of ranks or micro-batches.

    Args:
        entropy: (B, T) teacher entropy, nats.
        response_mask: (B, T) bool.
        min_nats: lower bound; keeps a batch of near-certain teachers from being gated by its own noise.

    Returns:
        scalar, nats; min_nats for an empty mask.
    """
    require_float32(entropy=entropy)
    require_bool(response_mask=response_mask)
    require_shape(entropy, response_mask=response_mask)
    return torch.cat([entropy.detach()[response_mask], entropy.new_tensor([min_nats])]).max()


def entropy_gate(entropy: Tensor, scale: Tensor | float, *, gamma: float, floor: float = 0.1) -> Tensor:
    """Confidence gate g = clip(1 - gamma * entropy / scale, floor, 1); paper Eq. 5.

    Args:
        entropy: (B, T) teacher entropy, nats, after lookahead_entropy.
        scale: scalar of entropy_scale, nats, > 0.
        gamma: slope; 0 switches the gate off (exactly 1 for every finite entropy).
        floor: smallest gate value.

    Returns:
        (B, T) in [floor, 1].
    """
    require_float32(entropy=entropy)
    return (1.0 - gamma * entropy / scale).detach().clamp(floor, 1.0)


def gate_mean(
    entropy: Tensor, mask: Tensor, *, scale: Tensor | float, window: int, gamma: float, floor: float
) -> float:
    """Mean of the gate over a whole batch, so that it does not depend on the number of ranks or micro-batches.

    Args:
        entropy: (B, T) teacher entropy, nats, before lookahead_entropy.
        mask: (B, T) bool, sampled tokens that have a teacher.
        scale, window, gamma, floor: as of the functions above.

    Returns:
        in [floor, 1]; 1 for an empty mask.
    """
    gates = entropy_gate(lookahead_entropy(entropy, mask, window=window), scale, gamma=gamma, floor=floor)[mask]
    return gates.double().mean().item() if gates.numel() else 1.0


def require_float32(**tensors: Tensor) -> None:
    """TypeError names the first that is not."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise TypeError(
                f"{name} is {tensor.dtype}; the weights are computed in float32 only: upcast the logits first."
            )


def require_bool(**masks: Tensor) -> None:
    """TypeError names the first that is not."""
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise TypeError(f"{name} is {mask.dtype}, expected torch.bool (True = a token that counts): use .bool().")


def require_shape(expected: Tensor, **tensors: Tensor) -> None:
    """ValueError names the first of another shape."""
    for name, tensor in tensors.items():
        if tensor.shape != expected.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}: it would broadcast."
            )
