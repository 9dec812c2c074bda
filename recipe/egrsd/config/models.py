"""Weights and precision of student and teacher: adapters, what a frozen or moving teacher starts from, and that both
compute in the same precision."""

from typing import Any

from recipe.egrsd.config.derived import sends_adapter, uses_reference
from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.config.strict import shown

PARTS = "actor_rollout_ref"
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def check(config: Any, egrsd: EgrsdConfig) -> None:
    """ValueError for the first setting under which student and teacher would not be what they are said to be."""
    _check_adapter(config, egrsd)
    if uses_reference(config):
        _check_precision(config, egrsd)
        _check_moving(config, egrsd)


def _check_adapter(config: Any, egrsd: EgrsdConfig) -> None:
    model, load_format = config.actor_rollout_ref.model, config.actor_rollout_ref.rollout.load_format
    path, rank = model.get("lora_adapter_path"), (model.get("lora") or {}).get("rank")
    if rank:
        raise ValueError(
            f"{PARTS}.model.lora.rank={rank} is Megatron's, and FSDP would train all parameters; say "
            f"{PARTS}.model.lora_rank={rank} instead."
        )
    if path is not None and not model.lora_rank:  # FSDP's one switch (transformer_impl.py:162)
        raise ValueError(
            f"{PARTS}.model.lora_adapter_path={shown(path)} is not read with lora_rank=0, and all parameters would be "
            f"trained; set {PARTS}.model.lora_rank to the adapter's own rank, or drop the path."
        )
    if egrsd.teacher.kind == "frozen" and path:
        raise ValueError(
            f"{PARTS}.model.lora_adapter_path starts the student from base + adapter, while the frozen "
            "teacher would be the base alone; merge the adapter into the model first and train a fresh one."
        )
    if sends_adapter(config) and "dummy" in load_format:
        raise ValueError(
            f"{PARTS}.rollout.load_format={load_format} sends the base under the adapter, which vLLM refuses "
            "of a model with tied embeddings (Qwen3-4B and smaller); drop that override (algorithm=egrsd sets "
            "load_format=safetensors and layered_summon=true with an adapter)."
        )


def _check_precision(config: Any, egrsd: EgrsdConfig) -> None:
    """The reference model is an engine of its own, with a precision of its own (transformer_impl.py:391)."""
    actor, ref = config.actor_rollout_ref.actor.fsdp_config, config.actor_rollout_ref.ref.fsdp_config
    dtype, key = _short(ref.model_dtype), f"{PARTS}.ref.fsdp_config"
    student, teacher = _computes_in(actor), _computes_in(ref)
    if dtype not in ("fp32", teacher):
        raise ValueError(
            f"{key}.model_dtype={ref.model_dtype} rounds the teacher's weights before they are used "
            f"in mixed_precision.param_dtype={teacher}; set it to fp32."
        )
    if student != teacher:
        raise ValueError(
            f"{PARTS}.actor.fsdp_config.mixed_precision.param_dtype={student} is not the teacher's, {teacher}, so that "
            "their ratio would measure the rounding; set ++"
            f"{key}.mixed_precision.param_dtype={student}{'' if dtype in ('fp32', student) else _weights(key)}."
        )
    if egrsd.teacher.kind == "ema" and dtype != "fp32":
        raise ValueError(
            f"{key}.model_dtype={ref.model_dtype} rounds the small steps of "
            "algorithm.egrsd.teacher.kind=ema to nothing; set it to fp32."
        )


def _check_moving(config: Any, egrsd: EgrsdConfig) -> None:
    if egrsd.teacher.moves and (config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward):
        raise ValueError(
            f"algorithm.egrsd.teacher.kind={egrsd.teacher.kind} makes verl's reference model the moving teacher, so "
            f"the KL term of {PARTS}.actor.use_kl_loss / algorithm.use_kl_in_reward would follow it; switch the term "
            "off."
        )


def _computes_in(engine: Any) -> str:
    return _short((engine.get("mixed_precision") or {}).get("param_dtype") or "bf16")  # verl's default


def _short(dtype: str) -> str:
    return SHORT.get(dtype, dtype)


def _weights(key: str) -> str:
    return f" {key}.model_dtype=fp32"
