"""The precision that suits this CPU: bfloat16 where it has instructions for it, otherwise float32.

Without the instructions torch multiplies bfloat16 number by number: on a CPU with AVX2 a layer of SmolLM2-135M takes 8
times as long as in float32, and 14 times with its backward pass (benchmarks/cpu_precision.py).
"""

from typing import Any

from omegaconf import OmegaConf

from recipe.egrsd import cpu

KEYS = (
    "actor_rollout_ref.rollout.dtype",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype",
)
BFLOAT16 = ("bfloat16", "bf16")  # as verl and vLLM spell it
SLOW = "this CPU has no instructions for bfloat16, in which it is many times slower than in float32"


def multiplies_bfloat16() -> bool:
    """Asks what torch asks before it hands such a product to oneDNN (aten/src/ATen/native/mkldnn/Matmul.cpp)."""
    import torch  # not above: evaluate answers --help without it

    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def fastest() -> str:
    """As verl, vLLM and torch spell it."""
    return "bfloat16" if multiplies_bfloat16() else "float32"


def remark(config: Any) -> str:
    """A line for the log of a CPU run that asks for what is slow here; otherwise empty."""
    if not cpu.enabled() or multiplies_bfloat16():
        return ""
    asked = [f"{key}={value}" for key in KEYS if (value := OmegaConf.select(config, key)) in BFLOAT16]
    return f"{', '.join(asked)}: {SLOW}; use float32." if asked else ""


def dtype_remark(dtype: str) -> str:
    """The same of a command's --dtype, of which evaluate's ``auto`` is bfloat16 for a model of bfloat16 or float32."""
    slow = cpu.enabled() and dtype in (*BFLOAT16, "auto") and not multiplies_bfloat16()
    return f"--dtype {dtype}: {SLOW}; take --dtype float32." if slow else ""
