"""Whether an answer is the ground truth's: part by part (answers.py), values by values.py, solutions by math-verify.

The rules for users, one by one with examples, are docs/answers.md.
"""

import re
from collections.abc import Sequence

from recipe.egrsd.reward import relations, units, values
from recipe.egrsd.reward.answers import Answer, Chain, Described, Items, Mixed, Pieces, Text, Time, Value, read
from recipe.egrsd.reward.latex import Unreadable


def outcome(expected: str, answer: str) -> str:
    """``equal``, ``different``, or ``bad_ground_truth`` if the expected answer cannot be read."""
    try:
        gold = read(expected)
        check(gold)
    except (Unreadable, RecursionError):
        return "bad_ground_truth"
    try:
        found = read(answer)
        if isinstance(gold, Items) and isinstance(found, Value) and re.fullmatch(r"[0-9,]+", answer):
            found = read(answer.replace(",", ", "))  # 40,150 is a number, but two where two are asked for
        return "equal" if same(gold, found) else "different"
    except (Unreadable, RecursionError):
        return "different"


def check(answer: Answer) -> None:
    """Unreadable if any formula of an answer is."""
    if isinstance(answer, Value):
        if answer.base is None:
            values.parsed(answer.latex)
    elif isinstance(answer, Chain) and relations.label(answer):
        check(answer.sides[-1])
    elif isinstance(answer, Described):
        check(answer.condition)
    elif not isinstance(answer, Text | Time):
        for part in answer.sides if isinstance(answer, Chain) else answer.parts:
            check(part)


def same(gold: Answer, answer: Answer) -> bool:
    """Whether two answers are equal. Unreadable if that needs a formula that has no reading."""
    if gold == answer:
        return True
    if isinstance(gold, Chain) or isinstance(answer, Chain):
        return _same_chain(gold, answer)
    if isinstance(gold, Time) or isinstance(answer, Time):
        return _same_time(gold, answer)
    if isinstance(gold, Text) or isinstance(answer, Text):
        return isinstance(gold, Text) and isinstance(answer, Text) and same_words(gold.words, answer.words)
    if isinstance(gold, Mixed) or isinstance(answer, Mixed):
        return isinstance(gold, Mixed) and isinstance(answer, Mixed) and _pairwise(gold.parts, answer.parts)
    if isinstance(gold, Described) or isinstance(answer, Described):
        return relations.same_sets(gold, answer)
    if isinstance(gold, Value) and isinstance(answer, Value):
        return same_value(gold, answer)
    if isinstance(gold, Pieces) or isinstance(answer, Pieces):
        return _same_pieces(gold, answer)
    return _same_items(gold, answer)


def same_words(gold: str, answer: str) -> bool:
    """The same words. Case counts only within a text: no, No and NO are one, nO is another."""
    gold, answer = (" ".join(text.split()).rstrip(".") for text in (gold, answer))
    return answer in (gold, gold.lower(), gold.upper(), gold.capitalize(), gold.title(), gold[:1].swapcase() + gold[1:])


def _same_time(gold: Answer, answer: Answer) -> bool:
    """Two times minute for minute, am and pm where both have them; beside anything else a time is a ratio."""
    if isinstance(gold, Time) and isinstance(answer, Time):
        alike = gold.half == answer.half or not (gold.half and answer.half)
        return alike and (gold.hour, gold.minutes) == (answer.hour, answer.minutes)
    first, second = (one.ratio if isinstance(one, Time) else one for one in (gold, answer))
    return first is not None and second is not None and same(first, second)


def same_value(gold: Value, answer: Value) -> bool:
    """Numbers equal, units and bases equal where both have one, percent as docs/answers.md says."""
    if not units.agree(gold.unit, answer.unit):
        return False
    if gold.base or answer.base:
        return gold.latex == answer.latex and (not (gold.base and answer.base) or gold.base == answer.base)
    if gold.percent == answer.percent:
        return values.same(gold.latex, answer.latex)
    share, plain = (gold, answer) if gold.percent else (answer, gold)
    if values.same(rf"\frac{{{share.latex}}}{{100}}", plain.latex):
        return True
    return values.above_one(plain.latex) and values.same(share.latex, plain.latex)


def _pairwise(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    return len(gold) == len(answer) and all(same(*pair) for pair in zip(gold, answer, strict=True))


def _same_items(gold: Answer, answer: Answer) -> bool:
    """Lists and sets in any order, tuples in theirs."""
    if not isinstance(gold, Items) or not isinstance(answer, Items):
        several, one = (gold, answer) if isinstance(gold, Items) else (answer, gold)
        if isinstance(one, Value) and one.latex.startswith(r"\mathbb"):
            return relations.same_sets(gold, answer)
        return (
            isinstance(several, Items)
            and several.kind == "set"
            and len(several.parts) == 1
            and same(several.parts[0], one)
        )
    kinds = {gold.kind, answer.kind}
    if kinds <= {"list", "or", "set"}:
        if "set" in kinds:
            return _covers(gold.parts, answer.parts) and _covers(answer.parts, gold.parts)
        return _matched(gold.parts, answer.parts)
    if kinds == {"cases"}:
        return _matched(gold.parts, answer.parts)
    if gold.kind == answer.kind or kinds == {"()", "list"}:
        return _pairwise(gold.parts, answer.parts)
    return False


def _covers(first: Sequence[Answer], second: Sequence[Answer]) -> bool:
    return all(any(_quiet(one, other) for other in second) for one in first)


def _matched(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    """One for one, in any order; in theirs if they are named and the answer's are not."""
    if len(gold) != len(answer):
        return False
    if relations.named_apart(gold) and not any(isinstance(part, Chain) for part in answer):
        return _pairwise(gold, answer)
    left = list(answer)
    for part in gold:
        found = next((at for at, other in enumerate(left) if _quiet(part, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _quiet(gold: Answer, answer: Answer) -> bool:
    try:
        return same(gold, answer)
    except Unreadable:
        return False


def _same_pieces(gold: Answer, answer: Answer) -> bool:
    """Unions piece by piece in any order, else as sets."""
    if (
        isinstance(gold, Pieces)
        and isinstance(answer, Pieces)
        and {*gold.signs, *answer.signs} == {r"\cup"}
        and _matched(gold.parts, answer.parts)
    ):
        return True
    return relations.same_sets(gold, answer)


def _same_chain(gold: Answer, answer: Answer) -> bool:
    """Equations and inequalities; a name before a sign of equality does not count where the other has none."""
    if isinstance(gold, Chain) and relations.statement(gold):
        return same(relations.values_of(gold)[-1], answer)
    if not isinstance(gold, Chain):
        if isinstance(answer, Chain) and set(answer.signs) == {"="}:
            return all(same(gold, side) for side in relations.values_of(answer))
        return relations.same_sets(gold, answer)
    if not isinstance(answer, Chain):
        if set(gold.signs) == {"="}:
            return relations.label(gold) and same(gold.sides[-1], answer)
        return relations.same_sets(gold, answer)
    if relations.label(gold) and relations.label(answer) and relations.same_names(gold.sides[0], answer.sides[0], same):
        return all(same(gold.sides[-1], side) for side in answer.sides[1:])
    return relations.same(gold, answer)
