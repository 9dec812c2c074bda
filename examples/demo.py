"""What the demos have in common: phases with a clock, a progress bar, resume, a summary, a report.

A demo prepares a start model, evaluates it, trains it with a preset through verl's main_ppo, and evaluates it again.
Everything lands in one folder: report.html, training.png, summary.json, models, data, and the logs of verl and Ray.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm import tqdm

from examples.answers import Answers, paired_difference
from examples.picture import draw
from examples.training import NOT_HERE, Training
from recipe.egrsd.report import __main__ as report

POLL_SECONDS = 0.5
SAVE_TOKENS_EVERY = 10
"""Steps between two files of tokens, which the report shows. The first and the last step of 40 have one."""
SHOWN = {  # beside the progress bar, as far as the preset logs it
    "reward": ("egrsd/reward_mean", ".2f"),
    "accuracy": ("egrsd/correct_frac", ".2f"),
    "length": ("response_length/mean", ".0f"),
}
Preparation = tuple[str, str, Callable[[], None]]
"""Name of a phase, its heading, what it does; what is there already it does not do again."""


class Demo(ABC):
    """The phases in order. A phase whose result is there already is skipped when the demo resumes."""

    student: str
    """What is trained."""
    title: str
    """Of the picture: method, model, task, seed."""
    settings: dict[str, Any]
    """What the command line chose; a resumed run must have the same."""
    num_problems: int
    training: Training

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @abstractmethod
    def preparations(self) -> list[Preparation]:
        """The phases before the first evaluation; the last makes ``training.model``."""

    @abstractmethod
    def evaluate(self, name: str, model: Path) -> dict[str, Answers]:
        """Answers of the student, by how they were drawn: "sampled" at T = 1, perhaps "greedy"."""

    @abstractmethod
    def evaluate_teacher(self) -> Answers:
        """Of the start model that is shown the solutions."""

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        started = time.perf_counter()
        print(f"\n[{len(self.seconds) + 1}/{len(self.preparations()) + 3}] {text}", flush=True)
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        print(f"      {self.seconds[name]:.0f} s", flush=True)

    def run(self) -> dict[str, Any]:
        """All phases; the summary."""
        training = self.training
        for name, heading, prepare in self.preparations():
            with self.phase(name, heading):
                prepare()
        with self.phase("evaluation_before", f"Student and teacher on {self.num_problems} held-out problems, before"):
            before = self._evaluate("before", training.model)
            teacher = self.evaluate_teacher()
            print(f"      the teacher, shown the solution, is right on {mean(teacher.correct):.1%}")
        heading = (
            f"{training.algorithm}, {training.steps} steps of 32 rollouts (verl's and Ray's output: {training.log})"
        )
        with self.phase("training", heading):
            print("      Ray, vLLM and FSDP take about a minute to start", flush=True)
            try:
                final = training.run(self._show_progress)
            except RuntimeError as problem:
                sys.exit(str(problem))
        with self.phase("evaluation_after", f"Student on the same {self.num_problems} problems, after"):
            after = self._evaluate("after", final)
        return self.summary(before, after, teacher)

    def summary(self, before: dict[str, Answers], after: dict[str, Answers], teacher: Answers) -> dict[str, Any]:
        """What summary.json holds."""
        about = {"title": self.title, "model": self.student, **self.settings}
        return about | compared(before, after, teacher) | {"wall_seconds": self.seconds}

    def _evaluate(self, name: str, model: Path) -> dict[str, Answers]:
        results = self.evaluate(name, model)
        for choice, result in results.items():
            print(f"      {choice:8s} {mean(result.correct):.1%} right, {mean(result.lengths):.1f} tokens")
        return results

    def _show_progress(self, process: subprocess.Popen) -> None:
        training = self.training
        done = max(training.metrics, default=0)
        with tqdm(total=training.steps, initial=done, desc="      training", unit="step", leave=True) as bar:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                steps = training.metrics
                if steps and (last := max(steps)) > bar.n:
                    now = steps[last]
                    bar.set_postfix({name: format(now[key], form) for name, (key, form) in SHOWN.items() if key in now})
                    bar.update(last - bar.n)

    def finish(self, found: dict[str, Any]) -> None:
        """Writes what a run leaves behind and prints it, the report last: it is what to open."""
        folder = self.training.folder
        (folder / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
        draw(self.training.metrics, found, folder / "training.png")
        with redirect_stdout(io.StringIO()):  # its own list of files
            report.main([str(folder), "--out", str(folder / "report.html")])
        print(f"\n{table(found)}\n")
        print(folder / "summary.json", folder / "training.png", sep="\n")
        print(f"Curves and tokens, to be opened in a browser:\n{folder / 'report.html'}")


def compared(before: dict[str, Answers], after: dict[str, Answers], teacher: Answers) -> dict[str, Any]:
    """Accuracies, lengths, and the paired difference of what was sampled."""
    gain = paired_difference(before["sampled"].correct, after["sampled"].correct)
    longer = paired_difference(before["sampled"].lengths, after["sampled"].lengths)
    greedy = {
        f"greedy_{name}": mean(answers["greedy"].correct)
        for name, answers in (("before", before), ("after", after))
        if "greedy" in answers
    }
    return {
        "accuracy_before": mean(before["sampled"].correct),
        "accuracy_after": mean(after["sampled"].correct),
        "accuracy_difference": gain.mean,
        "accuracy_difference_se": gain.error,
        **greedy,
        "length_before": mean(before["sampled"].lengths),
        "length_after": mean(after["sampled"].lengths),
        "length_difference_se": longer.error,
        "teacher_accuracy": mean(teacher.correct),
    }


def table(found: dict[str, Any]) -> str:
    """What changed, as text."""
    rows = [
        ("accuracy, sampled at T = 1", "accuracy_before", "accuracy_after", "{:.1%}"),
        ("accuracy, greedy", "greedy_before", "greedy_after", "{:.1%}"),
        ("response length, tokens", "length_before", "length_after", "{:.1f}"),
    ]
    lines = [f"{'':28s}{'before':>10s}{'after':>10s}"]
    lines += [
        f"{name:28s}{form.format(found[early]):>10s}{form.format(found[late]):>10s}"
        for name, early, late, form in rows
        if early in found
    ]
    gain, error = found["accuracy_difference"], found["accuracy_difference_se"]
    lines.append(
        f"sampled accuracy {gain:+.1%} ± {error:.1%} (paired standard error, {found['num_problems']} problems)"
    )
    return "\n".join(lines)


def _preset(name: str) -> str:
    if name in NOT_HERE:
        raise argparse.ArgumentTypeError(NOT_HERE[name])
    return name


def parser(description: str | None, *, folder: str, algorithms: Sequence[str]) -> argparse.ArgumentParser:
    """The options that every demo has. All but folder and resume are settings of the run."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--algorithm", choices=algorithms, default="cl_egrsd", type=_preset)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--steps", type=int, default=40)
    made.add_argument("--folder", type=Path, default=Path(folder))
    made.add_argument("--resume", action="store_true", help="go on where an earlier run of the same settings stopped")
    return made


def main(make: Callable[..., Demo], args: argparse.Namespace) -> None:
    """Starts over in the folder, or resumes there; ``make`` takes the folder and the settings."""
    folder = args.folder.resolve()
    settings = {name: value for name, value in vars(args).items() if name not in ("folder", "resume")}
    started = folder / "settings.json"
    if args.resume and started.exists():
        if json.loads(started.read_text()) != settings:
            sys.exit(
                f"{folder} belongs to a run with {started.read_text()}; resume with the same settings, or start over."
            )
        print(f"Resuming the run in {folder}.")
    else:
        print(f"Starting over in {folder}." if folder.exists() else f"Starting in {folder}.")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started.write_text(json.dumps(settings))
    demo = make(folder, **settings)
    demo.finish(demo.run())
