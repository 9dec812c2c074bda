r"""An answer in one spelling -> its parts: lists, sets, tuples, intervals, equations, inequalities, text, values.

Formulas are not read here; formula.py and math-verify do that when two values are compared.
"""

import functools
import re
from dataclasses import dataclass, replace

from recipe.egrsd.reward import words
from recipe.egrsd.reward.latex import OPENS, Unreadable, enclosed, joined, split, tokens
from recipe.egrsd.reward.spelling import normalise

SIGNS = {
    "=": "=",
    r"\equiv": "=",
    "<": "<",
    ">": ">",
    r"\le": r"\le",
    r"\ge": r"\ge",
    r"\ne": r"\ne",
    r"\in": "=",
    r"\ll": "<",
    r"\gg": ">",
}
SETS = {r"\cup", r"\cap", r"\setminus"}
SEPARATORS = {",", ";", r"\and", r"\or"}
TEXT = re.compile(r"\\text\{(.*)\}", re.DOTALL)


@dataclass(frozen=True)
class Text:
    words: str


@dataclass(frozen=True)
class Value:
    """A formula, with what was written around it."""

    latex: str
    unit: str | None = None
    percent: bool = False
    base: str | None = None


@dataclass(frozen=True)
class Time:
    """12:30, 1:58 am: a time of day, which may also be a ratio."""

    hour: int
    minutes: str
    half: str
    """am, pm, or nothing."""

    @property
    def ratio(self) -> Value | None:
        return None if self.half or self.minutes.startswith("0") else Value(f"{self.hour} : {self.minutes}")


@dataclass(frozen=True)
class Mixed:
    """Formulas and text in turn: 5 ft 6 in, n odd."""

    parts: tuple["Text | Value", ...]


@dataclass(frozen=True)
class Items:
    r"""Several answers. ``kind``: ``list``, ``or``, ``set``, ``cases``, ``row``, an operator as ``\bigcup``, or the
    brackets of a tuple or an interval: ``()``, ``[)``, ..."""

    kind: str
    parts: tuple["Answer", ...]


