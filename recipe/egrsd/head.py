"""The model's head where it counts: log-prob and entropy of chosen positions in float32 chunks, without their logits in memory.

A teacher row is a long privileged prompt and a short response, and nobody asks for the prompt's logits. Inside the forward pass,
where the head's weight is gathered, the head is given the response positions alone, so many at a time.

N  chosen positions      V  vocabulary      H  hidden size
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

CHUNK_TOKENS = 512
"""At a vocabulary of 151,936 one float32 tensor of a chunk takes 297 MiB; about three are alive at once."""


@dataclass
class HeadScores:
    """What ``scored_in_chunks`` found; one entry for each call of the head."""

    log_probs: list[Tensor] = field(default_factory=list)
    """(N,) float32, nats."""
    entropy: list[Tensor] = field(default_factory=list)
    """(N,) float32, nats."""
    hidden: list[Tensor] = field(default_factory=list)
    """(N, H), what the head was given."""
    last_logits: Tensor | None = None
    """(V,) float32, of the last position, divided by the temperature."""


def score_chunk(logits: Tensor, labels: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-prob of the labels and entropy of every row in float32, nats, also where autocast is on.

    verl runs the forward pass in which the head is called under ``torch.autocast(bfloat16)`` (transformer_impl.py:1565), which
    casts the operands of some reductions behind one's back: an entropy would be off by 0.02 nat.

    Args:
        logits: (N, V), any dtype, not scaled. -inf (a padded vocabulary) means probability 0.
        labels: (N,) int64.
        temperature: what the float32 logits are divided by.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scaled = (logits.float() / temperature).clamp_(min=torch.finfo(torch.float32).min)  # 0 * log 0 is 0, not NaN
        # Fewer passes over the vocabulary than log_softmax, and ten times closer to float64 on a CPU.
        log_p = scaled.sub_(scaled.logsumexp(-1, keepdim=True))
        log_probs = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        # Not vecdot: that is a matrix product, which a GPU may be allowed to compute in TF32.
        return log_probs, -log_p.exp().mul_(log_p).sum(-1)


def require_heads_logits(model: nn.Module, ids: Tensor) -> None:
    """Asks one forward pass whether the model's logits are what its head returns, to the bit.

    Args:
        model: a causal language model.
        ids: (1, S) token ids.

    Raises:
        TypeError: if the model softcaps or scales them: a score made in the head would be another distribution's.
    """
    returned = []
    handle = model.get_output_embeddings().register_forward_hook(lambda *call: returned.append(call[-1]))
    try:
        with torch.no_grad():
            positions = torch.arange(ids.size(1), device=ids.device)[None]
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    finally:
        handle.remove()
    if not torch.allclose(logits.float(), returned[0].float(), rtol=0, atol=0, equal_nan=True):
        distance = (logits.float() - returned[0].float()).abs().max().item()
        raise TypeError(
            f"{type(model).__name__} changes the logits of its head (a softcap or a scale: by up to {distance:.3g}), and EGRSD "
            "scores responses in the head; use a model that does not."
        )


def distance_of_products(ours: Tensor, theirs: Tensor, *, dtype: torch.dtype) -> float:
    """How far two results of one matrix product are apart: root mean square, as a multiple of what rounding may do.

    The orders of summation differ, so that single entries fall on the other side of a rounding boundary: an ulp of ``dtype``,
    1/128 of a bfloat16. A product in float32 is allowed 1e-5.

    Args:
        ours: (V,) float32.
        theirs: (V,) float32.
        dtype: in which both were rounded.

    Returns:
        0 where they are equal, at most 1 where only rounding lies between them.
    """
    allowed = max(torch.finfo(dtype).eps, 1e-5)
    return ((ours - theirs).norm() / theirs.norm() / allowed).item()


@contextmanager
def scored_in_chunks(
    head: nn.Module,
    choose: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    temperature: float,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Iterator[HeadScores]:
    """While it lasts, a forward pass through ``head`` computes scores instead of logits; the pass returns logits of width 0.

    Args:
        head: the model's output embedding; its weight is whole when the model calls it, also under FSDP.
        choose: (B, S, H) hidden states -> (N, H) of the chosen positions, (N,) token ids to score there.
        temperature: of the scores.
        chunk_tokens: positions at a time; changes memory, not the result.
    """
    scores, logits_of = HeadScores(), head.forward

    def forward(hidden: Tensor) -> Tensor:
        chosen, labels = choose(hidden)
        parts, dtype = [torch.empty(2, 0, device=hidden.device)], hidden.dtype
        for chunk, targets in zip(chosen.split(chunk_tokens), labels.split(chunk_tokens), strict=True):
            logits = logits_of(chunk)
            parts.append(torch.stack(score_chunk(logits, targets, temperature=temperature)))
            dtype = logits.dtype
            scores.last_logits = logits[-1].float() / temperature if len(logits) else None
        log_probs, entropy = torch.cat(parts, 1)
        scores.log_probs.append(log_probs)
        scores.entropy.append(entropy)
        scores.hidden.append(chosen.to(dtype))  # in the dtype that the head's product had, also under autocast
        return hidden.new_empty(*hidden.shape[:-1], 0)

    head.forward = forward
    try:
        yield scores
    finally:
        del head.forward  # the class's own shows again
