"""One row of a source -> problem, solution, ground truth -> one row of verl's, or the reason why not."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from recipe.egrsd.prepare_data.sources import Source, cell
from recipe.egrsd.privilege.texts import RowError, user_chat
from recipe.egrsd.reward import compute_score, expected_answer, last_boxed

EXTRA = {"index": pa.int64(), "split": pa.string(), "solution": pa.string()}
PATIENCE = 60.0  # seconds for one comparison; a busy machine must not decide which rows are kept
MISSING = {"", "null", "NULL", "None", "nan", "NaN"}  # how an exported table writes a cell without a value
NO_ANSWER = {"notfound", "proof"}  # how NuminaMath says that a problem has no answer to check
GRADERS = {
    "bad_ground_truth": "math-verify cannot read the answer",
    "timed_out": "math-verify needs too long for the answer",
}


def schema_of(source: Source) -> pa.Schema:
    """Of the rows, as verl, privilege/dataset.py and reward/ read them."""
    extra = EXTRA | ({"problem_en": pa.string(), "language": pa.string()} if source.english else {})
    return pa.schema(
        {
            "data_source": pa.string(),
            "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
            "ability": pa.string(),
            "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
            "extra_info": pa.struct(extra),
        }
    )


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
    english: str | None = None
    """The problem in English, where it is in another language."""
    language: str | None = None
    earlier: tuple[Mapping[str, str], ...] = ()
    """The turns of a chat before the problem's."""

    def row(self, source: Source, *, split: str, instruction: str) -> dict[str, Any]:
        """As verl, privilege/dataset.py and reward/ read it."""
        extra_info = {"index": self.index, "split": split, "solution": self.solution}
        if source.english:
            extra_info |= {"problem_en": self.english, "language": self.language}
        return {
            "data_source": source.name,
            "prompt": [*self.earlier, {"role": "user", "content": f"{self.text}\n\n{instruction}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": self.answer},
            "extra_info": extra_info,
        }

    def verdict(self) -> str | None:
        """What the reward says to the solution's own last box: accepted, rejected, no box. None: nothing to compare
        with."""
        if self.solution is None or self.from_box:
            return None
        outcome = compute_score("", self.solution, self.answer, timeout_seconds=PATIENCE)
        return "accepted" if outcome["acc"] else "rejected" if outcome["has_answer"] else "no box"


def read(source: Source, index: int, row: dict[str, Any], *, instruction: str) -> Problem:
    """Problem, solution and ground truth of a row; Refused with the reason if one is missing."""
    earlier, text = _problem(source, row)
    text = text.removesuffix(instruction).strip()
    if not text:
        raise Refused("no problem")
    solution, answer = _value(row, source.solution, "solution"), _value(row, source.answer, "answer")
    if source.mark:
        solution, found, answer = str(answer or "").rpartition(source.mark)
        if not found:
            raise Refused(f"no {source.mark} before the answer")
        answer = re.sub(r"(?<=\d),(?=\d{3})", "", answer)  # 70,000 would be read as two numbers
    if not isinstance(solution, str | None):
        raise Refused(f"the solution is {type(solution).__name__}, expected a text")
    if source.solution and not (solution or "").strip():
        raise Refused("no solution")
    answer, expected = _answer(answer, solution or "")
    english = _value(row, source.english, "problem in English")
    if source.english and not (isinstance(english, str) and english.strip()):
        raise Refused("no problem in English")
    return Problem(
        index,
        text,
        solution.strip() if solution else None,
        expected,
        answer is None,
        english=english.strip() if english else None,
        language=cell(row, source.language),
        earlier=earlier,
    )


def _answer(answer: Any, solution: str) -> tuple[Any, str]:
    """The cell, None without a value, and the ground truth: the cell's or that of the solution's last box."""
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        boxed = last_boxed(solution)
        if not (expected := expected_answer(boxed) if boxed else None):
            raise Refused("no closed box in the solution")
        return None, expected
    if isinstance(answer, str) and answer.strip().lower() in NO_ANSWER:
        raise Refused(f"the answer is {answer.strip()!r}: there is none to check")
    if isinstance(answer, float | Decimal) and not math.isfinite(answer):
        raise Refused(f"the answer is {answer}, no number")
    bare = _bare(answer)
    if isinstance(bare, bool) or not isinstance(bare, str | int):
        raise Refused(f"the answer is {type(answer).__name__}, expected a text or a number")
    if not (expected := expected_answer(bare)):
        raise Refused("the answer is no text of 1 to 1,000 characters")
    return answer, expected


def _value(row: dict[str, Any], column: str | None, what: str) -> Any:
    """The cell of a column, a list of one opened; None if it has no value, in whatever dress."""
    value = cell(row, column)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) > 1:
            raise Refused(f"the {what} is a list of {len(value)}, expected one")
        value = value[0] if value else None
    if isinstance(value, float | Decimal) and math.isnan(value):
        return None
    return None if isinstance(value, str) and value.strip() in MISSING else value


def ungradable(answer: str) -> str | None:
    """Why math-verify cannot judge responses against this answer; None if it can."""
    outcome = compute_score("", r"\boxed{0}", answer, timeout_seconds=PATIENCE)
    return next((reason for flag, reason in GRADERS.items() if outcome[flag]), None)


def answer_only(answer: str) -> str:
    """What a teacher reads where the source has no solutions: the answer is then all its privilege."""
    return rf"The final answer is \boxed{{{answer}}}."


def _problem(source: Source, row: dict[str, Any]) -> tuple[tuple[Mapping[str, str], ...], str]:
    """The turns before the problem's, and the problem without what its source wraps it in."""
    text, earlier = cell(row, source.problem), ()
    if isinstance(text, list):  # a chat
        try:
            *turns, last = user_chat(text)
        except RowError as error:
            raise Refused(str(error)) from error
        earlier, text = tuple({"role": turn["role"], "content": turn["content"]} for turn in turns), last["content"]
    if isinstance(text, float) and math.isnan(text):
        text = None
    if not isinstance(text, str | None):
        raise Refused(f"the problem is {type(text).__name__}, expected a text or a chat")
    if text is None or text.strip() in MISSING:
        raise Refused("no problem")
    text = text.strip()
    before, behind = source.wrapping
    if not (text.startswith(before) and text.endswith(behind)):
        raise Refused("the problem is not wrapped in the source's usual words")
    return earlier, text.removeprefix(before).removesuffix(behind).strip()


def _bare(answer: Any) -> Any:
    """$x$ and $$x$$ -> x, 12.0 -> 12, 0.5 -> "0.5"; other types are left as they are."""
    if isinstance(answer, float | Decimal):
        return int(answer) if answer == int(answer) else str(answer)
    if not isinstance(answer, str):
        return answer
    dollars = re.fullmatch(r"\s*(\$\$?)([^$]+)\1\s*", answer)
    return dollars[2] if dollars else answer
