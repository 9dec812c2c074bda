"""Privileged prompts read once for all responses of their group: every response attends to the same keys and values.

With n responses to a prompt of P tokens the teacher computes P + n R tokens instead of n (P + R), in two passes.

G  groups of the micro-batch      n  responses of a group
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from recipe.egrsd.engine.layers import layers_not_shared


class _PromptLayer(DynamicLayer):
    """Keys and values of the prompts in one layer, shown to every response; what the responses add is not kept."""

    def __init__(self, prompts: Any, group_size: int):
        super().__init__()
        self.dtype, self.device, self.is_initialized = prompts.dtype, prompts.device, True
        self.keys, self.values, self.group_size = prompts.keys, prompts.values, group_size

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        pairs = ((cast(Tensor, self.keys), key_states), (cast(Tensor, self.values), value_states))
        keys, values = (torch.cat([prompt.repeat_interleave(self.group_size, 0), own], dim=-2) for prompt, own in pairs)
        return keys, values


def prompt_inputs(prompts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Inputs of the first pass, (G, P - 1): the last token of a prompt predicts, and is left to the second.

    Padded at the start, so that a prompt ends where its responses begin and a sliding window spans what it should.

    Args:
        prompts: G rows of token ids.
    """
    rows = [prompt[:-1] for prompt in prompts]
    positions = [torch.arange(len(row), device=row.device) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_side="left"),
        "position_ids": pad_sequence(positions, batch_first=True, padding_side="left"),
        "attention_mask": present(rows, padding_side="left").long(),
    }


def response_inputs(prompts: Sequence[Tensor], responses: Sequence[Tensor], cache: DynamicCache) -> dict:
    """Inputs of the second pass, (G n, R) padded at the end; position t predicts response token t.

    Args:
        prompts: as above.
        responses: G n rows of token ids, group by group.
        cache: filled by the first pass, made without a config, so that every layer keeps the whole prompt; it is used
            up.
    """
    group_size = len(responses) // len(prompts)
    cache.layers[:] = [_PromptLayer(layer, group_size) for layer in cache.layers]
    of_row = [prompt for prompt in prompts for _ in range(group_size)]
    rows = [torch.cat([prompt[-1:], response[:-1]]) for prompt, response in zip(of_row, responses, strict=True)]
    starts = torch.tensor([len(prompt) - 1 for prompt in of_row], device=rows[0].device)
    seen, own = present([prompt[:-1] for prompt in of_row], padding_side="left"), present(rows)
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "position_ids": starts[:, None] + torch.arange(own.size(1), device=own.device),
        "attention_mask": torch.cat([seen, own], dim=1).long(),
        "past_key_values": cache,
    }


def present(rows: Sequence[Tensor], *, padding_side: str = "right") -> Tensor:
    """(rows, longest) bool: True where a padded row has a token."""
    return pad_sequence(
        [torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True, padding_side=padding_side
    )


def require_attention_only(config: PretrainedConfig) -> None:
    """What the trainer decides by (machines/architectures.py), for a model that it could not read.

    Raises:
        TypeError: for a model with layers whose prompts cannot be shared.
    """
    if kinds := layers_not_shared(config):
        raise TypeError(
            f"{config.model_type} has layers of kind {kinds}, so its responses cannot share a privileged prompt; name "
            "a folder in actor_rollout_ref.model.path, by whose config.json the run shares none."
        )
