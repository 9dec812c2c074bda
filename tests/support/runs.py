"""Real runs of verl's main_ppo on the CPU, small enough for tests, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import INSTRUCTION
from recipe.egrsd.config.resolvers import threads

ROOT = Path(__file__).resolve().parents[2]
RESPONSE_TOKENS = 24
TEMPERATURE = 1.1
MODES = ("egrsd_sync", "egrsd_colocate_async")
# Plain gradient descent: Adam would turn a rounding error in a gradient near 0 into a step of full size.
DESCENT = [
    "actor_rollout_ref.actor.optim.optimizer=SGD", "actor_rollout_ref.actor.optim.lr=0.3",
    "actor_rollout_ref.actor.optim.weight_decay=0",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
]  # fmt: skip
PADDED = [
    "actor_rollout_ref.model.use_remove_padding=False", "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=1",
]  # fmt: skip
LORA = ["actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora_alpha=16"]
# A random model answers nothing right; this reward is right half of the time, so that there is something to learn from.
COIN_REWARD = [f"reward.custom_reward_function.path={ROOT / 'tests' / 'support' / 'coin_reward.py'}"]

SHOWS_NOTHING = """{{ problem }}

{% if '\ue000' in solution %}{{ solution }}

{% endif %}{{ instruction }}"""
"""A teacher's template for null tests. It shows a solution only while it is tried before Ray, in private characters:
one that never does is refused."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    returncode: int
    log: str

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """verl's metrics, one dict a step, validation before training left out."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [entry["data"] for entry in map(json.loads, lines) if "training/global_step" in entry["data"]]

    def probe(self, step: int) -> dict[str, Any]:
        """What tests/support/probe.py saw in that step: every field of the batch when the actor was updated."""
        return torch.load(self.folder / "probe" / f"{step}.pt", weights_only=False)


def command(inputs: Path, folder: Path, overrides: Sequence[str] = (), *, algorithm: str = "cl_egrsd") -> list[str]:
    """A run of three steps of two prompts with four responses each; later overrides win."""
    settings = {
        "algorithm": algorithm,
        "algorithm.egrsd.score_student": "always",  # so that the probe finds log p_S
        "algorithm.egrsd.teacher.instruction": f"'{INSTRUCTION}'",
        "algorithm.egrsd.teacher.template": tiny.TEACHER_TEMPLATE,
        "algorithm.egrsd.teacher.max_prompt_length": 256,
        "data.train_files": inputs / "train.parquet",
        "data.val_files": inputs / "val.parquet",
        "data.train_batch_size": 2,
        "data.max_prompt_length": 128,
        "data.max_response_length": RESPONSE_TOKENS,
        "actor_rollout_ref.rollout.n": 4,
        "actor_rollout_ref.rollout.temperature": TEMPERATURE,
        "data.seed": 1,
        "+data.apply_chat_template_kwargs.enable_thinking": False,
        "actor_rollout_ref.model.path": inputs / "model",
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 1024,
        "actor_rollout_ref.actor.optim.lr": 1e-3,
        "trainer.total_training_steps": 3,
        "trainer.val_before_train": False,
        "trainer.default_local_dir": folder / "checkpoints",
        "trainer.logger": "[file]",
        "hydra.run.dir": folder / "hydra",
    }
    if not algorithm:  # verl's own
        settings = {key: value for key, value in settings.items() if not key.startswith("algorithm")}
    given = {override.lstrip("+").split("=", 1)[0] for override in overrides}
    kept = [f"{key}={value}" for key, value in settings.items() if key.lstrip("+") not in given]
    return [sys.executable, "-m", "verl.trainer.main_ppo", *kept, *overrides]


def environment(folder: Path) -> dict[str, str]:
    """The variables of a run whose files go to this folder; Ray's processes inherit them from whoever starts Ray."""
    return {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": ",".join(filter(None, [os.environ.get("VERL_USE_EXTERNAL_MODULES"), "probe"])),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]),
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "EGRSD_PROBE": str(folder / "probe"),
    }


def run(
    inputs: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    algorithm: str = "cl_egrsd",
    timeout: float = 1000,
    watch: Any = None,
    cwd: Path = ROOT,
    **env: str,
) -> Run:
    """Runs it to its end; ``watch(process, log_path)`` is called once a second meanwhile. Kills it after ``timeout``
    seconds.

    It is started once more where another run ended it before its first step: verl looks for free ports and opens them
    later, and Ray gives a node 30 s to start (ray/_private/node.py:428).
    """
    again = {"algorithm": algorithm, "timeout": timeout, "watch": watch, "cwd": cwd, **env}
    result = _run(inputs, folder, overrides, **again)
    others_fault = any(sign in result.log for sign in ("EADDRINUSE", "The current node timed out during startup"))
    once_more = result.returncode and others_fault and not (folder / "metrics.jsonl").exists()
    return _run(inputs, folder, overrides, **again) if once_more else result


