"""The demo behind `make demo MODEL=smollm2`: a pretrained model learns word problems, on two CPU cores.

Converts SmolLM2-135M-Instruct, writes problems, starts the model on worked solutions of other problems, trains it with
a preset through verl, and evaluates it before and after with `python -m recipe.egrsd.evaluate`. Everything lands in
outputs/smollm2: report.html, training.png, summary.json, the models, the data, and the logs of verl and Ray.
"""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from examples import demo
from examples.answers import Answers
from examples.demo import SAVE_TOKENS_EVERY, Preparation
from examples.smollm2.convert import check, convert, package_file
from examples.smollm2.problems import SIZES, make_problems, write_data
from examples.smollm2.quality import answers
from examples.smollm2.warm_start import Start, warm_start
from examples.training import Training, presets
from recipe.egrsd.cpu import precision

TRAIN_SCRIPT = Path(__file__).with_name("train.sh")
START = {"solutions": 768}  # not chosen yet: docs/experiments.md says what was tried
TEACHERS_PROBLEMS = 100  # enough to see that it is nearly always right
MODEL_FOLDER = "SMOLLM2"
"""Variable that names a folder with the model, where its package cannot be had."""


def protocol() -> list[str]:
    """Of every evaluation."""
    words = ["--no-thinking", "--k=1", "--temperature=1", "--top-p=1", "--max-tokens=128"]
    return [*words, f"--dtype={precision.fastest()}"]


class Demo(demo.Demo):
    """SmolLM2-135M on templates of GSM8K's problems."""

    student = "SmolLM2-135M"

    def __init__(self, folder: Path, *, algorithm: str, seed: int, steps: int, num_problems: int):
        super().__init__()
        self.settings = {"algorithm": algorithm, "seed": seed, "steps": steps, "num_problems": num_problems}
        self.settings["dtype"] = precision.fastest()
        self.num_problems = num_problems
        self.title = f"{algorithm} on {self.student}, word problems, seed {seed}"
        named = os.environ.get(MODEL_FOLDER)
        self.given, self.model = bool(named), Path(named).resolve() if named else folder / "model"
        self.start, self.sizes = Start(**START, seed=seed), SIZES | {"test": num_problems}
        self.training = Training(
            script=TRAIN_SCRIPT,
            folder=folder,
            model=folder / "start_model",
            data=folder / "data",
            algorithm=algorithm,
            seed=seed,
            steps=steps,
            variables={"DTYPE": precision.fastest()},
            overrides=(f"algorithm.egrsd.save_tokens_every={SAVE_TOKENS_EVERY}",),
        )

    def preparations(self) -> list[Preparation]:
        count = self.start.solutions
        return [
            ("model", "SmolLM2-135M-Instruct, from its GGUF file", self._model),
            ("data", "Writing word problems with worked solutions", self._data),
            ("warm_start", f"Warm start: worked solutions of {count} other problems", self._warm_start),
        ]

    def _model(self) -> None:
        if self.given and not self.model.is_dir():
            sys.exit(f"demo: {MODEL_FOLDER}={self.model}: there is no such folder")
        if not self.given and not self.model.exists():
            try:
                gguf = package_file()
            except FileNotFoundError as problem:
                sys.exit(f"demo: {problem}")
            unfinished = self.model.with_name("model.partial")
            convert(gguf, unfinished)
            unfinished.rename(self.model)
        try:
            print(f"      {self.model}: perplexity {check(self.model):.1f} on plain English")
        except (OSError, ValueError) as problem:
            sys.exit(f"demo: {problem}")

    def _data(self) -> None:
        write_data(self.training.data, seed=self.training.seed, sizes=self.sizes)

    def _warm_start(self) -> None:
        if self.training.model.exists():
            print("      already there")
            return
        warm_start(self.model, self.training.model, self.start)

    def evaluate(self, name: str, model: Path) -> dict[str, Answers]:
        out = self.training.folder / "evaluated" / name
        checkpoint = self.training.checkpoint if name == "after" else model  # by which the report knows the step
        files = ["--model", str(checkpoint), "--data", str(self.training.data / "test.parquet"), "--out", str(out)]
        seed = ["--seed", str(self.training.seed)]
        command = [sys.executable, "-m", "recipe.egrsd.evaluate", *files, *protocol(), *seed]
        log = self.training.folder / f"evaluation_{name}.log"
        with log.open("a") as stream:
            environment = {**os.environ, "VERL_PLATFORM": "cpu"}
            process = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        if process.returncode:
            sys.exit(f"demo: the evaluation ended with exit code {process.returncode}; its output is in {log}")
        rows = sorted(pq.read_table(out / "problems.parquet").to_pylist(), key=lambda row: int(row["index"]))
        return {"sampled": Answers([row["accuracy"] for row in rows], [round(row["tokens_mean"]) for row in rows])}

    def evaluate_teacher(self) -> Answers:
        problems = make_problems("test", self.num_problems, seed=self.training.seed)[:TEACHERS_PROBLEMS]
        return answers(self.training.model, problems, role="teacher", seed=self.training.seed)


def main() -> None:
    parser = demo.parser(__doc__, folder="outputs/smollm2", algorithms=presets())
    parser.add_argument("--num-problems", type=int, default=400)
    demo.main(Demo, parser.parse_args())


if __name__ == "__main__":
    main()
