"""A training run on one of the tiny tasks: its data, and train.sh with the task's limits."""

from collections.abc import Sequence
from pathlib import Path

from examples.tiny_cpu.task import TASKS, make_problems, write_parquet
from examples.training import Training, presets

TRAIN_SCRIPT = Path(__file__).with_name("train.sh")
# Every preset of the recipe, and plain GRPO, which train.sh makes of one of them.
ALGORITHMS = [*presets(), "grpo"]
SIZES = {"train": 1600, "validation": 8}  # problems; 40 steps use 1280


def write_data(folder: Path, *, task: str, seed: int) -> None:
    """train.parquet and validation.parquet."""
    for split, size in SIZES.items():
        write_parquet(make_problems(split, size, seed=seed, task=task), folder / f"{split}.parquet")


def tiny_training(
    folder: Path,
    model: Path,
    data: Path,
    *,
    task: str,
    algorithm: str,
    seed: int,
    steps: int,
    overrides: Sequence[str] = (),
) -> Training:
    """A run of train.sh on that task."""
    limits = {name: str(getattr(TASKS[task], name)) for name in ("MAX_PROMPT", "MAX_RESPONSE", "MAX_TEACHER_PROMPT")}
    settings = {"algorithm": algorithm, "seed": seed, "steps": steps, "variables": limits, "overrides": overrides}
    return Training(script=TRAIN_SCRIPT, folder=folder, model=model, data=data, **settings)
