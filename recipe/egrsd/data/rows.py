"""One row of a source -> problem, solution, ground truth -> one row of verl's, or the reason why not."""

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from recipe.egrsd.data.sources import Source, cell
from recipe.egrsd.reward import compute_score, expected_answer, last_boxed

SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct({"index": pa.int64(), "split": pa.string(), "solution": pa.string()}),
    }
)
PATIENCE = 60.0  # seconds for one comparison; a busy machine must not decide which rows are kept
GRADERS = {"bad_ground_truth": "math-verify cannot read the answer", "timed_out": "math-verify needs too long for the answer"}


class Refused(ValueError):
    """A source's row that cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Problem:
    """A usable row of a source."""

    index: int
    text: str
    solution: str | None
    answer: str
    from_box: bool
    """The answer was taken from the solution."""

    def row(self, source: Source, *, split: str, instruction: str) -> dict[str, Any]:
        """As verl, dataset.py and reward/ read it."""
        return {
            "data_source": source.name,
            "prompt": [{"role": "user", "content": f"{self.text}\n\n{instruction}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": self.answer},
            "extra_info": {"index": self.index, "split": split, "solution": self.solution},
        }

    def verdict(self) -> str | None:
        """What the reward says to the solution's own last box: accepted, rejected, no box. None: nothing to compare with."""
        if self.solution is None or self.from_box:
            return None
        outcome = compute_score("", self.solution, self.answer, timeout_seconds=PATIENCE)
        return "accepted" if outcome["acc"] else "rejected" if outcome["has_answer"] else "no box"


def read(source: Source, index: int, row: dict[str, Any], *, instruction: str) -> Problem:
    """Problem, solution and ground truth of a row; Refused with the reason if one is missing."""
    text = _problem(source, row).removesuffix(instruction).strip()
    if not text:
        raise Refused("no problem")
    solution, answer = cell(row, source.solution), cell(row, source.answer)
    if source.mark:
        solution, found, answer = str(answer or "").rpartition(source.mark)
        if not found:
            raise Refused(f"no {source.mark} before the answer")
        answer = re.sub(r"(?<=\d),(?=\d{3})", "", answer)  # 70,000 would be read as two numbers
    if source.solution and not (isinstance(solution, str) and solution.strip()):
        raise Refused("no solution")
    expected = expected_answer(_bare(answer))
    from_box = answer is None or not str(answer).strip()
    if from_box:
        boxed = last_boxed(solution or "")
        expected = expected_answer(boxed) if boxed else None
    if not expected:
        raise Refused("no closed box in the solution" if from_box else "the answer is no text of 1 to 1,000 characters")
    return Problem(index, text, solution.strip() if solution else None, expected, from_box)


def ungradable(answer: str) -> str | None:
    """Why math-verify cannot judge responses against this answer; None if it can."""
    outcome = compute_score("", r"\boxed{0}", answer, timeout_seconds=PATIENCE)
    return next((reason for flag, reason in GRADERS.items() if outcome[flag]), None)


def answer_only(answer: str) -> str:
    """What a teacher reads where the source has no solutions: the answer is then all its privilege."""
    return rf"The final answer is \boxed{{{answer}}}."


def _problem(source: Source, row: dict[str, Any]) -> str:
    text = cell(row, source.problem)
    if isinstance(text, list):  # a chat
        text = text[-1].get("content") if text and isinstance(text[-1], dict) else None
    if not isinstance(text, str):
        raise Refused("no problem")
    text = text.strip()
    before, behind = source.wrapping
    if not (text.startswith(before) and text.endswith(behind)):
        raise Refused("the problem is not wrapped in the source's usual words")
    return text.removeprefix(before).removesuffix(behind).strip()


def _bare(answer: Any) -> Any:
    """$x$ and $$x$$ -> x, 12.0 -> 12, 0.5 -> "0.5"; other types are left as they are."""
    if isinstance(answer, float):
        return int(answer) if answer.is_integer() else str(answer)
    if not isinstance(answer, str):
        return answer
    dollars = re.fullmatch(r"\s*(\$\$?)([^$]+)\1\s*", answer)
    return dollars[2] if dollars else answer
