"""The kinds of a model's layers, as its config names them, and what a pass of several rows may do with each.

It imports nothing, because it is read before Ray and wherever a model is looked up.
"""

from typing import Any

SHARED = {"full_attention", "sliding_attention"}
"""Whose keys and values of a prompt the responses of a group may share (engine/shared_prompt.py)."""
STATES = {"linear_attention", "conv", "mamba", "hybrid", "recurrent"}
"""That hand a state from token to token: a row of a pack begins with that of the row in front, unless it is reset."""


def kinds_of_layers(config: Any) -> set[str]:
    """Empty where a config of transformers names none, which then are full attention."""
    text = config.get_text_config()
    return set(getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ())


def layers_not_shared(config: Any) -> list[str]:
    """Kinds that keep a state instead of keys and values, and those that no test has shared."""
    return sorted(kinds_of_layers(config) - SHARED)
