"""The values of verl's own keys that EGRSD reads, checked before it reads them: verl's YAML takes any type."""

from typing import Annotated, Any, Literal, TypeAlias

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, TypeAdapter, ValidationError

from recipe.egrsd.config.strict import STRICT, Number, Positive, complaint, container, leaves, resolved

Precision = Literal["fp32", "float32", "bf16", "bfloat16", "fp16", "float16"]
Rows: TypeAlias = Positive | None
Factor: TypeAlias = Annotated[Number, Field(gt=0)] | None
LEFT_OPEN = {"reward.reward_model.rollout.name"}  # ??? in verl's own config, and filled by verl
_PARTS = "actor_rollout_ref"
KEYS: dict[str, Any] = {
    "data.train_batch_size": Positive,
    "data.max_prompt_length": Positive,
    "data.max_response_length": Positive,
    f"{_PARTS}.actor.strategy": str,
    f"{_PARTS}.actor.ppo_mini_batch_size": Positive,
    f"{_PARTS}.actor.ppo_epochs": Positive,
    f"{_PARTS}.actor.checkpoint.save_contents": list[str] | None,
    f"{_PARTS}.actor.checkpoint.load_contents": list[str] | None,
    f"{_PARTS}.actor.use_kl_loss": bool,
    f"{_PARTS}.actor.entropy_coeff": float,
    f"{_PARTS}.actor.loss_agg_mode": str,
    f"{_PARTS}.actor.loss_scale_factor": Factor,
    f"{_PARTS}.actor.use_dynamic_bsz": bool,
    f"{_PARTS}.actor.ppo_max_token_len_per_gpu": Positive,
    f"{_PARTS}.actor.ppo_micro_batch_size_per_gpu": Rows,
    f"{_PARTS}.actor.ulysses_sequence_parallel_size": Positive,
    f"{_PARTS}.ref.ulysses_sequence_parallel_size": Positive,
    f"{_PARTS}.ref.log_prob_use_dynamic_bsz": bool,
    f"{_PARTS}.ref.log_prob_max_token_len_per_gpu": Positive,
    f"{_PARTS}.ref.log_prob_micro_batch_size_per_gpu": Rows,
    f"{_PARTS}.ref.fsdp_config.model_dtype": Precision,
    f"{_PARTS}.ref.fsdp_config.mixed_precision.param_dtype": Precision | None,
    f"{_PARTS}.actor.fsdp_config.mixed_precision.param_dtype": Precision | None,
    f"{_PARTS}.rollout.log_prob_use_dynamic_bsz": bool,
    f"{_PARTS}.rollout.log_prob_max_token_len_per_gpu": Positive,
    f"{_PARTS}.rollout.log_prob_micro_batch_size_per_gpu": Rows,
    f"{_PARTS}.rollout.prompt_length": Positive,
    f"{_PARTS}.rollout.response_length": Positive,
    f"{_PARTS}.rollout.calculate_log_probs": bool,
    f"{_PARTS}.rollout.n": Positive,
    f"{_PARTS}.rollout.name": str,
    f"{_PARTS}.rollout.temperature": Annotated[Number, Field(gt=0)],  # the logits of both models are divided by it
    f"{_PARTS}.model.use_fused_kernels": bool,
    f"{_PARTS}.model.lora_rank": Annotated[int, Field(ge=0)],
    f"{_PARTS}.model.lora_adapter_path": str | None,
    f"{_PARTS}.rollout.load_format": str,
    "critic.enable": bool | None,
    "reward.reward_model.enable": bool,
    "reward.reward_model.enable_resource_pool": bool,
    "algorithm.use_kl_in_reward": bool,
    "trainer.use_v1": bool,
    "trainer.v1.trainer_mode": str,
    "trainer.nnodes": Positive,
    "trainer.n_gpus_per_node": Positive,
    "trainer.save_freq": int,
    "trainer.default_local_dir": Annotated[str, Field(min_length=1)],
    "trainer.resume_mode": Literal["auto", "disable", "resume_path"],
}
CHECKED = {key: TypeAdapter(kind, config=STRICT) for key, kind in KEYS.items()}


def check(config: DictConfig) -> None:
    """ValueError for the first key above with a value of another type or out of range, or any without a value.

    OmegaConf's error names a key that refers to nothing.
    """
    for key, kind in CHECKED.items():
        try:
            kind.validate_python(container(OmegaConf.select(config, key, throw_on_missing=True)))
        except ValidationError as error:
            raise ValueError(complaint(error, key)) from None
    if missing := [key for key, value in leaves(resolved(config)) if value == "???" and key not in LEFT_OPEN]:
        raise ValueError(f"{missing[0]}=??? has no value; give it one.")
