"""verl's FSDP engine with float32 logits, so that log-probs and entropies carry no rounding but the model's own.

verl divides bfloat16 logits by the rollout temperature in bfloat16, and without remove-padding takes the entropy in
bfloat16, too. Either moves a value by up to 0.1 nat, the size of what the gate and the ratio read.
"""

import torch
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

VENDOR = "egrsd"
"""config/algorithm/egrsd.yaml puts it into VERL_ENGINE_VENDOR, by which verl chooses among registered engines."""


def float32_logits(logits: Tensor, temperature: Tensor | None) -> Tensor:
    """logits / temperature in float32, one pass, no copy in between.

    Args:
        logits: (..., vocabulary), any dtype.
        temperature: float32, broadcasts against logits; None stands for 1.

    Returns:
        float32 logits. In a forward pass without gradients -inf (a padded vocabulary) becomes the smallest float32: the
        probability stays 0, and 0 * log 0 in an entropy is 0 instead of NaN.
    """
    scaled = logits.float() if temperature is None else logits / temperature.clamp(min=1e-8)
    return scaled if scaled.requires_grad else scaled.clamp_(min=torch.finfo(torch.float32).min)


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu"], vendor=VENDOR)
class EgrsdEngine(FSDPEngineWithLMHead):
    """Hands verl float32 logits that are already scaled; verl computes everything from them (transformer_impl.py:1332)."""

    def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
        if not tu.get_non_tensor_data(data=micro_batch, key="use_fused_kernels", default=False):
            key, temperature = _temperature(output_args)
            output.logits = float32_logits(output.logits, temperature)
            output_args = {**output_args, key: torch.ones_like(output_args[key]), "temperature_is_one": True}
        return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)


def _temperature(output_args: dict) -> tuple[str, Tensor | None]:
    """Where verl keeps the temperatures, and in a shape that divides the logits: one a token if packed, one a row if padded."""
    key, new_axes = ("temperature_rmpad", 1) if "temperature_rmpad" in output_args else ("temperature", 2)
    if output_args.get("temperature_is_one", False):
        return key, None
    return key, output_args[key][(..., *[None] * new_axes)]
