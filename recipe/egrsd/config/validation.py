"""Every check across keys of a whole verl config: what would not be EGRSD, or EGRSD on wrong numbers, is refused by
name.

``validate`` runs when the command line has been read, before Ray starts, and once more in the trainer's constructor.
Imports neither torch nor verl.
"""

import math
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe.egrsd.config import methods, models, objective, passes, verl_keys, verl_version
from recipe.egrsd.config.derived import sequence_parallel_ranks
from recipe.egrsd.config.schema import FEEDBACK_PRIVILEGES, PEER_PRIVILEGES, TRAINER_MODES, EgrsdConfig, read
from recipe.egrsd.config.strict import one_line


def validate(config: Any) -> EgrsdConfig:
    """Checks a whole verl config, as hydra or a trainer hands it over, and returns its ``algorithm.egrsd``.

    Raises:
        ValueError: for the first setting under which a run would not be EGRSD, would be EGRSD on wrong numbers, or
            would fail late. The sentence names the key, the reason and the way out. Whatever else stops a check becomes
            one, too.
        RuntimeError: for a verl outside the range that the tests ran on (REQUIRED_VERL.txt), unless
            EGRSD_ALLOW_UNTESTED_VERL=1.
    """
    try:
        return _validated(config)
    except Exception as error:
        refusal = RuntimeError if type(error) is RuntimeError else ValueError
        raise refusal(one_line(error)) from error


def _validated(config: DictConfig) -> EgrsdConfig:
    verl_version.check()
    _check_engine(config)
    egrsd = read(config.algorithm.egrsd)
    verl_keys.check(config)
    check_entry({"use_v1": config.trainer.use_v1, "trainer_mode": config.trainer.v1.trainer_mode})
    model = config.actor_rollout_ref.model
    _check_trainer(config)
    _check_batches(config)
    _check_baseline(config, egrsd)
    _check_numerics(config, model)
    passes.check(config, egrsd)
    models.check(config, egrsd)
    if egrsd.privilege in PEER_PRIVILEGES:
        methods.check_peers(config, egrsd)
    if egrsd.privilege == "answer_contrast":
        methods.check_answers(config, egrsd)
    methods.check_prefix(config, egrsd)
    if egrsd.privilege in FEEDBACK_PRIVILEGES:
        methods.check_feedback(config, egrsd)
    if egrsd.pulls:
        methods.check_divergence(config, egrsd)
    objective.check(config, egrsd)
    return egrsd


def check_entry(entry: Mapping[str, Any]) -> None:
    """What any trainer, verl's own included, meets first: the data set calls it with ``data.egrsd``.

    Raises:
        ValueError: if the run is about to be led by a trainer that knows nothing of EGRSD.
    """
    if not entry["use_v1"]:
        raise ValueError(
            "trainer.use_v1=false runs verl's legacy trainer, which would train without EGRSD; drop that override."
        )
    if entry["trainer_mode"].removeprefix("egrsd_") == "separate_async":
        raise ValueError(
            "trainer.v1.trainer_mode=separate_async is not supported by EGRSD: verl then makes several updates in a "
            "step, with one batch maximum, baseline and teacher for all of them, and its weight transfer needs NCCL, "
            f"which our tests on CPUs do not have; use one of {list(TRAINER_MODES)}."
        )
    if entry["trainer_mode"] not in TRAINER_MODES:
        raise ValueError(
            f"trainer.v1.trainer_mode={entry['trainer_mode']} selects verl's own trainer, which would train plain "
            f"GRPO; use one of {list(TRAINER_MODES)} (algorithm=egrsd sets the first)."
        )


def check_data_files(data: Any) -> None:
    """Rows are read by the trainer, minutes later; verl reads hdfs:// and the like itself.

    Raises:
        ValueError: for the first file of ``data`` that the launching machine does not see.
    """
    for key in ("train_files", "val_files"):
        files = data.get(key) or []
        for file in [files] if isinstance(files, str) else files:
            path = Path(file).expanduser()
            if "://" not in file and not path.exists() and not glob(str(path)):  # verl's reader takes patterns, too
                raise ValueError(
                    f"data.{key}={file} is not here; write it with python -m recipe.egrsd.prepare_data, or correct the "
                    "name."
                )


