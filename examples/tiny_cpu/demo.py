"""The demo behind `make demo`: warm-start a tiny Qwen3, train it with CL-EGRSD through verl, show what that did.

Everything lands in outputs/tiny_cpu: summary.json, training.png, the models, the data, and the logs of verl and Ray.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from examples.tiny_cpu.evaluate import Evaluation, evaluate, paired_difference
from examples.tiny_cpu.picture import draw
from examples.tiny_cpu.task import Problem, make_problems, write_parquet
from examples.tiny_cpu.warm_start import warm_start

TRAIN_SCRIPT = Path(__file__).with_name("train.sh")
SHOWN_LOG_LINES = 60
POLL_SECONDS = 0.5


class Demo:
    """The phases in order. A phase whose result is there already is skipped when the demo resumes."""

    def __init__(self, folder: Path, *, seed: int, steps: int, num_problems: int):
        self.folder, self.seed, self.steps, self.num_problems = folder, seed, steps, num_problems
        self.start_model, self.data, self.checkpoints = folder / "start_model", folder / "data", folder / "checkpoints"
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        started = time.perf_counter()
        print(f"\n[{len(self.seconds) + 1}/5] {text}", flush=True)
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        print(f"      {self.seconds[name]:.0f} s", flush=True)

    def run(self) -> dict:
        problems = make_problems("test", self.num_problems, seed=self.seed)
        with self.phase("data", "Writing addition problems with worked solutions"):
            write_parquet(make_problems("train", 1600, seed=self.seed), self.data / "train.parquet")
            write_parquet(make_problems("validation", 8, seed=self.seed), self.data / "validation.parquet")
        with self.phase("warm_start", "Warm start: a tiny Qwen3 learns to add, carelessly and wordily"):
            if self.start_model.exists():
                print("      already there")
            else:
                partial = self.folder / "start_model.partial"
                warm_start(partial, seed=self.seed)
                partial.rename(self.start_model)
        with self.phase("evaluation_before", f"Student and teacher on {self.num_problems} held-out problems, before"):
            before = self._evaluate(self.start_model, problems)
            teacher = evaluate(self.start_model, problems, privileged=True, seed=self.seed)
            print(f"      the teacher, shown the solution, is right on {mean(teacher.correct):.1%}")
        with self.phase("training", f"CL-EGRSD, {self.steps} steps of 32 rollouts (verl's and Ray's output: {self._log})"):
            print("      Ray, vLLM and FSDP take about a minute to start", flush=True)
            final = self._train()
        with self.phase("evaluation_after", f"Student on the same {self.num_problems} problems, after"):
            after = self._evaluate(final, problems)
        return self._summary(before, after, teacher)

    @property
    def _log(self) -> Path:
        return self.folder / "training.log"

    def _evaluate(self, model: Path, problems: list[Problem]) -> dict[str, Evaluation]:
        results = {name: evaluate(model, problems, greedy=name == "greedy", seed=self.seed) for name in ("sampled", "greedy")}
        for name, result in results.items():
            print(f"      {name:8s} {mean(result.correct):.1%} right, {mean(result.lengths):.1f} tokens")
        return results

    def _train(self) -> Path:
        """Runs train.sh under a progress bar and returns the folder of the trained model."""
        metrics = self.folder / "metrics" / f"{len(list((self.folder / 'metrics').glob('*'))):03d}.jsonl"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **{"MODEL": str(self.start_model), "DATA": str(self.data), "OUTPUT": str(self.checkpoints)},
            **{"SEED": str(self.seed), "STEPS": str(self.steps), "PYTHON": sys.executable},
            "VERL_FILE_LOGGER_PATH": str(metrics),
        }
        with self._log.open("a") as log:
            process = subprocess.Popen(
                ["bash", str(TRAIN_SCRIPT), f"hydra.run.dir={self.folder / 'hydra'}"],
                stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
            try:
                self._show_progress(process, metrics)
            finally:
                process.terminate()
        if process.returncode:
            print("".join(self._log.read_text(errors="replace").splitlines(keepends=True)[-SHOWN_LOG_LINES:]))
            sys.exit(f"The training ended with exit code {process.returncode}; the whole log is {self._log}")
        return self.checkpoints / f"global_step_{self.steps}" / "actor" / "huggingface"

    def _show_progress(self, process: subprocess.Popen, metrics: Path) -> None:
        done = max(steps_of(metrics.parent), default=0)
        with tqdm(total=self.steps, initial=done, desc="      training", unit="step", leave=True) as bar:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                steps = steps_of(metrics.parent)
                if steps and (last := max(steps)) > bar.n:
                    now = steps[last]
                    bar.set_postfix(
                        reward=f"{now['egrsd/reward_mean']:.2f}",
                        accuracy=f"{now['egrsd/correct_frac']:.2f}",
                        length=f"{now['response_length/mean']:.0f}",
                    )
                    bar.update(last - bar.n)

    def _summary(self, before: dict, after: dict, teacher: Evaluation) -> dict:
        gain = paired_difference(before["sampled"].correct, after["sampled"].correct)
        return {
            "seed": self.seed,
            "steps": self.steps,
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


def steps_of(folder: Path) -> dict[int, dict[str, float]]:
    """verl's metrics by step, from every file of the folder; a resumed run's later file wins."""
    steps = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that is writing, or was killed while it did
            steps[entry["step"]] = entry["data"]
    return steps


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
    lines.append(f"sampled accuracy {gain:+.1%} ± {error:.1%} (paired standard error, {summary['num_problems']} problems)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--num-problems", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("outputs/tiny_cpu"))
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run of the same seed stopped")
    args = parser.parse_args()
    folder, settings = args.folder.resolve(), {"seed": args.seed, "steps": args.steps, "num_problems": args.num_problems}
    started = folder / "settings.json"
    if args.resume and started.exists():
        if json.loads(started.read_text()) != settings:
            sys.exit(f"{folder} belongs to a run with {started.read_text()}; resume with the same settings, or start over.")
        print(f"Resuming the run in {folder}.")
    else:
        print(f"Starting over in {folder}." if folder.exists() else f"Starting in {folder}.")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started.write_text(json.dumps(settings))
    summary = Demo(folder, **settings).run()
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(steps_of(folder / "metrics"), summary, folder / "training.png")
    print(f"\n{table(summary)}\n\n{folder / 'summary.json'}\n{folder / 'training.png'}")


if __name__ == "__main__":
    main()
