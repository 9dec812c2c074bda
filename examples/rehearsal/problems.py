"""Word problems with worked solutions, as published data sets have them: files for ``python -m
recipe.egrsd.prepare_data``.

Every answer is 0 or 1, so that a model that has learned the form alone is right about half of the time: rewards differ.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

TRAIN, VALIDATION, TEST = 96, 4, 6
"""Problems; prepare_data takes the validation ones out of the first file."""
BENCHMARK = "aime24"
"""The name under which prepare_data keeps the test problems; it says that they are not the published ones."""
WORDINGS = {
    "train": "A shop sells {a} boxes of {b} pens and {c} single pens. Is the number of pens odd (1) or even (0)?",
    "test": "Write 1 if {a} times {b} plus {c} is an odd number, and write 0 if it is an even number.",
}


@dataclass(frozen=True)
class Problem:
    """Whether a * b + c is odd."""

    numbers: tuple[int, int, int]
    wording: str

    @property
    def text(self) -> str:
        return self.wording.format(**dict(zip("abc", self.numbers, strict=True)))

    @property
    def total(self) -> int:
        a, b, c = self.numbers
        return a * b + c

    @property
    def answer(self) -> str:
        return str(self.total % 2)

    @property
    def conclusion(self) -> str:
        """The end of every solution, and all that a small model is taught to say."""
        return f"{self.total} is {('even', 'odd')[self.total % 2]}. \\boxed{{{self.answer}}}"

    @property
    def solution(self) -> str:
        a, b, c = self.numbers
        return f"The product is {a} * {b} = {a * b}. The sum is {a * b} + {c} = {self.total}. {self.conclusion}"


def make_problems(split: str, size: int, *, seed: int = 0) -> list[Problem]:
    """``size`` different problems; the same for the same seed."""
    rng, numbers = random.Random(f"{split}-{seed}"), {}
    while len(numbers) < size:
        numbers[tuple(rng.randint(2, 19) for _ in range(3))] = None
    return [Problem(each, WORDINGS[split]) for each in numbers]


def write_files(folder: Path) -> dict[str, Path]:
    """train.jsonl and test.jsonl with the columns problem, solution, answer."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {split: folder / f"{split}.jsonl" for split in WORDINGS}
    for split, size in (("train", TRAIN + VALIDATION), ("test", TEST)):
        rows = [{"problem": p.text, "solution": p.solution, "answer": p.answer} for p in make_problems(split, size)]
        paths[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def prepare_arguments(folder: Path, out: Path) -> list[str]:
    """What ``python -m recipe.egrsd.prepare_data`` is given, so that it needs no hub; ``folder`` is that of
    write_files."""
    sources = ["--train", str(folder / "train.jsonl"), "--benchmarks", f"{BENCHMARK}={folder / 'test.jsonl'}"]
    return [*sources, "--validation", str(VALIDATION), "--out", str(out)]
