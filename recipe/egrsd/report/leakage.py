"""Does the student speak of a solution that it has never seen? Overlap of its responses with the reference, and telling
phrases.

A right answer shares words with the reference without having seen it. So every response is also held against the
solutions of other problems, and against the problem's own text, whose words do not count.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import mean, stdev
from typing import Any

NGRAM = 6
"""Words and signs in a row."""
PHRASES = re.compile(
    r"\b(?:(?:reference|given|provided|official|sample) solution|(?:reference|provided|given|known) answer|answer key"
    r"|ground truth|according to the (?:solution|reference|answer|hint)"
    r"|(?:shown|given|stated|mentioned|provided) in the (?:solution|reference)"
    r"|the solution (?:says|states|shows|provided|given|above)"
    r"|i (?:was|am|have been) (?:given|shown|told) the (?:solution|answer))\b",
    re.IGNORECASE,
)
QUOTE = 60
"""Characters on either side of a phrase."""


@dataclass(frozen=True)
class Share:
    """Mean over responses, with its standard error; None where there is nothing to average."""

    mean: float | None
    se: float | None


@dataclass(frozen=True)
class StepAudit:
    """What the saved responses of a step show."""

    step: int
    num_responses: int
    own: Share
    """Share of a response's n-grams that stand in its own reference solution."""
    others: Share
    """The same, with the solutions of the other problems of the step."""
    longest: Share
    """Words of the longest piece shared with its own reference solution."""
    phrases: Share
    """Share of responses with a phrase that speaks of a reference."""
    quotes: list[str]


def audit(rows: Sequence[Mapping[str, Any]], step: int) -> StepAudit:
    """rows: those of watch/tokens.py. Responses without a solution or too short for an n-gram take no part in the
    overlap."""
    solutions = {row["solution"] for row in rows if row["solution"]}
    own, others, longest, quotes = [], [], [], []
    for row in rows:
        response, problem = "".join(row["tokens"]), words(row["prompt"])
        quotes.append(telling_phrases(response, row["prompt"]))
        fresh = ngrams(words(response)) - ngrams(problem)
        if not (row["solution"] and fresh):
            continue
        own.append(_overlap(fresh, row["solution"]))
        longest.append(float(longest_piece(words(response), words(row["solution"]))))
        strangers = solutions - {row["solution"]}
        if strangers:
            others.append(mean(_overlap(fresh, text) for text in strangers))
    found = [float(bool(said)) for said in quotes]
    return StepAudit(
        step,
        len(rows),
        own=_share(own),
        others=_share(others),
        longest=_share(longest),
        phrases=_share(found),
        quotes=[quote for said in quotes for quote in said],
    )


def words(text: str) -> list[str]:
    """Words, numbers and single signs, in lower case."""
    return re.findall(r"[^\W_]+|[^\w\s]|_", text.lower())


def ngrams(sequence: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(sequence[i : i + NGRAM]) for i in range(len(sequence) - NGRAM + 1)}


def longest_piece(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest run of words that stands in both."""
    return SequenceMatcher(None, left, right, autojunk=False).find_longest_match().size


def telling_phrases(response: str, prompt: str) -> list[str]:
    """Every phrase that speaks of a reference, with its surroundings, unless the prompt says it, too."""
    return [
        response[max(0, match.start() - QUOTE) : match.end() + QUOTE]
        for match in PHRASES.finditer(response)
        if match.group().lower() not in prompt.lower()
    ]


def _overlap(fresh: set[tuple[str, ...]], solution: str) -> float:
    return len(fresh & ngrams(words(solution))) / len(fresh)


def _share(values: Sequence[float]) -> Share:
    if not values:
        return Share(None, None)
    return Share(mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None)
