"""The experiment behind compare.sh: every method from the same start models, on the same problems, over several seeds.

A method is a preset with settings of its own: ``egrsd``, or ``egrsd,gamma=1.0`` for algorithm.egrsd.gamma=1.0. For each
seed there is one warm-started model, one set of training problems in one order, and one set of held-out problems.
results.json grows by one entry for every finished run, and a second start of the same experiment does only what is
missing.
"""

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

from examples.tiny_cpu.evaluate import evaluate
from examples.tiny_cpu.paired import START, comparison_table
from examples.tiny_cpu.picture import draw_comparison
from examples.tiny_cpu.positions import profile
from examples.tiny_cpu.task import TASKS, make_problems
from examples.tiny_cpu.training import ALGORITHMS, tiny_training, write_data
from examples.tiny_cpu.warm_start import warm_start_once
from examples.training import NOT_HERE

PROFILED = 200  # responses whose positions are scored


@dataclass(frozen=True)
class Experiment:
    """What every run of a comparison shares."""

    folder: Path
    task: str
    steps: int
    num_problems: int

    @property
    def settings(self) -> dict:
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    def run(self, method: str, seed: int) -> dict:
        """Measures the start model of a seed, which this makes, or what a method makes of it."""
        began, start = time.perf_counter(), self.folder / f"seed_{seed}"
        if method == START:
            write_data(start / "data", task=self.task, seed=seed)
            warm_start_once(start / "model", seed=seed, task=self.task)
            result = self._measure(start / "model", start / "model", seed)
            teacher = evaluate(start / "model", self._problems(seed), role="teacher", seed=seed)
            result |= {"teacher_accuracy": mean(teacher.correct), "teacher_length": mean(teacher.lengths)}
        else:
            algorithm, overrides = parse_method(method)
            folder = start / folder_name(method)
            shutil.rmtree(folder, ignore_errors=True)  # of a run that did not finish
            overrides = [*overrides, f"trainer.save_freq={self.steps}"]
            shared = {"task": self.task, "seed": seed, "steps": self.steps}
            training = tiny_training(
                folder, start / "model", start / "data", **shared, algorithm=algorithm, overrides=overrides
            )
            result = self._measure(training.run(), start / "model", seed)
            result["rollout_accuracy"] = mean(step["egrsd/correct_frac"] for step in training.metrics.values())
        return result | {"seconds": round(time.perf_counter() - began)}

    def _problems(self, seed: int) -> list:
        return make_problems("test", self.num_problems, seed=seed, task=self.task)

    def _measure(self, model: Path, start: Path, seed: int) -> dict:
        problems = self._problems(seed)
        sampled = evaluate(model, problems, seed=seed)
        positions = profile(model, start, problems[:PROFILED], sampled.tokens[:PROFILED])
        return {
            "accuracy": mean(sampled.correct),
            "length": mean(sampled.lengths),
            "fork_entropy": positions["fork"]["student_entropy"],
            "positions": positions,
        }


class Results:
    """results.json: settings, then for every method and seed what was measured."""

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {"settings": settings, "runs": {}}
        if self.content["settings"] != settings:
            raise ValueError(
                f"{path} holds runs with {self.content['settings']}, not {settings}; name another --folder, or remove "
                "it."
            )

    @property
    def runs(self) -> dict[str, dict[str, dict]]:
        """Method -> seed -> what was measured."""
        return self.content["runs"]

    def missing(self, methods: Iterable[str], seeds: Iterable[int]) -> list[tuple[str, int]]:
        """Seed by seed, so that an experiment that is stopped early has whole seeds."""
        methods = list(methods)
        return [(method, seed) for seed in seeds for method in methods if str(seed) not in self.runs.get(method, {})]

    def add(self, method: str, seed: int, result: dict) -> None:
        """Adds a run. The file is always whole: it is replaced, not written to."""
        self.runs.setdefault(method, {})[str(seed)] = result
        unfinished = self.path.with_suffix(".partial")
        unfinished.write_text(json.dumps(self.content, indent=2) + "\n")
        unfinished.replace(self.path)


def parse_method(method: str) -> tuple[str, list[str]]:
    """``egrsd,gamma=1.0`` -> the preset and its overrides on verl's command line.

    Raises:
        ValueError: for a preset that does not exist.
    """
    algorithm, *settings = method.split(",")
    if algorithm not in ALGORITHMS:
        raise ValueError(NOT_HERE.get(algorithm, f"{algorithm} is no preset; choose from {ALGORITHMS}."))
    return algorithm, [f"algorithm.egrsd.{setting}" for setting in settings]


def folder_name(method: str) -> str:
    """``egrsd,gamma=1.0`` -> ``egrsd_gamma_1.0``: Hydra reads neither a comma nor an equals sign in an unquoted
    path."""
    return re.sub(r"[^\w.]+", "_", method)


def do_missing(
    run: Callable[[str, int], dict], results: Results, methods: Iterable[str], seeds: Iterable[int], *, jobs: int
) -> list[str]:
    """Runs what results lack, ``jobs`` at a time, each in a process of its own; one failure does not stop the others.

    Returns:
        What failed, as text.
    """
    failures = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = {pool.submit(run, method, seed): (method, seed) for method, seed in results.missing(methods, seeds)}
        for future in as_completed(futures):
            method, seed = futures[future]
            if problem := future.exception():
                failures.append(f"{method}, seed {seed}: {problem}")
                print(f"{method}, seed {seed} failed", flush=True)
                continue
            result = future.result()
            results.add(method, seed, result)
            shown = f"{result['accuracy']:.1%} right, {result['length']:.1f} tokens, {result['seconds']} s"
            print(f"{method}, seed {seed}: {shown}", flush=True)
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="forks")
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS, help="methods; default: every preset")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num-problems", type=int, default=1000, help="held-out problems of each seed")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each needs about 4 GiB")
    parser.add_argument("--folder", type=Path, help="default: outputs/tiny_cpu/compare/<task>")
    args = parser.parse_args()
    folder = (args.folder or Path("outputs/tiny_cpu/compare") / args.task).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(folder, args.task, args.steps, args.num_problems)
    try:
        for method in args.algorithms:
            parse_method(method)
        results = Results(folder / "results.json", experiment.settings)
    except ValueError as problem:
        sys.exit(str(problem))
    failures = do_missing(experiment.run, results, [START], args.seeds, jobs=args.jobs)
    if not failures:
        failures = do_missing(experiment.run, results, args.algorithms, args.seeds, jobs=args.jobs)
    print("\n\n".join(failures), file=sys.stderr)
    print(f"\n{comparison_table(results.runs)}")
    title = f"{TASKS[args.task].TITLE}, {args.steps} steps of 32 rollouts"
    draw_comparison(results.runs, folder / "comparison.png", title=title)
    print(f"\n{results.path}\n{folder / 'comparison.png'}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
