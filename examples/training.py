"""One training run through verl's main_ppo: a script as a process, and the metrics that it writes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from examples.group import PRESETS

SHOWN_LOG_LINES = 60
NOT_HERE = {"copsd": "copsd trains on problems in two languages, which the demos' tasks do not have (docs/modes.md)"}


def presets() -> list[str]:
    """The words that ``algorithm=`` takes, as far as the tasks of examples/ have what they need."""
    return sorted({path.stem for path in PRESETS.glob("*.yaml")} - NOT_HERE.keys())


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run that can be started, or started again to go on from its last checkpoint."""

    script: Path
    folder: Path
    """Of checkpoints, metrics, log."""
    model: Path
    data: Path
    algorithm: str
    seed: int
    steps: int
    variables: Mapping[str, str] = field(default_factory=dict)
    """What the script reads besides."""
    overrides: Sequence[str] = ()
    """Further settings of verl's command line."""

    @property
    def log(self) -> Path:
        return self.folder / "training.log"

    @property
    def checkpoint(self) -> Path:
        """verl's, of the last step."""
        return self.folder / "checkpoints" / f"global_step_{self.steps}"

    @property
    def result(self) -> Path:
        """Hugging Face folder of the trained model."""
        return self.checkpoint / "actor" / "huggingface"

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        """verl's metrics by step; a resumed run's later file wins."""
        return steps_of(self.folder / "metrics")

    def environment(self) -> dict[str, str]:
        """What the script reads."""
        return {
            "MODEL": str(self.model),
            "DATA": str(self.data),
            "OUTPUT": str(self.folder / "checkpoints"),
            "ALGORITHM": self.algorithm,
            "SEED": str(self.seed),
            "STEPS": str(self.steps),
            "PYTHON": sys.executable,
            "BATCH": "",  # the script's own numbers, not the shell's of these names
            "LR": "",
            **self.variables,
        }

    def run(self, watch: Callable[[subprocess.Popen], None] = subprocess.Popen.wait) -> Path:
        """Trains and returns ``result``; ``watch`` is given the process and returns when that has ended.

        Raises:
            RuntimeError: with the end of the log, if the training failed.
        """
        metrics = self.folder / "metrics" / f"{len(list((self.folder / 'metrics').glob('*'))):03d}.jsonl"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        command = ["bash", str(self.script), f"hydra.run.dir={self.folder / 'hydra'}", *self.overrides]
        environment = {**os.environ, **self.environment(), "VERL_FILE_LOGGER_PATH": str(metrics)}
        with self.log.open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            try:
                watch(process)
            finally:
                process.terminate()
        if process.returncode:
            end = "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-SHOWN_LOG_LINES:])
            raise RuntimeError(
                f"{end}\nThe training ended with exit code {process.returncode}; the whole log is {self.log}"
            )
        return self.result


def steps_of(folder: Path) -> dict[int, dict[str, float]]:
    """verl's metrics by step, from every file of the folder; a later file wins what both name."""
    steps = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a run that is writing, or was killed while it did
                entry = json.loads(line)
                steps.setdefault(entry["step"], {}).update(entry["data"])
    return steps
