"""Evidence: what a teacher says of a token under a right guide against what it says under wrong ones, in nats.

    evidence = log p_T(token | right guide) - log mean p_T(token | wrong guide)

What both guides do to the teacher alike, such as its style or its confidence, cancels. Bounded, the evidence is added
to a token's advantage: RLCSD (arXiv 2606.11709), SIPO (arXiv 2609.36742, eq. 5 and 6). Shapes, types and masks are
those of weights.py; so is that every result is detached.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recipe.egrsd.method.weights import TokenWeights, require_float32, require_shape


def log_mean_prob(log_probs: Sequence[Tensor]) -> Tensor:
    """log of the mean of probabilities, not the mean of logs.

    Args:
        log_probs: at least one, each (T,) nats, of the same tokens under different guides.

    Returns:
        (T,) nats.
    """
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))


def tanh_evidence(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    teacher_entropy: Tensor,
    advantages: Tensor,
    teacher_mask: Tensor,
    *,
    contrast_log_probs: Tensor,
    contrast_strength: float,
    contrast_scale: float,
    contrast_threshold: float,
    modulated_frac: float,
    taught_frac: float,
) -> TokenWeights:
    """RLCSD: advantage + strength * tanh(evidence / scale), its sign kept, where that term exceeds the threshold.

    The published loss is the mean over modulated tokens plus the mean over all others that have a teacher. A mean over
    all tokens of the batch is the same if a token weighs 1 over the share of its kind in it, which is what ``token``
    holds.

    Args:
        student_log_probs, teacher_entropy, teacher_mask: not read.
        teacher_log_probs, contrast_log_probs: (B, T) nats, under the right guide; log mean under wrong ones.
        advantages: (B, T); nothing is added where it is 0.
        contrast_strength, contrast_scale, contrast_threshold: lambda; tau, nats; delta.
        modulated_frac: the batch's, of the function of that name.
        taught_frac: share of the batch's tokens that have a teacher.
    """
    knobs = {"strength": contrast_strength, "scale": contrast_scale, "threshold": contrast_threshold}
    added = _modulation(evidence_of(teacher_log_probs, contrast_log_probs, advantages), **knobs)
    share = torch.where(added != 0, modulated_frac, 1 - modulated_frac)
    share = share * taught_frac
    weight = torch.where(share > 0, 1 / share, 1.0)  # of a kind without tokens no weight is asked
    return TokenWeights(token=weight, added=torch.where(advantages == 0, 0.0, weight * within_sign(advantages, added)))


def modulated_frac(
    teacher_log_probs: Tensor,
    contrast_log_probs: Tensor,
    mask: Tensor,
    *,
    strength: float,
    scale: float,
    threshold: float,
) -> float:
    """Share of a whole batch's taught tokens that tanh_evidence modulates, so that ranks and micro-batches change
    nothing.

    Args:
        teacher_log_probs, contrast_log_probs: (B, T) nats.
        mask: (B, T) bool, sampled tokens that have a teacher.
        strength, scale, threshold: as of tanh_evidence.

    Returns:
        in [0, 1]; 0 for an empty mask.
    """
    evidence = evidence_of(teacher_log_probs, contrast_log_probs)[mask]
    added = _modulation(evidence, strength=strength, scale=scale, threshold=threshold)
    return (added != 0).double().mean().item() if added.numel() else 0.0


def _modulation(evidence: Tensor, *, strength: float, scale: float, threshold: float) -> Tensor:
    """strength * tanh(evidence / scale), and 0 where that is within the threshold."""
    added = strength * (evidence / scale).tanh()
    return torch.where(added.abs() > threshold, added, 0.0)


def clipped_evidence(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    teacher_entropy: Tensor,
    advantages: Tensor,
    teacher_mask: Tensor,
    *,
    contrast_log_probs: Tensor,
    contrast_strength: float,
    contrast_scale: float,
) -> TokenWeights:
    """SIPO: advantage + strength * clip(evidence, -scale, scale), its sign kept; where the advantage is 0, as in a
    group that is all wrong, the term alone.

    Args:
        student_log_probs, teacher_entropy, teacher_mask: not read.
        teacher_log_probs, contrast_log_probs, advantages: as of tanh_evidence.
        contrast_strength, contrast_scale: kappa; delta, nats.
    """
    evidence = evidence_of(teacher_log_probs, contrast_log_probs, advantages)
    added = contrast_strength * evidence.clamp(-contrast_scale, contrast_scale)
    return TokenWeights(token=torch.ones_like(added), added=within_sign(advantages, added))


def evidence_of(teacher_log_probs: Tensor, contrast_log_probs: Tensor, advantages: Tensor | None = None) -> Tensor:
    """(B, T) nats, detached; TypeError or ValueError for another type or shape."""
    others = {} if advantages is None else {"advantages": advantages}
    require_float32(teacher_log_probs=teacher_log_probs, contrast_log_probs=contrast_log_probs, **others)
    require_shape(teacher_log_probs, contrast_log_probs=contrast_log_probs, **others)
    return (teacher_log_probs - contrast_log_probs).detach()


def within_sign(advantages: Tensor, added: Tensor) -> Tensor:
    """(B, T): what is added, as far as it takes the advantage to 0 and not beyond; all of it where that is 0."""
    advantages = advantages.detach()
    kept = torch.where(advantages > 0, torch.maximum(added, -advantages), added)
    return torch.where(advantages < 0, torch.minimum(kept, -advantages), kept)
