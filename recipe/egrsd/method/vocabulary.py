"""Scores that read a whole distribution: float32 log-probs from logits, and sums over the vocabulary with their
derivatives.

N, n  positions      V, v  vocabulary entries, all of them or a slice
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor


class VocabularySum(Protocol):
    """A score sum_v phi(log p(v)) of every position, beside the label's log-prob."""

    name: str
    """Under which the engine returns it."""

    @property
    def watched(self) -> Mapping[str, Tensor]:
        """More about the positions ``at``, by name, that nothing is trained on; filled by ``sums``."""
        ...

    def sums(self, log_p: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """(n, V) log-probs of these positions -> (n,) the scores, (n,) sum_v phi'(log p(v))."""
        ...

    def slopes(self, log_p: Tensor, columns: slice) -> Tensor:
        """(N, v) log-probs of these vocabulary entries -> (N, v) phi'(log p(v))."""
        ...


class Entropy:
    """phi = -p log p, nats."""

    name = "entropy"
    watched: Mapping[str, Tensor] = MappingProxyType({})

    def sums(self, log_p: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        # Not vecdot: that is a matrix product, which a GPU may be allowed to compute in TF32, and autocast casts to
        # bfloat16.
        entropy = -log_p.exp().mul_(log_p).sum(-1)
        return entropy, entropy - 1

    def slopes(self, log_p: Tensor, columns: slice) -> Tensor:
        return log_p.exp().mul_(log_p + 1).neg_()


def scaled_log_probs(logits: Tensor, *, temperature: float, normaliser: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log softmax(logits / temperature) in float32, nats.

    Args:
        logits: (n, v), any dtype; overwritten if float32. -inf (a padded vocabulary) means probability 0.
        normaliser: (n, 1), if the v entries are a part of the vocabulary; None: they are all of it.

    Returns:
        (n, v) log-probs, finite, so that 0 * log 0 is 0; (n, 1) the normaliser.
    """
    scaled = logits.float().div_(temperature).clamp_(min=torch.finfo(torch.float32).min)
    # Fewer passes over the vocabulary than log_softmax, and ten times closer to float64 on a CPU.
    normaliser = scaled.logsumexp(-1, keepdim=True) if normaliser is None else normaliser
    return scaled.sub_(normaliser), normaliser
