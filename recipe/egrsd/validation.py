"""Every check across keys of a whole verl config: what would not be EGRSD, or EGRSD on wrong numbers, is refused by name.

``validate`` runs when the command line has been read, before Ray starts, and once more in the trainer's constructor. Imports
neither torch nor verl.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from packaging.requirements import Requirement

from recipe.egrsd.schema import TRAINER_MODES, EgrsdConfig, read, scoring_engine, uses_reference


def validate(config: Any) -> EgrsdConfig:
    """Checks a whole verl config (an OmegaConf node, resolved) and returns its ``algorithm.egrsd``.

    Raises:
        ValueError: for the first setting under which a run would not be EGRSD, would be EGRSD on wrong numbers, or would
            fail late. The sentence names the key, the reason and the way out.
        RuntimeError: for a verl outside the range that the tests ran on (REQUIRED_VERL.txt).
    """
    _check_verl_version()
    check_entry({"use_v1": config.trainer.use_v1, "trainer_mode": config.trainer.v1.trainer_mode})
    egrsd = read(config.algorithm.egrsd)
    model = config.actor_rollout_ref.model
    _check_trainer(config)
    _check_numerics(config, model)
    _check_teacher_rows(config, egrsd)
    _check_teacher_weights(config, egrsd)
    if egrsd.divergence:
        _check_divergence(config, egrsd.divergence)
    return egrsd


def check_entry(entry: Mapping[str, Any]) -> None:
    """What any trainer, verl's own included, meets first: the data set calls it with ``data.egrsd``.

    Raises:
        ValueError: if the run is about to be led by a trainer that knows nothing of EGRSD.
    """
    if not entry["use_v1"]:
        raise ValueError("trainer.use_v1=false runs verl's legacy trainer, which would train without EGRSD; drop that override.")
    if entry["trainer_mode"].removeprefix("egrsd_") == "separate_async":
        raise ValueError(
            "trainer.v1.trainer_mode=separate_async is not supported by EGRSD: verl then makes several updates in a step, with "
            "one batch maximum, baseline and teacher for all of them, and its weight transfer needs NCCL, which our tests on "
            f"CPUs do not have; use one of {list(TRAINER_MODES)}."
        )
    if entry["trainer_mode"] not in TRAINER_MODES:
        raise ValueError(
            f"trainer.v1.trainer_mode={entry['trainer_mode']} selects verl's own trainer, which would train plain GRPO; use one "
            f"of {list(TRAINER_MODES)} (algorithm=egrsd sets the first)."
        )


def required_verl() -> Requirement:
    """The verl versions that the tests ran on."""
    return Requirement(Path(__file__).with_name("REQUIRED_VERL.txt").read_text().strip())


def _check_verl_version() -> None:
    required = required_verl()
    if not required.specifier.contains(version("verl"), prereleases=True):
        raise RuntimeError(f"EGRSD was tested with {required}; this is verl {version('verl')}. Install a version in that range.")


def _check_trainer(config: Any) -> None:
    actor_rollout_ref, algorithm = config.actor_rollout_ref, config.algorithm
    if algorithm.adv_estimator != "egrsd":
        raise ValueError(
            f"algorithm.adv_estimator={algorithm.adv_estimator} would bypass EGRSD's advantage; name the estimator in "
            f"algorithm.egrsd.advantage={algorithm.adv_estimator} instead."
        )
    if (algorithm.get("rollout_correction") or {}).get("bypass_mode"):
        raise ValueError(
            "algorithm.rollout_correction.bypass_mode=true takes the student's log-probs from vLLM and the teacher's from the "
            "training engine, so their ratio would measure the engines; set it to false."
        )
    if (config.get("distillation") or {}).get("enabled"):
        raise ValueError("distillation.enabled=true replaces the loss that EGRSD weights; set it to false.")
    if actor_rollout_ref.actor.strategy not in ("fsdp", "fsdp2"):
        raise ValueError(
            f"actor_rollout_ref.actor.strategy={actor_rollout_ref.actor.strategy} is not supported by EGRSD; use fsdp or fsdp2."
        )
    if actor_rollout_ref.actor.checkpoint.async_save:
        raise ValueError(
            "actor_rollout_ref.actor.checkpoint.async_save=true saves no sooner with fsdp or fsdp2, and verl then never names a "
            "checkpoint as complete, so that a resumed run would start at step 0 over the old ones; set it to false."
        )


def _check_numerics(config: Any, model: Any) -> None:
    """float32 log-probs and entropies, for student and teacher."""
    vendor = config.ray_kwargs.ray_init.runtime_env.env_vars.get("VERL_ENGINE_VENDOR")
    if vendor != "egrsd":
        raise ValueError(
            f"ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR={vendor} selects an engine that rounds logits to "
            "bfloat16; leave it at egrsd."
        )
    if model.use_fused_kernels and model.fused_kernel_options.impl_backend == "torch":
        raise ValueError(
            "actor_rollout_ref.model.use_fused_kernels=true with impl_backend=torch rounds the entropy to bfloat16; use "
            "fused_kernel_options.impl_backend=triton or switch fused kernels off."
        )


def _check_teacher_rows(config: Any, egrsd: EgrsdConfig) -> None:
    """The micro-batch limit of the scoring engine must hold one teacher row, which is longer than any student row."""
    prefix, engine, ranks = scoring_engine(config)
    if not engine.log_prob_use_dynamic_bsz:
        if engine.log_prob_micro_batch_size_per_gpu is None and engine.log_prob_micro_batch_size is None:
            raise ValueError(f"{prefix}_micro_batch_size_per_gpu is not set, but the teacher is scored in such batches; set it.")
        return
    longest = egrsd.teacher.max_prompt_length + config.data.max_response_length
    limit = engine.log_prob_max_token_len_per_gpu
    if limit * ranks < longest:
        raise ValueError(
            f"{prefix}_max_token_len_per_gpu={limit} (x {ranks} sequence-parallel ranks) cannot hold one teacher row of up to "
            f"{longest} tokens (algorithm.egrsd.teacher.max_prompt_length={egrsd.teacher.max_prompt_length} + "
            f"data.max_response_length={config.data.max_response_length}); raise the first or lower the second."
        )


def _check_divergence(config: Any, kind: str) -> None:
    """A divergence over the vocabulary is the whole loss, and needs all logits of a token and the teacher's head in one place."""
    actor, ref, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.ref, config.actor_rollout_ref.model
    for key, bad, reason, way_out in (
        ("actor_rollout_ref.actor.strategy", actor.strategy != "fsdp2", "cannot gather the teacher's head", "fsdp2"),
        ("actor_rollout_ref.model.use_fused_kernels", model.use_fused_kernels, "computes no logits", "false"),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size", actor.ulysses_sequence_parallel_size > 1, "splits rows", 1),
        ("actor_rollout_ref.ref.ulysses_sequence_parallel_size", ref.ulysses_sequence_parallel_size > 1, "splits rows", 1),
        ("actor_rollout_ref.actor.use_kl_loss", actor.use_kl_loss, "adds a term to the loss", "false"),
        ("actor_rollout_ref.actor.entropy_coeff", actor.entropy_coeff != 0, "adds a term to the loss", 0),
        ("algorithm.use_kl_in_reward", config.algorithm.use_kl_in_reward, "changes rewards, which are not used", "false"),
    ):
        if bad:
            raise ValueError(
                f"{key}={OmegaConf.select(config, key)} {reason}, which algorithm.egrsd.divergence={kind} does not allow; set it "
                f"to {way_out}."
            )


