"""Divergence between teacher and student over the whole vocabulary: the loss of opsd, crisp and all presets
that pull.

N  response tokens      V  vocabulary      H  hidden size

Neither model's logits are ever whole: the head makes a chunk of both when it needs them (engine/head.py), and once more
in the backward pass. What is kept of the teacher are its last hidden states and its head.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from recipe.egrsd.method.vocabulary import scaled_log_probs


def shares(
    student: Tensor,
    teacher: Tensor,
    *,
    kind: str,
    clip: float | None,
    clip_low: float | None = None,
    beta: float = 0.5,
) -> Tensor:
    """What every vocabulary entry adds to the divergence of its token, nats.

    Args:
        student: (..., V) float32 log-probs, finite.
        teacher: (..., V) likewise.
        kind: forward_kl = KL(teacher || student) of OPSD (arXiv 2601.18734), reverse_kl = KL(student || teacher) of
            CRISP (arXiv 2603.05433), jsd = beta * KL(teacher || M) + (1 - beta) * KL(student || M), where M = beta *
            teacher + (1 - beta) * student (GKD, arXiv 2306.13649, as OPSD's code has it).
        clip: upper bound of a share, nats; None for none. With it the sum of a token may be negative.
        clip_low: lower bound likewise.
        beta: of jsd, in (0, 1). Near 0 it is beta * forward_kl, near 1 it is (1 - beta) * reverse_kl.
    """
    if kind == "jsd":
        middle = _middle(student, teacher, beta)
        of_entry = (student.exp() * (student - middle)).mul_(1 - beta)
        of_entry.add_(teacher.exp() * (teacher - middle), alpha=beta)
    else:
        left, right = (teacher, student) if kind == "forward_kl" else (student, teacher)
        of_entry = left.exp().mul_(left - right)
    return of_entry if clip is None and clip_low is None else of_entry.clamp_(min=clip_low, max=clip)


def slopes(
    student: Tensor,
    teacher: Tensor,
    *,
    kind: str,
    clip: float | None,
    clip_low: float | None = None,
    beta: float = 0.5,
) -> Tensor:
    """The derivative of ``shares`` by the student's log-prob; 0 where a share is clipped. Arguments as there."""
    if kind == "jsd":
        slope = student.exp().mul_(student - _middle(student, teacher, beta)).mul_(1 - beta)
    else:
        slope = teacher.exp().neg_() if kind == "forward_kl" else student.exp().mul_(student - teacher + 1)
    if clip is None and clip_low is None:
        return slope
    return slope.masked_fill_(_clipped(shares(student, teacher, kind=kind, clip=None, beta=beta), clip, clip_low), 0.0)


def _middle(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Log-probs of jsd's M."""
    return torch.logaddexp(student, teacher + math.log(beta / (1 - beta))).add_(math.log1p(-beta))


def _clipped(of_entry: Tensor, clip: float | None, clip_low: float | None) -> Tensor:
    """Where a share lies outside of its bounds."""
    outside = torch.zeros_like(of_entry, dtype=torch.bool) if clip is None else of_entry > clip
    return outside if clip_low is None else outside | (of_entry < clip_low)


class Divergence:
    """The sum of ``shares`` of every pulled position, as a head scores it beside the label's log-prob
    (vocabulary.VocabularySum); 0 elsewhere. No gradient flows through the teacher.

    Args:
        hidden: (M, H), what the teacher's head was given at the pulled positions.
        weight: (V, H), its weight, in the dtype of the student's product: both models' logits are rounded alike.
        bias: (V,), its bias, or None.
        at: (M,) int64, rising: where the pulled positions stand among the N that the student's head is given; None:
            they are all of them.
        temperature: what the teacher's logits are divided by, in float32.
        knobs: as of ``shares``.
    """

    name = "divergence"

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        at: Tensor | None = None,
        temperature: float,
        **knobs: Any,
    ):
        self.hidden, self.weight, self.temperature = hidden.detach(), weight.detach(), temperature
        self.bias = bias if bias is None else bias.detach()
        self.at = torch.arange(len(hidden), device=hidden.device) if at is None else at
        self.knobs, self.clips = knobs, knobs["clip"] is not None or knobs.get("clip_low") is not None
        self.normaliser = torch.empty(len(hidden), 1, device=hidden.device)
        self.watched = {name: torch.zeros(len(hidden), device=hidden.device) for name in CLIPPED * self.clips}
        """(M,) each: what the clip does, filled by ``sums``."""

    def sums(self, log_p: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        here = ((self.at >= rows.start) & (self.at < rows.stop)).nonzero()[:, 0]
        part, score, slope = self.at[here] - rows.start, *log_p.new_zeros(2, len(log_p))
        if len(here):
            student = log_p if len(here) == len(log_p) else log_p[part]
            logits = linear(self.hidden[here], self.weight, self.bias)
            teacher, self.normaliser[here] = scaled_log_probs(logits, temperature=self.temperature)
            score[part], slope[part] = (of(student, teacher, **self.knobs).sum(-1) for of in (shares, slopes))
            if self.clips:
                for name, values in clipping(student, teacher, **self.knobs).items():
                    self.watched[name][here] = values
        return score, slope

    def slopes(self, log_p: Tensor, columns: slice) -> Tensor:
        logits = linear(self.hidden, self.weight[columns], None if self.bias is None else self.bias[columns])
        teacher, _ = scaled_log_probs(logits, temperature=self.temperature, normaliser=self.normaliser)
        if len(self.at) == len(log_p):
            return slopes(log_p, teacher, **self.knobs)
        everywhere = torch.zeros_like(log_p)
        everywhere[self.at] = slopes(log_p[self.at], teacher, **self.knobs)
        return everywhere


CLIPPED = ("clipped_entries_frac", "clipped_tokens_frac", "clip_removed", "positive_shares")


def clipping(
    student: Tensor,
    teacher: Tensor,
    *,
    kind: str,
    clip: float | None,
    clip_low: float | None = None,
    beta: float = 0.5,
) -> dict[str, Tensor]:
    """What the bounds do to each token, (...,) each: the share of its entries that lie outside, whether one does, what
    the upper bound takes from the positive shares, and their sum, nats. Arguments as of ``shares``."""
    of_entry = shares(student, teacher, kind=kind, clip=None, beta=beta)
    outside = _clipped(of_entry, clip, clip_low)
    removed = torch.zeros_like(of_entry) if clip is None else (of_entry - clip).clamp_(min=0)
    values = (outside.float().mean(-1), outside.any(-1).float(), removed.sum(-1), of_entry.clamp(min=0).sum(-1))
    return dict(zip(CLIPPED, values, strict=True))
