"""A shipped script as a process: started unchanged with variables in front and keys behind, left to its end or
killed."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from recipe.egrsd import cpu

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
POLL_SECONDS = 0.1
FAMILY_SECONDS = 1.0  # between two looks at what a run has started; each reads all of /proc
GRACE_SECONDS = (
    90  # for what a run has started to end behind it: two agents of Ray look for a killed server for a minute
)
GPU_PRECISION = (
    # recipe/egrsd/cpu/config.yaml makes all of a CPU run float32. These give it back what a GPU run has: verl's own
    # mixed precision (bfloat16 parameters and autocast, float32 sums), the teacher and the rollout in bfloat16.
    "~actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "~actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.model_dtype=bf16",
    "actor_rollout_ref.rollout.dtype=bfloat16",
)
SMALL = {
    # of the scripts' variables, for the small model of model.py on a CPU
    "BATCH": "8",
    "MAX_PROMPT": "128",
    "MAX_RESPONSE": "16",
    "MAX_SEQUENCE": "400",
    "MAX_TOKENS_PER_GPU": "400",
    "DATA_WORKERS": "1",
    "VAL_SAMPLES": "1",
}


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    returncode: int | None
    """Negative: by that signal. None: it ran out of time and was ended."""
    seconds: float
    outlived_by: list[str] = field(default_factory=list)
    """Names of processes that it had started and that had to be killed after GRACE_SECONDS."""

    @property
    def well(self) -> bool:
        return self.returncode == 0 and not self.outlived_by


def run(
    command: Sequence[str | Path],
    *,
    log: Path,
    timeout: float,
    variables: Mapping[str, str] | None = None,
    kill_when: Callable[[], bool] = lambda: False,
) -> Ended:
    """Runs a command; its output is appended to ``log``.

    Args:
        command: the words; PYTHON names this very Python to a script.
        timeout: seconds after which it is ended, with all that it has started.
        variables: added to the environment.
        kill_when: asked ten times a second; true: SIGKILL, to the process alone.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started, family = time.monotonic(), {}
    environment = {**os.environ, "PYTHON": sys.executable, **(variables or {})}
    with log.open("a") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            timed_out = not _watched(process, family, until=started + timeout, kill_when=kill_when)
        finally:
            _stop(process)
            outlived_by = _end(family.values())
    return Ended(None if timed_out else process.returncode, time.monotonic() - started, outlived_by)


def _watched(
    process: subprocess.Popen, family: dict[int, psutil.Process], *, until: float, kill_when: Callable[[], bool]
) -> bool:
    """Waits for its end; False if that has not come in time. Fills ``family`` with all that it starts."""
    looked = 0.0
    while process.poll() is None:
        if time.monotonic() > until:
            return False
        now = kill_when()
        if now or time.monotonic() > looked + FAMILY_SECONDS:
            family |= _family_of(process.pid)
            looked = time.monotonic()
        if now:
            process.kill()
        time.sleep(POLL_SECONDS)
    return True


def _stop(process: subprocess.Popen) -> None:
    """Asks it to end, if it has not, and then ends it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    process.kill()
    process.wait()


def _family_of(pid: int) -> dict[int, psutil.Process]:
    """Whatever it has started, by process id; they lose their parent when it is killed."""
    with suppress(psutil.NoSuchProcess):
        return {child.pid: child for child in psutil.Process(pid).children(recursive=True)}
    return {}


def _end(processes: Sequence[psutil.Process]) -> list[str]:
    """Waits for them, kills those that stay, and returns their command lines."""
    _, left = psutil.wait_procs(list(processes), timeout=GRACE_SECONDS)
    names = []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            names.append(" ".join(process.cmdline())[:80] or process.name())
            process.kill()
    return names


@dataclass(frozen=True)
class Script:
    """A script of examples/ with its variables and overrides; the same one again resumes it."""

    name: str
    output: Path
    """Its variable OUTPUT: checkpoints, metrics, tokens."""
    variables: Mapping[str, str]
    overrides: Sequence[str] = ()

    @property
    def log(self) -> Path:
        return self.output / "log"

    @property
    def tracker(self) -> Path:
        return self.output / "checkpoints" / "latest_checkpointed_iteration.txt"

    def saved(self) -> int:
        """The step of the last complete checkpoint; 0 for none."""
        text = self.tracker.read_text().strip() if self.tracker.exists() else ""
        return int(text or 0)

    def checkpoint(self, step: int) -> Path:
        return self.output / "checkpoints" / f"global_step_{step}"

    def parameters(self, step: int) -> dict[str, torch.Tensor]:
        """Each rank's part of each parameter in the checkpoint of that step, by shard and name."""
        logging.getLogger("torch.distributed.device_mesh").setLevel(
            logging.ERROR
        )  # warns of shards read outside of their run
        parts = {}
        for shard in sorted((self.checkpoint(step) / "actor").glob("model_world_size_*_rank_*.pt")):
            state = torch.load(shard, map_location="cpu", weights_only=False)
            parts |= {f"{shard.stem}: {name}": tensor.to_local() for name, tensor in state.items()}
        return parts

    def run(self, *, timeout: float, kill_when: Callable[[], bool] = lambda: False, **more: str) -> Ended:
        """Once; ``more``: variables that differ from this script's own."""
        overrides = [*self.overrides, f"hydra.run.dir={self.output / 'hydra'}"]
        variables = {"OUTPUT": str(self.output), **self.variables, **more}
        command = [EXAMPLES / self.name, *overrides]
        return run(command, log=self.log, timeout=timeout, variables=variables, kill_when=kill_when)


def precision() -> Sequence[str]:
    """Keys by which a run on this machine computes as a GPU run does."""
    return GPU_PRECISION if cpu.enabled() else ()
