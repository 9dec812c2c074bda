"""A pack is several rows end to end in one pass: whether a model keeps them apart, asked of the model itself.

Attention finds their borders in the position ids, and is not asked. A layer that hands a state from token to token
needs a reset there, and what a model, a kernel and their versions do about it shows in no config; what they got wrong
shows in no score.
"""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.ulysses import get_ulysses_sequence_parallel_rank

from recipe.egrsd.engine.head import distance_of_products

ROW_TOKENS = 8
LEAK = 8.0
"""Of the logits' rounding. A tiny Qwen3.5 whose state leaks moves by 115 in bfloat16; one that resets it by 0, but
experts multiply as many tokens as a router gives them, by which a GPU may round otherwise."""


def require_rows_apart(engine: Any) -> None:
    """Asks two forward passes whether the second row of a pack knows the first. A collective call.

    Args:
        engine: verl's, in evaluation mode and in the precision of its passes.

    Raises:
        TypeError: if it does: every score of a pack would be another row's, too.
    """
    row = torch.arange(ROW_TOKENS)
    with torch.no_grad():
        ours, theirs = (_behind(engine, first, row) for first in (row, row.flip(0)))
    if ours.numel() and (distance := distance_of_products(ours.float(), theirs.float(), dtype=ours.dtype)) > LEAK:
        raise TypeError(
            f"{type(engine.module).__name__} lets a row of a pack see the row in front of it (its logits move by "
            f"{distance:.3g} times what rounding may do); set actor_rollout_ref.model.use_remove_padding=false, which "
            "pads rows instead."
        )


def _behind(engine: Any, *rows: Tensor) -> Tensor:
    """(1, V) logits of the first token of the second row in a pack, which would know most of the first; (0, V) where
    another rank has them."""
    columns = {"input_ids": rows, "position_ids": [torch.arange(len(row)) for row in rows]}
    nested = {name: torch.nested.as_nested_tensor([*of], layout=torch.jagged) for name, of in columns.items()}
    batch = TensorDict(nested, batch_size=len(rows)).to(get_device_id())
    tu.assign_non_tensor(batch, temperature=1.0, use_remove_padding=True)
    inputs, _ = engine.prepare_model_inputs(batch)
    logits = engine.module(**inputs, use_cache=False).logits[0]
    split = engine.ulysses_sequence_parallel_size > 1
    at = len(rows[0]) - (get_ulysses_sequence_parallel_rank() * len(logits) if split else 0)
    return logits[at : at + 1] if at >= 0 else logits[:0]
