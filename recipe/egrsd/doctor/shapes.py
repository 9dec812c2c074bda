"""Sizes of a model, from its config: the module is built on the meta device, which allocates nothing."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM
from verl.utils.py_functional import convert_to_regular_types


@dataclass(frozen=True)
class BlockWidths:
    """Of a decoder layer of a Qwen or llama, in elements a token."""

    hidden: int
    queries: int
    """Heads times their size; keys and values: the same of either."""
    keys: int
    mlp: int
    """Of one branch of the gated MLP; of all experts of a token together."""
    normed_heads: bool
    """Qwen3 norms queries and keys."""
    frozen: bool
    """Only an adapter is trained, no norm."""

    def activations(self, width: int) -> int:
        """Bytes that one token leaves behind for the backward pass, in a layer that computes in so many bytes an
        element.

        Two norms keep their input in float32 and, if they are trained, what they made of it; so do the norms of the
        heads. Then what went into the projections, queries, keys, values, attention's result, both branches of the MLP,
        the activation of one and their product. Attention is flash attention's or sdpa's, which keep no scores. An
        adapter's own few are left out.
        """
        heads = self.queries + self.keys
        norms = (4 + width * (not self.frozen)) * (2 * self.hidden + self.normed_heads * heads)
        return norms + width * (2 * self.hidden + 2 * heads + 4 * self.mlp)


@dataclass(frozen=True)
class Shapes:
    """Numbers of elements of a model."""

    parameters: int
    trained: int
    block: int
    """The largest decoder layer."""
    ends: int
    """Embedding and head."""
    vocabulary: int
    hidden: int
    layers: int
    widths: BlockWidths


def shapes(model: Any) -> Shapes:
    """model: verl's HFModelConfig."""
    hf_config = deepcopy(model.hf_config)
    hf_config._attn_implementation = "eager"  # flash attention would be looked for even here
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(hf_config, trust_remote_code=model.trust_remote_code)
        layers = max((part for part in module.modules() if isinstance(part, nn.ModuleList)), key=_elements)
        ends = nn.ModuleList([module.get_input_embeddings(), module.get_output_embeddings()])
        vocabulary, hidden = cast(nn.Embedding, ends[0]).weight.shape
        found = {"block": max(map(_elements, layers)), "ends": _elements(ends), "layers": len(layers)}
        if model.lora_adapter_path:
            module = get_peft_model(module, LoraConfig.from_pretrained(model.lora_adapter_path, inference_mode=False))
        elif model.lora_rank > 0:
            target = cast(Any, convert_to_regular_types(model.target_modules))
            excluded = cast(Any, convert_to_regular_types(model.exclude_modules))
            adapter = LoraConfig(
                task_type="CAUSAL_LM", r=model.lora_rank, target_modules=target, exclude_modules=excluded
            )
            module = get_peft_model(module, adapter)
        normed = any(name.endswith("q_norm") for name, _ in layers.named_modules())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    parameters = _elements(module)
    widths = _block_widths(hf_config.get_text_config(), normed_heads=normed, frozen=trained < parameters)
    return Shapes(parameters=parameters, trained=trained, vocabulary=vocabulary, hidden=hidden, widths=widths, **found)


def _block_widths(config: Any, **facts: bool) -> BlockWidths:
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    experts = getattr(config, "num_experts_per_tok", None)
    mlp = experts * config.moe_intermediate_size if experts else config.intermediate_size
    keys = size * (getattr(config, "num_key_value_heads", None) or heads)
    return BlockWidths(hidden=config.hidden_size, queries=size * heads, keys=keys, mlp=mlp, **facts)


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