def _check_teacher_weights(config: Any, egrsd: EgrsdConfig) -> None:
    actor, kind, moves = config.actor_rollout_ref.actor, egrsd.teacher.kind, egrsd.teacher.moves
    if kind == "frozen" and config.actor_rollout_ref.model.get("lora_adapter_path"):
        raise ValueError(
            "actor_rollout_ref.model.lora_adapter_path starts the student from base + adapter, while the frozen teacher would "
            "be the base alone; merge the adapter into the model first and train a fresh one."
        )
    if moves and actor.strategy != "fsdp2":
        raise ValueError(
            f"algorithm.egrsd.teacher.kind={kind} moves the teacher shard by shard, which FSDP1's flat parameters do not allow; "
            "use actor_rollout_ref.actor.strategy=fsdp2."
        )
    precision = config.actor_rollout_ref.ref.fsdp_config
    dtype, float32 = precision.model_dtype, ("fp32", "float32")
    if uses_reference(config) and dtype not in float32 and (precision.get("mixed_precision") or {}).get("param_dtype") in float32:
        raise ValueError(
            f"actor_rollout_ref.ref.fsdp_config.model_dtype={dtype} rounds the teacher's weights before they are used in "
            "mixed_precision.param_dtype=fp32; set it to fp32."
        )
    if kind == "ema" and uses_reference(config) and dtype not in float32:
        raise ValueError(
            f"actor_rollout_ref.ref.fsdp_config.model_dtype={dtype} rounds the small steps of algorithm.egrsd.teacher.kind=ema "
            "to nothing; set it to fp32."
        )
    if moves and uses_reference(config) and (actor.use_kl_loss or config.algorithm.use_kl_in_reward):
        raise ValueError(
            f"algorithm.egrsd.teacher.kind={kind} makes verl's reference model the moving teacher, so the KL term of "
            "actor_rollout_ref.actor.use_kl_loss / algorithm.use_kl_in_reward would follow it; switch the term off."
        )
