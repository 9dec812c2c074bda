"""The demo behind `make demo`: warm-start a tiny Qwen3, train it with a preset through verl, show what that did.

Everything lands in outputs/tiny_cpu: report.html, training.png, summary.json, the models, the data, and the logs of
verl and Ray.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from examples.tiny_cpu.evaluate import Evaluation, evaluate, paired_difference
from examples.tiny_cpu.picture import draw
from examples.tiny_cpu.task import TASKS, Problem, make_problems
from examples.tiny_cpu.training import ALGORITHMS, Training, write_data
from examples.tiny_cpu.warm_start import warm_start_once
from recipe.egrsd.report import __main__ as report

POLL_SECONDS = 0.5
SAVE_TOKENS_EVERY = 10
"""Steps between two files of tokens, which the report shows. The first and the last step of 40 have one."""
SHOWN = {  # beside the progress bar, as far as the preset logs it
    "reward": ("egrsd/reward_mean", ".2f"),
    "accuracy": ("egrsd/correct_frac", ".2f"),
    "length": ("response_length/mean", ".0f"),
}


class Demo:
    """The phases in order. A phase whose result is there already is skipped when the demo resumes."""

    def __init__(self, folder: Path, *, task: str, algorithm: str, seed: int, steps: int, num_problems: int):
        self.folder, self.task, self.seed, self.num_problems = folder, task, seed, num_problems
        self.start_model, self.data = folder / "start_model", folder / "data"
        self.training = Training(
            folder,
            self.start_model,
            self.data,
            task=task,
            algorithm=algorithm,
            seed=seed,
            steps=steps,
            overrides=(f"algorithm.egrsd.save_tokens_every={SAVE_TOKENS_EVERY}",),
        )
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        started = time.perf_counter()
        print(f"\n[{len(self.seconds) + 1}/5] {text}", flush=True)
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        print(f"      {self.seconds[name]:.0f} s", flush=True)

    def run(self) -> dict:
        training = self.training
        problems = make_problems("test", self.num_problems, seed=self.seed, task=self.task)
        with self.phase("data", f"Writing problems with worked solutions: {TASKS[self.task].TITLE}"):
            write_data(self.data, task=self.task, seed=self.seed)
        with self.phase("warm_start", "Warm start: a tiny Qwen3 learns the task, carelessly and wordily"):
            warm_start_once(self.start_model, seed=self.seed, task=self.task)
        with self.phase("evaluation_before", f"Student and teacher on {self.num_problems} held-out problems, before"):
            before = self._evaluate(self.start_model, problems)
            teacher = evaluate(self.start_model, problems, role="teacher", seed=self.seed)
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
            after = self._evaluate(final, problems)
        return self._summary(before, after, teacher)

    def _evaluate(self, model: Path, problems: list[Problem]) -> dict[str, Evaluation]:
        results = {
            name: evaluate(model, problems, greedy=name == "greedy", seed=self.seed) for name in ("sampled", "greedy")
        }
        for name, result in results.items():
            print(f"      {name:8s} {mean(result.correct):.1%} right, {mean(result.lengths):.1f} tokens")
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

    def _summary(self, before: dict, after: dict, teacher: Evaluation) -> dict:
        gain = paired_difference(before["sampled"].correct, after["sampled"].correct)
        return {
            "task": self.task,
            "algorithm": self.training.algorithm,
            "seed": self.seed,
            "steps": self.training.steps,
            "num_problems": self.num_problems,
            "accuracy_before": mean(before["sampled"].correct),
            "accuracy_after": mean(after["sampled"].correct),
            "accuracy_difference": gain.mean,
            "accuracy_difference_se": gain.error,
            "greedy_before": mean(before["greedy"].correct),
            "greedy_after": mean(after["greedy"].correct),
            "length_before": mean(before["sampled"].lengths),
            "length_after": mean(after["sampled"].lengths),
            "teacher_accuracy": mean(teacher.correct),
            "wall_seconds": self.seconds,
        }


def table(summary: dict) -> str:
    """What changed, as text."""
    rows = [
        ("accuracy, sampled at T = 1", "accuracy_before", "accuracy_after", "{:.1%}"),
        ("accuracy, greedy", "greedy_before", "greedy_after", "{:.1%}"),
        ("response length, tokens", "length_before", "length_after", "{:.1f}"),
    ]
    lines = [f"{'':28s}{'before':>10s}{'after':>10s}"]
    lines += [f"{name:28s}{form.format(summary[a]):>10s}{form.format(summary[b]):>10s}" for name, a, b, form in rows]
    gain, error = summary["accuracy_difference"], summary["accuracy_difference_se"]
    lines.append(
        f"sampled accuracy {gain:+.1%} ± {error:.1%} (paired standard error, {summary['num_problems']} problems)"
    )
    return "\n".join(lines)


def finish(training: Training, summary: dict) -> None:
    """Writes what a run leaves behind and prints it, the report last: it is what to open."""
    folder = training.folder
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(training.metrics, summary, folder / "training.png")
    with redirect_stdout(io.StringIO()):  # its own list of files
        report.main([str(folder), "--out", str(folder / "report.html")])
    print(f"\n{table(summary)}\n")
    print(folder / "summary.json", folder / "training.png", sep="\n")
    print(f"Curves and tokens, to be opened in a browser:\n{folder / 'report.html'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="addition")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="cl_egrsd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--num-problems", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("outputs/tiny_cpu"))
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run of the same seed stopped")
    args = parser.parse_args()
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
    demo = Demo(folder, **settings)
    summary = demo.run()
    finish(demo.training, summary)


if __name__ == "__main__":
    main()
