"""Divergence between teacher and student over the whole vocabulary: the loss of the presets opsd and crisp.

N  response tokens      V  vocabulary      H  hidden size

The teacher's logits are never stored: the teacher's last hidden states are, and a chunk of logits is made of them when it is
needed, in the backward pass once more. So one chunk of teacher logits is alive at a time, never N x V of them.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 128
"""At a vocabulary of 151,936 one float32 tensor of a chunk takes 74 MiB; about six are alive at once."""


def token_divergence(student_logits: Tensor, teacher_logits: Tensor, *, kind: str, clip: float | None) -> Tensor:
    """Divergence of every token, nats.

    Args:
        student_logits: (N, V) float32, already divided by the temperature; gradients flow through it.
        teacher_logits: (N, V) float32, likewise; no gradient flows through it.
        kind: forward_kl = KL(teacher || student) of OPSD (arXiv 2601.18734), reverse_kl = KL(student || teacher) of CRISP
            (arXiv 2603.05433).
        clip: upper bound of one vocabulary entry's share before the sum, nats; None for none. With it the sum may be negative.

    Returns:
        (N,) float32.
    """
    student = student_logits.log_softmax(-1)
    teacher = teacher_logits.detach().log_softmax(-1)
    left, right = (teacher, student) if kind == "forward_kl" else (student, teacher)
    # Where left is exactly 0 (a padded vocabulary) the share is 0, not 0 * inf.
    shares = left.exp() * (left - right).masked_fill(left == -torch.inf, 0.0)
    return (shares if clip is None else shares.clamp(max=clip)).sum(-1)


def chunked_divergence(
    student_logits: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    temperature: float,
    kind: str,
    clip: float | None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """``token_divergence`` without the (N, V) teacher logits.

    Args:
        student_logits: (N, V) float32, already divided by the temperature.
        teacher_hidden: (N, H), what the teacher's head was given.
        teacher_head: (V, H), the head's weight, in the dtype of teacher_hidden: both models' logits are rounded alike.
        temperature: what the teacher's logits are divided by, in float32.
        chunk_tokens: tokens at a time; changes memory, not the result.

    Returns:
        (N,) float32.
    """

    def of_chunk(student: Tensor, hidden: Tensor) -> Tensor:
        teacher = (hidden @ teacher_head.T).float() / temperature
        return token_divergence(student, teacher, kind=kind, clip=clip)

    pairs = zip(student_logits.split(chunk_tokens), teacher_hidden.detach().split(chunk_tokens), strict=True)
    return torch.cat([checkpoint(of_chunk, *pair, use_reentrant=False) for pair in pairs])
