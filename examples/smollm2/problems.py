"""Word problems with worked solutions, from reasoning-gym's templates of GSM8K's problems (gsm_symbolic).

    python -m examples.smollm2.problems --out data [--seed 0]

Writes train.parquet, validation.parquet and test.parquet with `python -m recipe.egrsd.prepare_data`, so that the rows
are those of any user's data.
"""

import argparse
import contextlib
import importlib
import io
import json
import re
import sys
import types
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

from recipe.egrsd.prepare_data import __main__ as prepare_data

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
TEMPLATES = (10, 16, 20, 26, 43, 62)  # short problems with short solutions: about 90 and 50 tokens
# Share of all problems, in tenths. A problem's split depends on its text alone, never on a seed. Settings are chosen on
# validation problems, so that a test problem of any seed is one that no setting was chosen on.
SPLITS = {"test": range(0, 1), "validation": range(1, 2), "train": range(2, 6), "warm_start": range(6, 10)}
SIZES = {"train": 1600, "validation": 8, "test": 400}
PACKAGES = ("reasoning_gym", "reasoning_gym.arithmetic", "reasoning_gym.arithmetic.gsm_symbolic")


@cache
def _generators() -> dict[int, Callable[[Random, float], dict[str, Any]]]:
    """The package's templates by number.

    Its own __init__ imports a hundred games and their libraries, so that its folders are entered without them.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """
    found = find_spec("reasoning_gym")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f"reasoning-gym is not installed; {sys.executable} -m pip install --no-deps reasoning-gym==0.1.25"
        )
    for name in PACKAGES:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(Path(found.origin).parent.joinpath(*name.split(".")[1:]))]
    parts = [importlib.import_module(f"{PACKAGES[-1]}.{file}") for file in ("generators_00_49", "generators_50_99")]
    made = {name: make for part in parts for name, make in vars(part).items() if name.startswith("generate_")}
    return {int(name.removeprefix("generate_")): make for name, make in made.items()}


def make_problems(split: str, size: int, *, seed: int) -> list[dict[str, Any]]:
    """``size`` problems of a split, all different; the same for the same seed. Answers are integers.

    Returns:
        rows of problem, solution (ends in the boxed answer), answer, template.
    """
    generators, rng, found = _generators(), Random(f"{split}-{seed}"), {}
    while len(found) < size:
        template = rng.choice(TEMPLATES)
        example = generators[template](rng, 1.0)
        steps, _, answer = example["metadata"]["answer_cot"].rpartition("####")
        answer, problem = answer.strip().removesuffix(".0"), example["question"]
        if not re.fullmatch(r"-?\d+", answer) or crc32(problem.encode()) % 10 not in SPLITS[split]:
            continue
        steps = re.sub(r"(\d)\.0\b", r"\1", steps.strip())  # 12.0 dollars -> 12 dollars
        solution = f"{steps}\nThe answer is \\boxed{{{answer}}}."
        found[problem] = {"problem": problem, "solution": solution, "answer": answer, "template": template}
    return list(found.values())


def messages(problem: str) -> list[dict[str, str]]:
    """The student's chat, as prepare_data writes it."""
    return [{"role": "user", "content": f"{problem}\n\n{INSTRUCTION}"}]


def write_data(folder: Path, *, seed: int, sizes: dict[str, int] = SIZES) -> None:
    """train.parquet, validation.parquet and test.parquet, with prepare_data's report beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in {"train": sizes["train"] + sizes["validation"], "test": sizes["test"]}.items():
        rows = make_problems(split, size, seed=seed)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = [f"--{name}-column={name}" for name in ("problem", "solution", "answer")]
    files = ["--train", str(folder / "train.jsonl"), "--test", str(folder / "test.jsonl"), "--benchmarks", "none"]
    ours = [*files, "--keep-overlap"]  # splits are disjoint, but problems of one template share too much wording
    counts = ["--validation", str(sizes["validation"]), "--instruction", INSTRUCTION]
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        prepare_data.main(["--out", str(folder), *ours, *columns, *counts])
    (folder / "prepare_data.log").write_text(report.getvalue())


def main() -> None:
    """Writes the files and prints an example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_data(args.out, seed=args.seed)
    (example,) = make_problems("train", 1, seed=args.seed)
    print(f"{example['problem']}\n\n{example['solution']}")


if __name__ == "__main__":
    main()