def _check_batches(config: Any) -> None:
    """Whole mini-batches, each shared equally by the ranks."""
    actor, batch, n = config.actor_rollout_ref.actor, config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    mini, gpus, nodes = actor.ppo_mini_batch_size, config.trainer.n_gpus_per_node, config.trainer.nnodes
    if batch % mini:
        raise ValueError(
            f"data.train_batch_size={batch} is no multiple of actor_rollout_ref.actor.ppo_mini_batch_size={mini}, so "
            "that verl would fill the last update up with empty responses; set the second to "
            f"{next(size for size in range(min(mini, batch), 0, -1) if batch % size == 0)}."
        )
    if mini * n % (ranks := max(1, gpus * nodes // sequence_parallel_ranks(actor))):
        raise ValueError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini} x actor_rollout_ref.rollout.n={n} responses cannot be "
            f"shared equally by the {ranks} data-parallel ranks of trainer.n_gpus_per_node={gpus} x trainer.nnodes="
            f"{nodes}; use a multiple of {ranks}."
        )
    rollout = config.actor_rollout_ref.rollout
    engine = math.prod(rollout[f"{split}_parallel_size"] for split in ("tensor_model", "data", "pipeline_model"))
    if gpus * nodes % engine:  # verl looks when models are loaded (engine_workers.py:659)
        raise ValueError(
            f"trainer.n_gpus_per_node={gpus} x trainer.nnodes={nodes}: {gpus * nodes} GPUs cannot be shared out to "
            f"vLLM engines of {engine} (actor_rollout_ref.rollout.{{tensor_model,data,pipeline_model}}_parallel_size); "
            f"use a divisor of {gpus * nodes}."
        )


def _check_trainer(config: Any) -> None:
    algorithm = config.algorithm
    if algorithm.adv_estimator != "egrsd":
        raise ValueError(
            f"algorithm.adv_estimator={algorithm.adv_estimator} would bypass EGRSD's advantage; name the estimator in "
            f"algorithm.egrsd.advantage={algorithm.adv_estimator} instead."
        )
    if (algorithm.get("rollout_correction") or {}).get("bypass_mode"):
        raise ValueError(
            "algorithm.rollout_correction.bypass_mode=true takes the student's log-probs from vLLM and the teacher's "
            "from the training engine, so their ratio would measure the engines; set it to false."
        )
    if (config.get("distillation") or {}).get("enabled"):
        raise ValueError("distillation.enabled=true replaces the loss that EGRSD weights; set it to false.")
    if config.actor_rollout_ref.actor.checkpoint.async_save:
        raise ValueError(
            "actor_rollout_ref.actor.checkpoint.async_save=true saves no sooner with fsdp2, and verl then never names "
            "a checkpoint as complete, so that a resumed run would start at step 0 over the old ones; set it to false."
        )


def _check_engine(config: Any) -> None:
    """FSDP2 is the one engine on which a run of ours was ever made."""
    parts = config.actor_rollout_ref
    if config.get("model_engine", "dp") != "dp":
        raise ValueError(
            f"model_engine={config.model_engine} is not supported by EGRSD; drop that override, for verl's own dp."
        )
    for part in ("actor", "ref"):
        if "fsdp_config" not in parts[part]:
            raise ValueError(
                f"actor_rollout_ref.{part} has no fsdp_config, so it is not verl's dp_{part}; drop that override."
            )
        if parts[part].strategy != "fsdp2":
            raise ValueError(
                f"actor_rollout_ref.{part}.strategy={parts[part].strategy} is not supported by EGRSD: every run of "
                "ours was FSDP2; drop that override (algorithm=egrsd sets fsdp2)."
            )


def _check_baseline(config: Any, egrsd: EgrsdConfig) -> None:
    if egrsd.rewards_count and egrsd.advantage == "running" and config.algorithm.use_kl_in_reward:
        raise ValueError(
            "algorithm.use_kl_in_reward=true takes the KL term off the rewards after the running baseline has learnt "
            "them, so that every advantage would be shifted by it; use actor_rollout_ref.actor.use_kl_loss=true, or "
            "another algorithm.egrsd.advantage, such as grpo."
        )


def _check_numerics(config: Any, model: Any) -> None:
    """float32 log-probs and entropies, for student and teacher."""
    vendor = config.ray_kwargs.ray_init.runtime_env.env_vars.get("VERL_ENGINE_VENDOR")
    if vendor != "egrsd":
        raise ValueError(
            f"ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR={vendor} selects an engine that rounds "
            "logits to bfloat16; leave it at egrsd."
        )
    if model.use_fused_kernels:
        raise ValueError(
            "actor_rollout_ref.model.use_fused_kernels=true: no fused kernel was ever run with EGRSD, and verl's torch "
            "backend rounds the entropy to bfloat16; set it to false."
        )
