"""What a rehearsal and the same script on a GPU train with: they differ in a few keys, none of precision."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from composing import COMPOSE
from legs import LEGS
from runs import ROOT

from examples.rehearsal.scripts import EXAMPLES, GPU_PRECISION, SMALL

# Keys in which a rehearsal differs from what the same command composes for a GPU; everything else, precision too, is
# the same.
ACTOR = "actor_rollout_ref.actor"
ON_A_CPU = {
    "actor_rollout_ref.model.override_config.attn_implementation",
    f"{ACTOR}.use_torch_compile", f"{ACTOR}.fsdp_config.use_torch_compile",
    "actor_rollout_ref.ref.use_torch_compile", "actor_rollout_ref.ref.fsdp_config.use_torch_compile",
    *(f"actor_rollout_ref.rollout.{key}" for key in ("enforce_eager", "enable_sleep_mode", "free_cache_engine")),
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes",
    "actor_rollout_ref.rollout.agent.num_workers", "reward.num_workers", "data.dataloader_num_workers",
    "trainer.device",
    *(f"ray_kwargs.ray_init.{key}" for key in ("num_cpus", "num_gpus", "include_dashboard")),
    f"{ACTOR}.fsdp_config.use_no_sync_for_gradient_accumulation",
    *(
        f"ray_kwargs.ray_init.runtime_env.env_vars.{key}"
        for key in ("VERL_PLATFORM", "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    ),
}  # fmt: skip


def composed(platform: str, overrides: Sequence[str], folder: Path) -> dict[str, dict]:
    """Leg -> every key of what its script would train with on that platform, by name."""
    echo = folder / "echo"  # stands in for python
    echo.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[3:]))\n")
    echo.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VERL_")} | {
        "VERL_PLATFORM": platform
    }
    cases = {}
    for leg, (name, own) in LEGS.items():
        variables = {**kept, **SMALL, **own, "PYTHON": str(echo), "OUTPUT": str(folder)}
        printed = subprocess.check_output([EXAMPLES / name, *overrides], env=variables, text=True).splitlines()[-1]
        # the metrics file's name is the time
        cases[leg] = ("ppo_trainer", [word for word in json.loads(printed) if "VERL_FILE_LOGGER_PATH" not in word])
    process = subprocess.run(
        [sys.executable, "-c", COMPOSE],
        env=kept,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {leg: dict(_leaves(json.loads(process.stdout)[leg])) for leg in LEGS}


def _leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def test_a_rehearsal_differs_from_the_gpus_run_in_these_keys_alone(tmp_path):
    on_cpu, on_gpu, missing, found = (
        composed("cpu", GPU_PRECISION, tmp_path),
        composed("", (), tmp_path),
        object(),
        set(),
    )
    for leg in LEGS:
        ours, theirs = on_cpu[leg], on_gpu[leg]
        found |= {key for key in ours.keys() | theirs.keys() if ours.get(key, missing) != theirs.get(key, missing)}
    assert found == ON_A_CPU
