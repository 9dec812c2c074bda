"""The tasks by name, their problems split for good, and the parquet files that verl reads."""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

from examples.tiny_cpu.addition import Addition
from examples.tiny_cpu.forks import Forks
from examples.tiny_cpu.problem import INSTRUCTION, Problem, reference_solution

TASKS: dict[str, type[Problem]] = {"addition": Addition, "forks": Forks}

# Share of all problems, in tenths. A problem's split depends on its numbers alone, never on a seed: a test problem of
# one seed is a test problem of every seed, so no setting can have been chosen on it.
SPLITS = {"test": range(0, 1), "validation": range(1, 2), "train": range(2, 4), "warm_start": range(4, 10)}

__all__ = ["INSTRUCTION", "TASKS", "Problem", "make_problems", "reference_solution", "verl_row", "write_parquet"]


def make_problems(split: str, size: int, *, seed: int, task: str = "addition") -> list[Problem]:
    """``size`` problems of a split, no two with the same numbers; the same for the same seed."""
    kind, rng = TASKS[task], random.Random(f"{split}-{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < size:
        numbers = kind.draw(rng)
        key = kind.key(numbers)
        if key not in problems and crc32(key.encode()) % 10 in SPLITS[split]:
            problems[key] = kind(numbers, rng.choice(kind.WORDINGS))
    return list(problems.values())


def verl_row(problem: Problem, index: int) -> dict:
    """One row of a verl data set."""
    return {
        "data_source": problem.data_source,
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
    """Writes train.parquet and validation.parquet, the two files verl asks for, and prints an example."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--task", choices=TASKS, default="addition")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-size", type=int, default=1600, help="problems, one rollout each")
    args = parser.parse_args()
    settings = {"seed": args.seed, "task": args.task}
    write_parquet(make_problems("train", args.train_size, **settings), args.out / "train.parquet")
    write_parquet(make_problems("validation", 64, **settings), args.out / "validation.parquet")
    example, rng = make_problems("train", 1, **settings)[0], random.Random(args.seed)
    print(f"{example.messages[0]['content']}\n\n--- reference\n{reference_solution(example)}")
    print(f"--- student\n{example.student(rng)}\n--- teacher\n{example.teacher(rng)}")


if __name__ == "__main__":
    main()
