"""The scripts in examples/, run in a shell: their variables, and the config that their command is composed to."""

import os
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from runs import ROOT

import recipe.egrsd.hydra_plugin  # noqa: F401  opens the config group

EXAMPLES = ROOT / "examples"
MODELS = {"Qwen3-4B": "run_qwen3_4b_fsdp.sh", "Qwen3-8B": "run_qwen3_8b_fsdp.sh"}
METRICS_FILE = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH"

# Every variable of run_qwen3_fsdp.sh: a value unlike any script's default, and the keys it must reach when all are
# given at once.
OPTIM, ROLLOUT = "actor_rollout_ref.actor.optim", "actor_rollout_ref.rollout"
KNOBS = {
    "MODEL": ("me/other", {"actor_rollout_ref.model.path": "me/other"}),
    "ALGORITHM": ("rlsd", {"algorithm.egrsd.mixing": 0.5}),
    "NAME": ("mine", {"trainer.experiment_name": "mine"}),
    "DATA": ("/d", {"data.train_files": "/d/train.parquet", "data.val_files": "/d/validation.parquet"}),
    "SEED": (7, {"data.seed": 7, f"{ROLLOUT}.seed": 7}),
    "GAMMA": (0.6, {"algorithm.egrsd.gamma": 0.6}),
    "WINDOW": (4, {"algorithm.egrsd.window": 4}),
    "CLIP_RANGE": (0.1, {"algorithm.egrsd.clip_range": 0.1}),
    "LENGTH_BONUS": (0, {"algorithm.egrsd.length_bonus": 0}),
    "ROLLOUTS": (4, {f"{ROLLOUT}.n": 4}),
    "TEACHER_KIND": ("live", {"algorithm.egrsd.teacher.kind": "live"}),
    "SYNC_EVERY": (9, {"algorithm.egrsd.teacher.sync_every": 9}),
    "EMA_DECAY": (
        0.9,
        {"algorithm.egrsd.teacher.ema_decay": 0.9, "actor_rollout_ref.ref.fsdp_config.model_dtype": "fp32"},
    ),
    "PRIVILEGE": ("shuffled", {"algorithm.egrsd.privilege": "shuffled"}),
    "STUDENT_THINKING": ("true", {"data.apply_chat_template_kwargs.enable_thinking": True}),
    "TEACHER_THINKING": ("false", {"algorithm.egrsd.teacher.enable_thinking": False}),
    "MAX_RESPONSE": (2000, {"data.max_response_length": 2000}),
    "MAX_SEQUENCE": (
        9000,
        {
            "algorithm.egrsd.teacher.max_prompt_length": 7000,
            f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 9000,
            "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 9000,
        },
    ),
    "MAX_PROMPT": (500, {"data.max_prompt_length": 500, f"{ROLLOUT}.max_model_len": 2500}),
    "TEMPERATURE": (0.7, {f"{ROLLOUT}.temperature": 0.7}),
    "TOP_P": (0.8, {f"{ROLLOUT}.top_p": 0.8}),
    "TOP_K": (-1, {f"{ROLLOUT}.top_k": -1}),
    "LORA_RANK": (8, {"actor_rollout_ref.model.lora_rank": 8}),
    "LORA_ALPHA": (8, {"actor_rollout_ref.model.lora_alpha": 8}),
    "LORA_TARGETS": ("all-linear", {"actor_rollout_ref.model.target_modules": "all-linear"}),
    "LR": ("2e-5", {f"{OPTIM}.lr": 2e-5}),
    "LR_SCHEDULE": ("cosine", {f"{OPTIM}.lr_scheduler_type": "cosine"}),
    "LR_WARMUP_STEPS": (5, {f"{OPTIM}.lr_warmup_steps": 5}),
    "WEIGHT_DECAY": (0.1, {f"{OPTIM}.weight_decay": 0.1}),
    "GRAD_CLIP": (1.0, {f"{OPTIM}.clip_grad": 1.0}),
    "BATCH": (64, {"data.train_batch_size": 64, "actor_rollout_ref.actor.ppo_mini_batch_size": 64}),
    "STEPS": (5, {"trainer.total_training_steps": 5}),
    "SAVE_FREQ": (3, {"trainer.save_freq": 3}),
    "TEST_FREQ": (3, {"trainer.test_freq": 3}),
    "VAL_SAMPLES": (3, {f"{ROLLOUT}.val_kwargs.n": 3}),
    "VAL_TEMPERATURE": (0.5, {f"{ROLLOUT}.val_kwargs.temperature": 0.5}),
    "VAL_TOP_P": (0.5, {f"{ROLLOUT}.val_kwargs.top_p": 0.5}),
    "LOGGER": ("[console]", {"trainer.logger": ["console"]}),
    "SAVE_TOKENS_EVERY": (3, {"algorithm.egrsd.save_tokens_every": 3}),
    "NNODES": (2, {"trainer.nnodes": 2}),
    "N_GPUS": (4, {"trainer.n_gpus_per_node": 4}),
    "TP": (2, {f"{ROLLOUT}.tensor_model_parallel_size": 2}),
    "GPU_MEMORY": (0.7, {f"{ROLLOUT}.gpu_memory_utilization": 0.7}),
    "MAX_TOKENS_PER_GPU": (5000, {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 5000}),
    "DATA_WORKERS": (3, {"data.filter_overlong_prompts_workers": 3}),
}


def shell(script: str, *words: str, cwd: Path, **variables) -> subprocess.CompletedProcess[str]:
    """The script in a shell that has set none of its variables."""
    ours = {*KNOBS, "OUTPUT", "DOCTOR", "RUN", "SWEEPS", "DRY_RUN", "PYTHON"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("VERL_", "HYDRA_"))
    }
    environment = kept | {"PYTHON": sys.executable} | {name: str(value) for name, value in variables.items()}
    return subprocess.run(
        [EXAMPLES / script, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def config_of(given: list[str]) -> DictConfig:
    assert given[:2] == ["-m", "verl.trainer.main_ppo"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", given[2:])


def plain(value):
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
