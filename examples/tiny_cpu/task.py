"""The demo's task: word problems that add two three-digit numbers, with solutions worked column by column.

A solution is three lines, one for each column, and the boxed answer:

    Ones: 5+7=12, carry 1.
    Tens: 8+4+1=13, carry 1.
    Hundreds: 3+2+1=6.
    \\boxed{632}

The solutions a model is warm-started on are careless (a carry is forgotten with probability FORGET) and wordy (a column
is checked for no reason with probability CHECK). A forgotten carry is written as "carry 0" and not left out, so a wrong
solution saves no words, and the way to become shorter is to drop the checks.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

INSTRUCTION = r"Answer in \boxed{}."
DATA_SOURCE = "tiny_addition"

# Slightly above one half, so that the warm-started model's most likely choice is the wrong one: greedy decoding then
# starts low for every seed, while a sample still carries often enough to be rewarded for it.
FORGET = 0.55
CHECK = 0.5
# A teacher's solution checks itself rarely, not never: it scores the student's wordy text and must know checks.
TEACHER_CHECK = 0.1

WORDINGS = (
    "Ann has {a} coins and finds {b} more. How many coins has Ann?",
    "A shop sells {a} pens and then {b} pens. How many pens is that?",
    "Bob walks {a} steps, rests, and walks {b} steps. How many steps is that?",
    "There are {a} red and {b} blue cards. How many cards are there?",
)
# Two ways to name the columns. Which one a solution takes is a real choice, so a teacher is not certain of it either.
STYLES = (("Ones", "Tens", "Hundreds"), ("First", "Next", "Last"))

# Share of all pairs of numbers, in tenths. A pair's split depends on the pair alone, never on a seed: a test problem of
# one seed is a test problem of every seed, so no setting can have been chosen on it.
SPLITS = {"test": range(0, 1), "validation": range(1, 2), "train": range(2, 4), "warm_start": range(4, 10)}


@dataclass(frozen=True)
class Problem:
    """Two three-digit numbers whose sum has three digits, and the words around them."""

    a: int
    b: int
    wording: str

    @property
    def question(self) -> str:
        """The text of the problem, without the instruction."""
        return self.wording.format(a=self.a, b=self.b)

    @property
    def answer(self) -> str:
        """The boxed text of a correct solution."""
        return str(self.a + self.b)

    @property
    def messages(self) -> list[dict]:
        """The student's chat: one user turn that ends in the instruction."""
        return [{"role": "user", "content": f"{self.question}\n\n{INSTRUCTION}"}]


def split_of(a: int, b: int) -> str:
    """The split that a pair belongs to, whichever of the two numbers comes first."""
    tenth = crc32(f"{min(a, b)}+{max(a, b)}".encode()) % 10
    return next(name for name, tenths in SPLITS.items() if tenth in tenths)


def make_problems(split: str, size: int, *, seed: int) -> list[Problem]:
    """``size`` problems of a split, no pair of numbers twice; the same for the same seed."""
    rng = random.Random(f"{split}-{seed}")
    problems: list[Problem] = []
    seen: set[tuple[int, int]] = set()
    while len(problems) < size:
        a, b = rng.randint(100, 899), rng.randint(100, 899)
        pair = (min(a, b), max(a, b))
        if a + b <= 999 and pair not in seen and split_of(a, b) == split:
            seen.add(pair)
            problems.append(Problem(a, b, rng.choice(WORDINGS)))
    return problems


def solve(problem: Problem, rng: random.Random, *, forget: float = 0.0, check: float = 0.0) -> str:
    """A worked solution; the defaults give a correct one without checks.

    Args:
        problem: what to solve.
        rng: chooses the style and draws the mistakes and the checks.
        forget: probability that a carry of 1 is written as 0 and lost.
        check: probability, for each column, of a line that repeats the sum. It never finds a mistake.
    """
    lines, digits, carry = [], [], None
    for place, name in enumerate(rng.choice(STYLES)):
        top, bottom = (number // 10**place % 10 for number in (problem.a, problem.b))
        rest = "" if carry is None else f"+{carry}"
        total = top + bottom + (carry or 0)
        digits.append(total % 10 if place < 2 else total)
        carry = int(total >= 10 and rng.random() >= forget)
        lines.append(f"{name}: {top}+{bottom}{rest}={total}" + (f", carry {carry}." if place < 2 else "."))
        if rng.random() < check:
            lines.append(f"Check: {bottom}+{top}{rest}={total}.")
    boxed = "".join(map(str, reversed(digits)))
    return "\n".join([*lines, rf"\boxed{{{boxed}}}"])


def reference_solution(problem: Problem) -> str:
    """The correct solution that a data row carries; always the same for the same problem."""
    return solve(problem, random.Random(problem.question))


def verl_row(problem: Problem, index: int) -> dict:
    """One row of a verl data set."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": problem.messages,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": index, "solution": reference_solution(problem)},
    }


def write_parquet(problems: Sequence[Problem], path: Path) -> None:
    """The problems as a verl parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([verl_row(problem, index) for index, problem in enumerate(problems)]), path)


def main() -> None:
    """Writes train.parquet and validation.parquet, the two files verl asks for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-size", type=int, default=1600, help="problems, one rollout each")
    args = parser.parse_args()
    write_parquet(make_problems("train", args.train_size, seed=args.seed), args.out / "train.parquet")
    write_parquet(make_problems("validation", 64, seed=args.seed), args.out / "validation.parquet")
    example = make_problems("train", 1, seed=args.seed)[0]
    print(f"{example.messages[0]['content']}\n\n--- reference\n{reference_solution(example)}")
    print(f"--- careless and wordy\n{solve(example, random.Random(args.seed), forget=FORGET, check=CHECK)}")


if __name__ == "__main__":
    main()
