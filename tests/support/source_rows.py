"""Rows with the columns of published data sets, as files that prepare_data reads, and what it made of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from runs import ROOT

INSTRUCTION = OmegaConf.load(ROOT / "recipe/egrsd/config/algorithm/egrsd.yaml").algorithm.egrsd.teacher.instruction
ROOTS = r"Let \(x\) and \(y\) be real numbers such that \(x+y=10\) and \(xy=21\). Find \(x^2+y^2\)."

# One row of each with all of its published columns, and what must become of it: ground truth, solution.
PUBLISHED = {
    "aime24": (
        {"id": 60, "problem": ROOTS, "solution": r"So \boxed{058}.", "answer": "058", "url": "u", "year": "2024"},
        ("058", r"So \boxed{058}."),
    ),
    "aime25": ({"id": 0, "problem": "P?", "solution": "s", "answer": "70", "url": "u", "year": "2025"}, ("70", None)),
    "hmmt25": (
        {"problem_idx": 1, "problem": "P?", "answer": r"\frac{1}{576}", "problem_type": ["Algebra"]},
        (r"\frac{1}{576}", None),
    ),
    "math500": (
        {
            "problem": "P?",
            "solution": r"\boxed{\frac12}",
            "answer": r"\frac12",
            "subject": "S",
            "level": 2,
            "unique_id": "t/1",
        },
        (r"\frac12", r"\boxed{\frac12}"),
    ),
    "minerva": ({"question": "P?", "answer": "4.5e33"}, ("4.5e33", None)),
    "gsm8k": ({"question": "P?", "answer": "7*10000=70,000\n#### 70,000"}, ("70000", "7*10000=70,000")),
}


def openthoughts(index: int, **changes: Any) -> dict[str, Any]:
    """A row with the columns of siyanzhao/Openthoughts_math_30k_opsd that public code reads."""
    row = {
        "problem": f"A farmer has {index} fields with seven trees each. How many trees does the farmer have in all?",
        "solution": f"<think>\nSeven each.\n</think>\n\nThere are \\boxed{{{7 * index}}} trees.",
        "Answer": str(7 * index),
        "COT_Reason": "Seven each.",
        "generated_token_count": 12,
    }
    return row | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def rows_of(folder: Path, name: str = "train") -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def dropped(report: dict[str, Any]) -> dict[str, list[int]]:
    assert all(rows["count"] == len(rows["first"]) for rows in report["dropped"].values())
    return {reason: rows["first"] for reason, rows in report["dropped"].items()}
