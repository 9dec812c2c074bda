"""verl's FSDP engine with float32 logits, so that log-probs and entropies carry no rounding but the model's own.

verl divides bfloat16 logits by the rollout temperature in bfloat16, and without remove-padding takes the entropy in
bfloat16, too. Either moves a value by up to 0.1 nat, the size of what the gate and the ratio read.

For a divergence over the vocabulary it also hands out what the teacher's head was given, and takes it back when it trains.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from tensordict import TensorDict
from torch import Tensor, nn
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

    teacher_head: Tensor
    """(V, H), set by the worker before a training pass whose micro-batches hold ``teacher_hidden``."""
    last_token: tuple[Tensor, Tensor, float]
    """Of the last pass that kept hidden states: one token's (H,) hidden state, its (V,) logits, and what divided them."""

    def forward_step(self, micro_batch, loss_function, forward_only):
        self.keeps_hidden = tu.get_non_tensor_data(data=micro_batch, key="egrsd_keep_hidden", default=False)
        if not self.keeps_hidden:
            return super().forward_step(micro_batch, loss_function, forward_only)
        with _input_of(self.module.get_output_embeddings()) as self.head_inputs:
            return super().forward_step(micro_batch, loss_function, forward_only)

    def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
        if not tu.get_non_tensor_data(data=micro_batch, key="use_fused_kernels", default=False):
            key, temperature = _temperature(output_args)
            output.logits = float32_logits(output.logits, temperature)
            output_args = {**output_args, key: torch.ones_like(output_args[key]), "temperature_is_one": True}
        if "teacher_hidden" in micro_batch and logits_processor_func is not None:
            # verl's seam for what a loss computes from the logits; it is named after the one loss of verl's that does.
            tu.assign_non_tensor(micro_batch, distillation_use_topk=True)
            logits_processor_func = partial(logits_processor_func, teacher_head=self.teacher_head)
        result = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if self.keeps_hidden:
            hidden = list(_responses(self.head_inputs.pop(), micro_batch))
            self.last_token = (hidden[-1][-1], list(_responses(output.logits, micro_batch))[-1][-1], micro_batch["temperature"])
            result["teacher_hidden"] = torch.nested.as_nested_tensor([row.flatten() for row in hidden], layout=torch.jagged)
        return result


def _temperature(output_args: dict) -> tuple[str, Tensor | None]:
    """Where verl keeps the temperatures, and in a shape that divides the logits: one a token if packed, one a row if padded."""
    key, new_axes = ("temperature_rmpad", 1) if "temperature_rmpad" in output_args else ("temperature", 2)
    if output_args.get("temperature_is_one", False):
        return key, None
    return key, output_args[key][(..., *[None] * new_axes)]


@contextmanager
def _input_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which every call of the module appends its input."""
    inputs = []
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        hook.remove()


def _responses(outputs: Tensor, micro_batch: TensorDict) -> Iterator[Tensor]:
    """The (T, ...) part of each row that belongs to its response, from packed (1, tokens, ...) or padded (B, S, ...) outputs."""
    ends = micro_batch["input_ids"].offsets()[1:].tolist()
    lengths = micro_batch["input_ids"].offsets().diff().tolist()
    packed = outputs.size(0) == 1
    for row, response in enumerate(micro_batch["responses"].offsets().diff().tolist()):
        sequence, end = (outputs[0], ends[row]) if packed else (outputs[row], lengths[row])
        yield sequence[end - response - 1 : end - 1]  # a position's output belongs to the token behind it
