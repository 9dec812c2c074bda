"""A teacher that is told what the reward function said of the very response that it scores, such as an error message:
algorithm.egrsd.privilege=feedback, and its control feedback_shuffled, which tells what was said of another problem's.

The reward function returns {"score": ..., "feedback": text}; verl keeps what it returned beside the score in
``extra_fields`` (agent_loop.py:1028). Nothing is cut.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from recipe.egrsd.privilege.rows import rollout_of
from recipe.egrsd.privilege.texts import RowError, refuse_control_tokens

KEY = "feedback"
"""Of what the reward function returns."""


def said_of(keys: Sequence[str], extra_fields: Sequence[Any]) -> list[str]:
    """B texts, without the white space around them; empty where nothing was said.

    Raises:
        ValueError: if it is no text; names the row.
    """
    said = [(fields or {}).get("reward_extra_info", {}).get(KEY) for fields in extra_fields]
    for key, text in zip(keys, said, strict=True):
        if not isinstance(text, str | None):
            raise ValueError(
                f"the reward function returned '{KEY}' of type {type(text).__name__} for row {key}, and "
                "algorithm.egrsd.privilege=feedback shows a text: return a string, or None to say nothing."
            )
    return [(text or "").strip() for text in said]


def sources(
    keys: Sequence[str], problems: Sequence[Sequence[int]], said: Sequence[str], *, shuffled: bool, seed: str
) -> list[int | None]:
    """For each response the row of what its teacher is told; None if nothing was said of it, or of nobody else.

    Args:
        keys: B row names (rows.py).
        problems: B prompts, token ids; by the first of a rollout chance tells groups apart, whose names differ from run
            to run.
        said: B texts.
        shuffled: another problem's, in other words, instead of its own.
        seed: of the run and the step.
    """
    own = [row if text else None for row, text in enumerate(said)]
    if not shuffled:
        return own
    parts = [rollout_of(key) for key in keys]
    first = {(group, number): [*ids] for (group, number, index), ids in zip(parts, problems, strict=True) if not index}
    asked = [first.get((group, number), []) for group, number, _ in parts]
    order = sorted(
        (row for row, text in enumerate(said) if text), key=lambda row: (asked[row], parts[row][1:], said[row])
    )
    found: list[int | None] = []
    for row, text in enumerate(said):
        start = Random(f"{seed} {asked[row]} {parts[row][1]}").randrange(len(order)) if text else 0
        others = (order[(start + step) % len(order)] for step in range(len(order)))
        found.append(next((o for o in others if asked[o] != asked[row] and said[o] != text), None) if text else None)
    return found


def without_forged(keys: Sequence[str], said: Sequence[str], tokenizer: Any) -> tuple[list[str], list[str]]:
    """B texts, empty where one spells a control token or is no valid Unicode; and of these which row and why."""
    found, refused = [], []
    for key, text in zip(keys, said, strict=True):
        try:
            text.encode()
            refuse_control_tokens(tokenizer, text, where="the feedback")
            found.append(text)
        except (RowError, UnicodeEncodeError) as error:
            found.append("")
            refused.append(f"row {key}: {error}")
    return found, refused


def told_ids(
    keys: Sequence[str], told: Sequence[str], tokenizer: Any, *, lengths: Sequence[int], max_length: int
) -> tuple[list[list[int] | None], list[str]]:
    """Each row's text as tokens, None without one or if it does not fit; and of each of the latter which row and why.

    Args:
        told: B texts.
        lengths: B tokens of the teacher's prompt around them.
        max_length: of the whole prompt.
    """
    found: list[list[int] | None] = [
        tokenizer.encode(text, add_special_tokens=False) if text else None for text in told
    ]
    refused = []
    for row, (ids, around) in enumerate(zip(found, lengths, strict=True)):
        if ids and around + len(ids) > max_length:
            refused.append(
                f"row {keys[row]}: {len(ids)} tokens of feedback and {around} around it are more than "
                f"algorithm.egrsd.teacher.max_prompt_length={max_length}"
            )
            found[row] = None
    return found, refused
