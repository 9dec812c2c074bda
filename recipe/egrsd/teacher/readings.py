"""A response that the teacher reads under several prompts: which, and what their hidden states or probabilities make
together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recipe.egrsd.method.evidence import log_mean_prob
from recipe.egrsd.teacher.scoring import nested


class Reading(NamedTuple):
    """One pass of the teacher over a response."""

    prompt: Sequence[int]
    """Token ids."""
    coefficient: float = 1.0
    """Of its hidden states in the sum; 0: not read."""
    against: bool = False
    """Whether its guide is a wrong one, against which what the first reading says is held."""


class HiddenSum:
    """Coefficient times hidden states, summed over passes for each of B responses: in float32 at least, rounded once.

    logits = hidden @ head.T, so that these are the hidden states of the same sum of logits. A response that is read
    once, with the coefficient 1, keeps its own to the bit.
    """

    def __init__(self, rows: int):
        self.parts: list[Tensor | None] = [None] * rows
        self.dtype: torch.dtype | None = None

    def add(self, hidden: Tensor, coefficients: Sequence[float | None]) -> None:
        """hidden: (B, jagged); coefficients: B, None for a response that this pass has not read."""
        self.dtype = hidden.dtype
        wide = torch.promote_types(hidden.dtype, torch.float32)
        for row, (states, coefficient) in enumerate(zip(hidden.unbind(), coefficients, strict=True)):
            before = self.parts[row]
            if coefficient is not None:
                term = states if coefficient == 1.0 else coefficient * states.to(wide)
                self.parts[row] = term if before is None else before.to(wide) + term.to(wide)

    def rounded(self) -> Tensor | None:
        """(B, jagged) in the dtype of the passes, empty for a response that none has read; None without any pass."""
        if self.dtype is None:
            return None
        nothing = torch.zeros(0, dtype=self.dtype)
        return nested([nothing if part is None else part.to(self.dtype) for part in self.parts])


def contrast(readings: Sequence[Sequence[Reading]], passes: Sequence[Tensor]) -> Tensor | None:
    """The log-mean probability of each token under the wrong guides, 0 for a response that has none; None if no
    response has.

    Args:
        readings: B, as of ``Teacher.score``.
        passes: the log-probs of the first, second, ... reading, each (B, jagged) float32.
    """
    if not any(reading.against for of_row in readings for reading in of_row):
        return None
    found = []
    for of_row, rows in zip(readings, zip(*(log_probs.unbind() for log_probs in passes), strict=True), strict=True):
        wrong = [row for reading, row in zip(of_row, rows, strict=False) if reading.against]
        found.append(log_mean_prob(wrong) if wrong else torch.zeros_like(rows[0]))
    return nested(found)
