"""Divergence between teacher and student over the whole vocabulary: the loss of the presets opsd and crisp.

N  response tokens      V  vocabulary      H  hidden size

Neither model's logits are ever whole: the head makes a chunk of both when it needs them (engine/head.py), and once more
in the backward pass. What is kept of the teacher are its last hidden states and its head.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from recipe.egrsd.method.vocabulary import scaled_log_probs


def shares(student: Tensor, teacher: Tensor, *, kind: str, clip: float | None) -> Tensor:
    """What every vocabulary entry adds to the divergence of its token, nats.

    Args:
        student: (..., V) float32 log-probs, finite.
        teacher: (..., V) likewise.
        kind: forward_kl = KL(teacher || student) of OPSD (arXiv 2601.18734), reverse_kl = KL(student || teacher) of
            CRISP (arXiv 2603.05433).
        clip: upper bound of a share, nats; None for none. With it the sum of a token may be negative.
    """
    left, right = (teacher, student) if kind == "forward_kl" else (student, teacher)
    of_entry = left.exp().mul_(left - right)
    return of_entry if clip is None else of_entry.clamp_(max=clip)


def slopes(student: Tensor, teacher: Tensor, *, kind: str, clip: float | None) -> Tensor:
    """The derivative of ``shares`` by the student's log-prob; 0 where a share is clipped. Arguments as there."""
    slope = teacher.exp().neg_() if kind == "forward_kl" else student.exp().mul_(student - teacher + 1)
    return slope if clip is None else slope.masked_fill_(shares(student, teacher, kind=kind, clip=None) > clip, 0.0)


class Divergence:
    """The sum of ``shares`` of every position, as a head scores it beside the label's log-prob
    (vocabulary.VocabularySum).

    No gradient flows through the teacher.

    Args:
        hidden: (N, H), what the teacher's head was given.
        weight: (V, H), its weight, in the dtype of the student's product: both models' logits are rounded alike.
        bias: (V,), its bias, or None.
        temperature: what the teacher's logits are divided by, in float32.
        kind, clip: as of ``shares``.
    """

    name = "divergence"

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        temperature: float,
        kind: str,
        clip: float | None,
    ):
        self.hidden, self.weight, self.temperature = hidden.detach(), weight.detach(), temperature
        self.bias = bias if bias is None else bias.detach()
        self.knobs = {"kind": kind, "clip": clip}
        self.normaliser = torch.empty(len(hidden), 1, device=hidden.device)

    def sums(self, log_p: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        logits = linear(self.hidden[rows], self.weight, self.bias)
        teacher, self.normaliser[rows] = scaled_log_probs(logits, temperature=self.temperature)
        return tuple(part(log_p, teacher, **self.knobs).sum(-1) for part in (shares, slopes))

    def slopes(self, log_p: Tensor, columns: slice) -> Tensor:
        logits = linear(self.hidden, self.weight[columns], None if self.bias is None else self.bias[columns])
        teacher, _ = scaled_log_probs(logits, temperature=self.temperature, normaliser=self.normaliser)
        return slopes(log_p, teacher, **self.knobs)