@dataclass(frozen=True)
class Pieces:
    r"""Sets joined by \cup, \cap, \setminus, from left to right."""

    parts: tuple["Answer", ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Sides with = < > <= >= != between them."""

    sides: tuple["Answer", ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Described:
    r"""\{x | x>0\}: a set by a condition on a name that means nothing outside."""

    name: str
    domain: str
    condition: "Answer"


Answer = Text | Value | Time | Mixed | Items | Pieces | Chain | Described


@functools.lru_cache(maxsize=256)
def read(text: str) -> Answer:
    """The parts of an answer as it was typed. Unreadable if brackets do not close or a part is missing."""
    return _read(tokens(words.marked(normalise(text))))


def _read(found: list[str]) -> Answer:
    if not found:
        raise Unreadable("a part is missing")
    if time := words.time(found):
        return Time(*time)
    parts, signs = split(found, SEPARATORS)
    if signs:
        return _list([part for part in parts if part], signs)
    if {r"\pm", r"\mp"} & set(found):
        return Items("list", (_read(_signed(found, "+-")), _read(_signed(found, "-+"))))
    if found[0] in (r"\begin{cases}", r"\begin{aligned}") and enclosed(found):
        return _rows(found)
    sides, signs = split(found, {*SIGNS, r"\approx"})
    if signs:
        return _chain(sides, signs)
    parts, signs = split(found, SETS)
    if signs and all(parts):
        return Pieces(tuple(_read(part) for part in parts), tuple(signs))
    return _bracketed(found) or _value(found)


def _list(parts: list[list[str]], signs: list[str]) -> Answer:
    """x=1,2 gives its name to all; what a sign of plus or minus makes two of is two in the list."""
    read = [_read(part) for part in parts]
    flat = [one for part in read for one in (part.parts if isinstance(part, Items) and part.kind == "list" else [part])]
    if len(flat) == 1:
        return flat[0]
    first = flat[0]
    if isinstance(first, Chain) and set(first.signs) == {"="} and not any(isinstance(part, Chain) for part in flat[1:]):
        flat[1:] = [Chain((first.sides[0], part), ("=",)) for part in flat[1:]]
    return Items("or" if r"\or" in signs else "list", tuple(flat))


def _rows(found: list[str]) -> Answer:
    r"""\begin{cases}: what holds where, row by row; \begin{aligned}: a list."""
    rows = [split(row, {"&"})[0] for row in split(found[1:-1], {"\\\\"})[0] if row]
    if found[0] == r"\begin{aligned}" or all(len(row) == 1 for row in rows):
        return Items("list", tuple(_read([token for cell in row for token in cell]) for row in rows))
    return Items("cases", tuple(Items("row", tuple(_read(cell) for cell in row if cell)) for row in rows))


def _signed(found: list[str], signs: str) -> list[str]:
    both = {r"\pm": signs[0], r"\mp": signs[1]}
    return [both.get(token, token) for token in found]


def _chain(sides: list[list[str]], signs: list[str]) -> Answer:
    r"""a \approx b is a, but x \approx b is x = b. A side that holds a list gives one equation for each of it."""
    if r"\approx" in signs:
        at = signs.index(r"\approx")
        if at or not words.is_name(sides[0]):
            return _read(_rejoined(sides[: at + 1], signs[:at]))
        signs = ["=" if sign == r"\approx" else sign for sign in signs]
    if not all(sides):
        raise Unreadable("a side is missing")
    return Chain(tuple(_read(side) for side in sides), tuple(SIGNS[sign] for sign in signs))


def _rejoined(sides: list[list[str]], signs: list[str]) -> list[str]:
    result = list(sides[0])
    for sign, side in zip(signs, sides[1:], strict=True):
        result += [sign, *side]
    return result


def _bracketed(found: list[str]) -> Answer | None:
    r"""(a,b), [a,b), \{a,b\}, \{x | x>0\}; None if the brackets are only those of a formula."""
    if found[0] in (r"\bigcup", r"\bigcap") and "(" in found:
        at = found.index("(") if "[" not in found else min(found.index("("), found.index("["))
        return Items(joined(found[:at]), (_read(found[at:]),))
    if found in ([r"\emptyset"], [r"\{", r"\}"]):
        return Items("set", ())
    if found[0] not in OPENS or not enclosed(found):
        return None
    opens, inner, closes = found[0], found[1:-1], found[-1]
    parts, signs = split(inner, SEPARATORS)
    if opens == r"\{":
        conditions, bars = split(inner, {"|", r"\mid", ":"})
        if bars and len(conditions) == 2 and split(conditions[1], set(SIGNS))[1]:
            name, *domain = (joined(part) for part in split(conditions[0], {r"\in"})[0])
            return Described(name, "".join(domain).replace(" ", ""), _read(conditions[1]))
        answer = _read(inner)
        return (
            replace(answer, kind="set")
            if isinstance(answer, Items) and answer.kind == "list"
            else Items("set", (answer,))
        )
    if opens in OPENS and opens != "{" and signs and set(signs) <= {",", ";"}:
        brackets = {r"\langle": "(", r"\rangle": ")"}
        return Items(brackets.get(opens, opens) + brackets.get(closes, closes), tuple(_read(part) for part in parts))
    return None


def _value(found: list[str]) -> Answer:
    """One value with its unit, percent sign or base; text; or both in turn."""
    while enclosed(found) and found[0] == "{":
        found = found[1:-1]
    if len(found) == 1 and (text := TEXT.fullmatch(found[0])) and not words.is_symbol(text[1]):
        return Text(text[1].strip())
    if based := words.based(found):
        return Value(based[0], base=based[1])
    if r"\%" in found and all(TEXT.fullmatch(token) for token in found[found.index(r"\%") + 1 :]):  # 75\% of the class
        share = _quantity([token for token in found if token != r"\%"])
        return replace(share, percent=True) if isinstance(share, Value) else _quantity(found)
    return _quantity(found)


def _quantity(found: list[str]) -> Answer:
    formula, unit = words.quantity(found) if found else ([], None)
    formula = words.symbols(formula)
    if not any(token.startswith(r"\text{") for token in formula):
        if not formula:
            raise Unreadable("a unit without a number")
        return Value(joined(formula), unit=unit)
    return _mixed(formula)


def _mixed(found: list[str]) -> Answer:
    """Leading words that only announce the value are dropped; otherwise every word counts."""
    lead = TEXT.fullmatch(found[0])
    if lead and len(found) > 1 and words.announces(lead[1]):
        return _read(found[1:])
    parts: list[Text | Value] = []
    run: list[str] = []
    for token in [*found, r"\text{}"]:
        if text := TEXT.fullmatch(token):
            if len(run) > 1 and run[0] in (r"\times", r"\cdot", "/", "+"):
                parts.append(Text(run.pop(0)))
            parts += [Value(joined(run))] if run else []
            parts += [Text(text[1].strip())] if text[1].strip() else []
            run = []
        else:
            run.append(token)
    return Mixed(tuple(parts))
