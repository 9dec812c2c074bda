"""The head where it counts: scores of chosen positions in float32, without their logits in memory, forward or backward.

A row is a long prompt and a short response, and nobody asks for the prompt's logits. Inside the forward pass, where the
head's weight is gathered, the head is given the response positions alone and returns scores of so many at a time. The
gradient of their hidden states is known there, up to a factor a token. For the weight's gradient the backward pass
makes the logits once more, a slice of the vocabulary at a time, so that each entry is written once; a frozen head, an
adapter's, needs no second time.

N  chosen positions      V  vocabulary      H  hidden size
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from recipe.egrsd.engine.precision import as_called
from recipe.egrsd.method.vocabulary import VocabularySum, scaled_log_probs

CHUNK_LOGITS = 2**26
"""Logits that exist at a time: 441 positions of a vocabulary of 151,936. A float32 tensor of them takes 256 MiB; two
are alive at once, six for a divergence (benchmarks/logit_memory.py). Time per chunk size was not measured on a GPU."""


class _Scores(torch.autograd.Function):
    """See ``head_scores``."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, temperature, also, chunk_logits):
        rows = max(1, chunk_logits // len(weight))
        columns = 1 if also is None else 2
        scores = torch.empty(len(hidden), columns, device=hidden.device)
        normaliser, slope_sum = (torch.empty(len(hidden), 1, device=hidden.device) for _ in range(2))
        ahead = torch.empty_like(hidden) if also is None and ctx.needs_input_grad[0] else None
        with as_called(hidden.device.type):
            for start in range(0, len(hidden), rows):
                chunk = slice(start, start + rows)
                log_p, normaliser[chunk] = scaled_log_probs(
                    linear(hidden[chunk], weight, bias), temperature=temperature
                )
                scores[chunk, :1] = log_p.gather(-1, labels[chunk, None])
                if also is not None:
                    scores[chunk, 1], slope_sum[chunk, 0] = also.sums(log_p, chunk)
                if ahead is not None:
                    ahead[chunk] = _away(log_p, labels[chunk]).to(weight.dtype) @ weight
                del log_p  # or it is alive while the next chunk is made
        again = ahead is None or any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(ahead, *([hidden, weight, bias, labels, normaliser, slope_sum] if again else []))
        ctx.settings = temperature, also, chunk_logits
        return scores

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]  of the one output
        ahead, *again = ctx.saved_tensors
        temperature, also, chunk_logits = ctx.settings
        gradient = gradient / temperature
        to_hidden = to_weight = to_bias = None
        if again:
            wanted = (ahead is None and ctx.needs_input_grad[0], *ctx.needs_input_grad[1:3])
            knobs = {"temperature": temperature, "also": also, "chunk_logits": chunk_logits, "wanted": wanted}
            with as_called(gradient.device.type):
                to_hidden, to_weight, to_bias = _in_slices(gradient, *again, **knobs)
        if ahead is not None:
            to_hidden = (ahead * -gradient).to(ahead.dtype)
        return to_hidden, to_weight, to_bias, None, None, None, None