def _run(
    inputs: Path,
    folder: Path,
    overrides: Sequence[str],
    *,
    algorithm: str,
    timeout: float,
    watch: Any,
    cwd: Path,
    **env,
) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    log_path, started = folder / "log", time.monotonic()
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command(inputs, folder, overrides, algorithm=algorithm),
            cwd=cwd,
            env=environment(folder) | env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - started < timeout:
                time.sleep(1)
                if watch:
                    watch(process, log_path)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)
    return Run(folder, process.returncode, log_path.read_text(errors="replace"))


def replaying(recorded: Path, steps: Sequence[int] = (1, 2, 3)) -> list[str]:
    """Overrides by which verl writes the rollouts of these steps to a folder, or trains on those it finds there."""
    settings = {"enable": "true", "steps": str(list(steps)).replace(" ", ""), "dump_dir": recorded}
    return [f"skip.rollout_tq.{key}={value}" for key, value in settings.items()]


def parameters(run: Run, step: int) -> dict[str, torch.Tensor]:
    """The full model in the checkpoint of that step."""
    return load_file(run.folder / "checkpoints" / f"global_step_{step}" / "actor" / "huggingface" / "model.safetensors")


def adapter(run: Run, step: int) -> dict[str, torch.Tensor]:
    """The adapter in the checkpoint of that step, of a run on one rank. verl keeps it among the model's shards."""
    shards = run.folder / "checkpoints" / f"global_step_{step}" / "actor" / "model_world_size_1_rank_0.pt"
    state = torch.load(shards, weights_only=False)
    return {name: tensor.to_local() for name, tensor in state.items() if "lora_" in name}


def good(result: Run) -> Run:
    """The run itself if it ended well; else the end of its log, as a failure."""
    assert result.returncode == 0, result.log[-6000:]
    return result


def processes(name: str, folder: Path) -> list[psutil.Process]:
    """Those of that name that belong to the run whose files are in this folder; others may run beside it."""
    probe = str(folder / "probe")
    found = [
        process for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [""])[0].startswith(name)
    ]
    return [process for process in found if process.environ().get("EGRSD_PROBE") == probe]


def run_plain_grpo(inputs: Path, folder: Path, overrides: list[str]) -> Run:
    """verl without the word, on the CPU: tests/support/plain_grpo.py, the settings a CPU forces, and ours where verl
    leaves a choice."""
    cpu = OmegaConf.load(ROOT / "recipe/egrsd/cpu/config.yaml")
    del cpu.ray_kwargs.ray_init.runtime_env, cpu.trainer.logger
    limits = {"ppo_max_token_len_per_gpu", "log_prob_max_token_len_per_gpu"}
    for part in cpu.actor_rollout_ref.values():  # they follow from a teacher's rows; command() has its own
        for key in limits & set(part.keys()):
            del part[key]
    settings = [
        "algorithm.adv_estimator=grpo", "trainer.v1.trainer_mode=plain_sync", "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.use_dynamic_bsz=true",
        "actor_rollout_ref.actor.entropy_from_logits_with_chunking=true",
        "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES='recipe.egrsd.register,plain_grpo'",
        "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_PLATFORM=cpu",
        "+ray_kwargs.ray_init.runtime_env.env_vars.VLLM_CPU_KVCACHE_SPACE='1'",
        # sums of two threads are not those of one to the bit
        f"+ray_kwargs.ray_init.runtime_env.env_vars.OMP_NUM_THREADS='{threads(ranks=1)}'",
        *(f"++{key}={value}" for key, value in leaves(cpu)),
    ]  # fmt: skip
    return run(
        inputs, folder, [*settings, *overrides], algorithm="", VERL_USE_EXTERNAL_MODULES="", EGRSD_PROBE=os.devnull
    )


def on_bfloat16_grid(values: torch.Tensor) -> bool:
    """True if every value is a bfloat16 number: a float32 that was rounded on its way. One in 65,536 is so by
    chance."""
    values = values[values != 0].float()
    return len(values) > 0 and torch.equal(values.bfloat16().float(), values)


def leaves(node, prefix: str = ""):
    for key, value in node.items():
        if OmegaConf.is_dict(value):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", OmegaConf.to_container(value) if OmegaConf.is_list(value) else str(value)
