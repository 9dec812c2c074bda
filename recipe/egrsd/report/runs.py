"""What a run has left in its folder: metrics, saved tokens, evaluations."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import pyarrow.parquet as pq

STEP_OF_CHECKPOINT = re.compile(r"global_step_(\d+)")


@dataclass(frozen=True)
class Estimate:
    value: float
    se: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One results.json. Accuracies are shares."""

    step: int | None
    """Of the checkpoint; None for any other model, such as the one that training starts from."""
    model: str
    accuracy: Estimate
    """Mean over benchmarks, as is tokens."""
    tokens: Estimate
    benchmarks: dict[str, tuple[Estimate, Estimate]]
    """Accuracy and response tokens of each."""
    samples: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    name: str
    metrics: dict[int, dict[str, float]]
    """Step -> what verl logged, numbers only."""
    evaluations: list[Evaluation]
    tokens: dict[int, list[dict[str, Any]]]
    """Step -> rows of watch/tokens.py."""
    settings: dict[str, Any]
    """algorithm.egrsd, as far as the tokens know it."""
    remarks: list[str]

    @cached_property
    def validation(self) -> dict[int, float]:
        """Step -> mean over the validation sets of verl's main figure."""
        means = {}
        for step, data in self.metrics.items():
            found = [value for name, value in data.items() if name.startswith("val-core/") and "/mean@" in name]
            if found:
                means[step] = sum(found) / len(found)
        return means

    @property
    def checkpoints(self) -> dict[int, Evaluation]:
        return {e.step: e for e in sorted(self.evaluations, key=lambda e: e.step or 0) if e.step is not None}

    def chosen(self) -> dict[str, Evaluation]:
        """The checkpoints that a table may show, by rules fixed before any benchmark is looked at.

        last        the latest that was evaluated
        validation  of those evaluated, the one with the highest validation figure, the earliest of equals
        """
        evaluated = self.checkpoints
        validated = [step for step in evaluated if step in self.validation]
        rules = {"last": max(evaluated, default=None)}
        rules["validation"] = max(validated, key=lambda step: (self.validation[step], -step), default=None)
        return {rule: evaluated[step] for rule, step in rules.items() if step is not None}


def named(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each folder with its name, or its path where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        yield folder, name if names.count(name) == 1 else str(folder)


def read_run(folder: Path, name: str) -> Run:
    """ValueError if the folder does not exist or holds nothing to report."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name the folder of a run.")
    remarks: list[str] = []
    metrics, (tokens, settings) = _metrics(folder, remarks), _tokens(folder)
    evaluations = _evaluations(folder)
    if not (metrics or tokens or evaluations):
        raise ValueError(
            f"{folder} holds no metrics.jsonl (set VERL_FILE_LOGGER_PATH and trainer.logger=[file]), no "
            "tokens/step_N.parquet (algorithm.egrsd.save_tokens_every) and no results.json (python -m "
            "recipe.egrsd.evaluate)."
        )
    return Run(name, metrics, evaluations, tokens, settings, remarks)


def _metrics(folder: Path, remarks: list[str]) -> dict[int, dict[str, float]]:
    """From metrics.jsonl, or every file of metrics/, where a resumed run's later file wins."""
    steps: dict[int, dict[str, float]] = {}
    for path in [*folder.glob("metrics.jsonl"), *sorted(folder.glob("metrics/*.jsonl"))]:
        torn = []
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            try:
                entry = json.loads(line)
                numbers = {name: value for name, value in entry["data"].items() if _is_number(value)}
                steps.setdefault(int(entry["step"]), {}).update(numbers)
            except (ValueError, KeyError, TypeError, AttributeError):
                torn.append(number)
        if torn:
            remarks.append(f"{path.name}: line(s) {torn} are no metrics and were left out")
    return dict(sorted(steps.items()))


def _tokens(folder: Path) -> tuple[dict[int, list[dict[str, Any]]], dict[str, Any]]:
    steps, settings = {}, {}
    files = sorted(folder.rglob("tokens/step_*.parquet"))
    if len({path.parent for path in files}) > 1:
        found = ", ".join(sorted({str(path.parent) for path in files}))
        raise ValueError(f"{folder} holds the tokens of several runs ({found}); name the folder of each run.")
    for path in files:
        table = pq.read_table(path)
        settings = json.loads((table.schema.metadata or {}).get(b"egrsd", b"{}"))
        steps[int(path.stem.removeprefix("step_"))] = [_with_teacher_mask(row) for row in table.to_pylist()]
    return dict(sorted(steps.items())), settings


def _with_teacher_mask(row: dict[str, Any]) -> dict[str, Any]:
    """Files of before that column do not tell what was scored: every sampled token of a row with a teacher's prompt."""
    return {"teacher_mask": [sampled and bool(row["teacher_prompt"]) for sampled in row["mask"]], **row}


def _evaluations(folder: Path) -> list[Evaluation]:
    """ValueError if a checkpoint was evaluated twice: which one is meant is not for a report to say."""
    paths = sorted(folder.rglob("results.json"))
    evaluations = [_evaluation(path, folder) for path in paths]
    for i, evaluation in enumerate(evaluations):
        twins = [path for path, other in zip(paths, evaluations, strict=True) if other.step == evaluation.step]
        if evaluation.step is not None and len(twins) > 1:
            raise ValueError(f"{paths[i]} and {twins[1]} both evaluate step {evaluation.step}; move one of them away.")
    return evaluations


def _evaluation(path: Path, folder: Path) -> Evaluation:
    """ValueError names the file and what it lacks."""
    try:
        results = json.loads(path.read_text())
        benchmarks = {
            name: (_estimate(figures, "accuracy", "avg"), _estimate(figures, "tokens_mean"))
            for name, figures in results["benchmarks"].items()
        }
        macro = results.get("macro") or {}
        accuracy, tokens = (
            _estimate(macro, *names) if names[0] in macro or names[-1] in macro else _mean(column)
            for names, column in zip(
                (("accuracy", "avg"), ("tokens_mean",)), zip(*benchmarks.values(), strict=True), strict=True
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no evaluation: {type(error).__name__} {error}; move it away or evaluate again."
        ) from error
    model = str(results.get("adapter") or results.get("model", ""))  # an adapter's model may be the untrained one
    steps = STEP_OF_CHECKPOINT.findall(model) or STEP_OF_CHECKPOINT.findall(str(path.relative_to(folder)))
    samples = {name: figures.get("samples") for name, figures in results["benchmarks"].items()}
    return Evaluation(int(steps[-1]) if steps else None, model, accuracy, tokens, benchmarks, samples)


def _estimate(figures: Mapping[str, Any], *names: str) -> Estimate:
    """The first of the names there: {"value", "se"}, or a number with "se" beside it."""
    found = next((figures[name] for name in names if name in figures), None)
    if isinstance(found, Mapping):
        return Estimate(float(found["value"]), found.get("se"))
    if not _is_number(found):
        raise KeyError(f"none of {names} is a number")
    return Estimate(float(found), figures.get("se") if "tokens_mean" not in names else None)


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Of independent estimates."""
    errors = [estimate.se for estimate in estimates if estimate.se is not None]
    se = None if len(errors) < len(estimates) else math.sqrt(sum(error**2 for error in errors)) / len(errors)
    return Estimate(sum(estimate.value for estimate in estimates) / len(estimates), se)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
