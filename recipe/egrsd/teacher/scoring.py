"""A pass that scores responses: log-prob and entropy of every token, by whichever engine is asked.

Rows are ``prompt + response``. verl's engines return per-token outputs aligned with the row's end, so another prompt in
front of the same response needs no other alignment (workers/utils/padding.py:194).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested

from recipe.egrsd.teacher.rows import Sharing, planned


@dataclass(frozen=True)
class Scores:
    """What a model says about B responses, each field (B, jagged) over the response."""

    log_probs: Tensor
    """float32, nats."""
    entropy: Tensor
    """float32, nats, over the whole vocabulary."""
    hidden: Tensor | None
    """What the head was given, flattened to T * H for each response; for a divergence only."""
    contrast: Tensor | None = None
    """float32, nats: log of the mean probability under wrong guides; where a response has such only."""


def scoring_batch(
    prompt_ids: Sequence[Sequence[int]],
    responses: Sequence[Tensor],
    response_mask: Sequence[Tensor],
    *,
    temperature: float,
    sharing: Sharing | None = None,
    keep_hidden: bool = False,
) -> TensorDict:
    """Rows for verl's compute_log_prob / compute_ref_log_prob.

    Args:
        prompt_ids: B privileged prompts, token ids.
        responses: B responses, (T,) int64 token ids, prompt excluded.
        response_mask: B masks, the student's; the engine needs a loss mask even where it computes no loss.
        temperature: of the rollout; student and teacher are compared at the temperature the student is trained at.
        sharing: how rows share their prompts, which are then read once (engine/shared_prompt.py); None if they don't.
        keep_hidden: also return what the head was given (engine/fsdp.py), flattened to T * H for each response.
    """
    prompts = [torch.as_tensor(ids, dtype=torch.int64) for ids in prompt_ids]
    rows = [torch.cat([prompt, response]) for prompt, response in zip(prompts, responses, strict=True)]
    columns = {
        "prompts": prompts,
        "responses": responses,
        "response_mask": response_mask,
        "loss_mask": response_mask,
        "input_ids": rows,
        "position_ids": [torch.arange(len(row)) for row in rows],
    }
    batch = TensorDict({name: nested(column) for name, column in columns.items()}, batch_size=len(rows))
    tu.assign_non_tensor(
        batch,
        calculate_entropy=True,
        compute_loss=False,
        temperature=temperature,
        egrsd_in_chunks=True,
        egrsd_keeps_hidden=keep_hidden,
    )
    if sharing:
        tu.assign_non_tensor(batch, use_dynamic_bsz=False, micro_batch_size_per_gpu=sharing.rows_of_micro_batch)
        tu.assign_non_tensor(batch, egrsd_shared_by=sharing.group_size)
    return batch


def score(
    engine: Callable[[TensorDict], TensorDict],
    prompt_ids: Sequence[Sequence[int] | None],
    responses: Tensor,
    response_mask: Tensor,
    *,
    num_ranks: int,
    temperature: float,
    names: Sequence[str],
    max_shared_tokens: int = 0,
    rows_of_micro_batch: int = 1,
    adapter_off: bool = False,
    keep_hidden: bool = False,
    row_by_row: bool = False,
) -> Scores:
    """Scores B responses under B prompts. Without any prompt nothing is asked of the engine.

    Args:
        engine: a scoring method of verl's worker group.
        prompt_ids, temperature, keep_hidden: as of ``scoring_batch``; without a prompt a row's scores are 0 and its
            hidden states empty.
        responses, response_mask: (B, jagged).
        num_ranks, max_shared_tokens: as of ``scoring_order``.
        rows_of_micro_batch: where their number is fixed.
        adapter_off: score with the base model.
        row_by_row: micro-batches of one row, whatever the run's are.
        names: B sample names for error messages.
    """
    chosen = [row for row, ids in enumerate(prompt_ids) if ids is not None]
    if not chosen:
        nothing = torch.zeros_like(responses, dtype=torch.float32)
        return Scores(nothing, nothing, None)
    columns = (prompt_ids, responses.unbind(), response_mask.unbind(), names)
    columns = [[column[row] for row in chosen] for column in columns]
    limits = {"rows_of_micro_batch": rows_of_micro_batch, "max_tokens": max_shared_tokens}
    (prompts, rows, masks, labels), order, sharing = planned(columns, num_ranks=num_ranks, **limits)
    columns = ([column[row] for row in order] for column in (prompts, rows, masks))
    batch = scoring_batch(*columns, temperature=temperature, sharing=sharing, keep_hidden=keep_hidden)
    if adapter_off:
        tu.assign_non_tensor(batch, no_lora_adapter=True)
    if row_by_row:
        tu.assign_non_tensor(batch, use_dynamic_bsz=False, micro_batch_size_per_gpu=1)
    output = engine(batch)
    found = checked(output, batch["response_mask"], names=[labels[row] for row in order])
    place = {row: at for at, row in enumerate(chosen)}  # among those that were scored
    back = [order.index(place[row]) if row in place else None for row in range(len(prompt_ids))]
    counts, hidden = [len(row) for row in responses.unbind()], output.get("teacher_hidden")
    hidden = None if hidden is None else _spread(hidden, back, [0] * len(back))
    log_probs, entropy = (_spread(column, back, counts) for column in found)
    return Scores(log_probs, entropy, hidden)


def checked(output: TensorDict, response_mask: Tensor, *, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What an engine returned, aligned with the response.

    Args:
        output: ``log_probs`` and ``entropy``, jagged over prompt + response.
        response_mask: (B, jagged).
        names: B sample names for error messages.

    Raises:
        TypeError: if the engine computed either in another dtype than float32.
        ValueError: if a value under the response mask is not finite; names the sample.
    """
    aligned = {}
    for name in ("log_probs", "entropy"):
        if output[name].dtype != torch.float32:
            raise TypeError(
                f"the engine returned the teacher's {name} in {output[name].dtype}; EGRSD needs float32. Was "
                "engine/fsdp.py registered?"
            )
        aligned[name] = response_from_nested(output[name], response_mask)
        _refuse_non_finite(name, aligned[name], response_mask, names)
    return aligned["log_probs"], aligned["entropy"]


def _refuse_non_finite(name: str, values: Any, mask: Tensor, names: Sequence[str]) -> None:
    bad = ~values.values().isfinite() & mask.values().bool()
    if bad.any():
        token = int(bad.nonzero()[0])
        row = int((values.offsets() <= token).sum()) - 1
        raise ValueError(
            f"the teacher's {name} is {values.values()[token].item()} for sample {names[row]} at response token "
            f"{token - int(values.offsets()[row])}; the teacher's weights or the logits are broken."
        )


def _spread(column: Tensor, back: Sequence[int | None], lengths: Sequence[int]) -> Tensor:
    """(scored rows, jagged) -> (B, jagged): for each row the number of its scores, or so many zeros."""
    rows = column.unbind()
    return nested(
        [
            column.values().new_zeros(length) if at is None else rows[at]
            for at, length in zip(back, lengths, strict=True)
        ]
    )


def nested(rows: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