def _in_slices(
    gradient, hidden, weight, bias, labels, normaliser, slope_sum, *, temperature, also, chunk_logits, wanted
):
    """Gradients of hidden states, weight and bias, as far as ``wanted``, from logits made again, a slice of the
    vocabulary at a time.

    T d score / d logit(v) = phi'(v) - p(v) sum_u phi'(u); the label's log-prob has phi' = 1 there and 0 elsewhere.
    """
    to_hidden = torch.zeros(hidden.shape, device=hidden.device) if wanted[0] else None
    to_weight, to_bias = (
        torch.empty_like(of) if want else None for of, want in zip((weight, bias), wanted[1:], strict=True)
    )
    of_label, of_also = gradient[:, :1], gradient[:, 1:]
    pull = -of_label if also is None else -of_label - of_also * slope_sum
    width = max(1, chunk_logits // max(1, len(hidden)))
    for start in range(0, len(weight), width):
        part = slice(start, start + width)
        logits = linear(hidden, weight[part], None if bias is None else bias[part])
        log_p, _ = scaled_log_probs(logits, temperature=temperature, normaliser=normaliser)
        del logits
        slopes = None if also is None else also.slopes(log_p, part).mul_(of_also)
        change = log_p.exp_().mul_(pull)
        if slopes is not None:
            change += slopes
        del log_p, slopes
        here = ((labels >= start) & (labels < start + width)).nonzero()[:, 0]
        change[here, labels[here] - start] += of_label[here, 0]
        if to_bias is not None:
            to_bias[part] = change.sum(0)
        change = change.to(hidden.dtype)
        if to_hidden is not None:
            to_hidden += change @ weight[part]
        if to_weight is not None:
            torch.mm(change.T, hidden, out=to_weight[part])
    return None if to_hidden is None else to_hidden.to(hidden.dtype), to_weight, to_bias


def _away(log_p: Tensor, labels: Tensor) -> Tensor:
    """(n, V) p - 1[label], in the place of the log-probs: -T d log p(label) / d logits."""
    away = log_p.exp_()
    away[torch.arange(len(labels), device=labels.device), labels] -= 1
    return away


def product_dtype(hidden: Tensor) -> torch.dtype:
    """In which a head multiplies: autocast's, where it is on (a LayerNorm under it returns float32)."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def head_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    temperature: float,
    also: VocabularySum | None = None,
    chunk_logits: int = CHUNK_LOGITS,
) -> Tensor:
    """Log-prob of the labels, and another score of the same distribution, with gradients, float32 also under autocast.

    Only the product with the weight has the model's dtype; verl runs the forward pass under
    ``torch.autocast(bfloat16)`` (transformer_impl.py:1565), which would cast more than that.

    Args:
        hidden: (N, H), what the head is given.
        weight: (V, H); its gradient is computed if it requires one.
        bias: (V,) or None.
        labels: (N,) int64.
        temperature: what the float32 logits are divided by.
        also: the second column; None for none.
        chunk_logits: that exist at a time; changes memory and time, not the result.

    Returns:
        (N, 1) or (N, 2) float32, nats.
    """
    dtype = product_dtype(hidden)
    hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
    return _Scores.apply(hidden, weight, bias, labels, temperature, also, chunk_logits)


def require_plain_head(model: Any, ids: Tensor) -> None:
    """Asks one forward pass whether the model's logits are its head's weight times its hidden states, and nothing more.

    Args:
        model: a causal language model.
        ids: (1, S) token ids.

    Raises:
        TypeError: if anything else becomes of them: a score made here would be another distribution's.
    """
    name, head, seen = type(model).__name__, model.get_output_embeddings(), []
    if (
        type(head).forward is not nn.Linear.forward
    ):  # by its class: an adapter starts at zero, so that numbers do not show it
        raise TypeError(
            f"the head of {name} is a {type(head).__name__}, and EGRSD scores responses with the weight of an "
            "nn.Linear; leave lm_head out of actor_rollout_ref.model.target_modules, or use a model with a plain head."
        )
    hooks = [  # FSDP gathers the weight in front of the first and lets go of it before the second
        head.register_forward_pre_hook(lambda _, given: seen.append(_product(head, *given))),
        head.register_forward_hook(lambda _, given, returned: seen.append(returned)),
    ]
    try:
        with torch.no_grad():
            positions = torch.arange(ids.size(1), device=ids.device)[None]
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    product, returned = seen
    if not torch.allclose(logits.float(), returned.float(), rtol=0, atol=0, equal_nan=True):
        distance = (logits.float() - returned.float()).abs().max().item()
        raise TypeError(
            f"{name} changes the logits of its head (a softcap or a scale: by up to {distance:.3g}), and EGRSD scores "
            "responses in the head; use a model that does not."
        )
    distance = distance_of_products(product.float(), returned.float(), dtype=returned.dtype)
    if distance > 1:
        raise TypeError(
            f"the head of {name} returns other logits than its weight times its hidden states ({distance:.3g} times "
            "what rounding may do), and EGRSD scores responses with that product; use a model with a plain head."
        )


def _product(head: nn.Linear, hidden: Tensor) -> Tensor:
    return linear(*(of if of is None else of.to(product_dtype(hidden)) for of in (hidden, head.weight, head.bias)))


def distance_of_products(ours: Tensor, theirs: Tensor, *, dtype: torch.dtype) -> float:
    """How far two results of one matrix product are apart: root mean square, as a multiple of what rounding may do.

    The orders of summation differ, so that single entries fall on the other side of a rounding boundary: an ulp of
    ``dtype``, 1/128 of a bfloat16. A product in float32 is allowed 1e-5.

    Args:
        ours: float32.
        theirs: float32, of the same shape.
        dtype: in which both were rounded.

    Returns:
        0 where they are equal, at most 1 where only rounding lies between them; NaN where one of them is not finite.
    """
    allowed = max(torch.finfo(dtype).eps, 1e-5)
    return ((ours - theirs).norm() / theirs.norm() / allowed).item()


@contextmanager
def scoring_head(head: nn.Module, score: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, a forward pass through ``head`` returns ``score(hidden states)`` instead of logits.

    The scores leave the head as its output, which FSDP2 watches: it gathers the weight again when their gradient
    arrives.

    Args:
        head: the model's output embedding; its weight is whole when the model calls it, also under FSDP.
    """
    head.forward = score
    try:
        yield
    finally:
        del head.forward  # the class's own shows again
