r"""Words among formulas: which letters are words, which are units, which announce an answer.

A run of letters without \text is a product of names (ab, SRMC) unless it is a word: a unit behind a number, or at least
four letters with a vowel that do not stand in the alphabet's order.
"""

import re

from recipe.egrsd.reward import units
from recipe.egrsd.reward.latex import tokens
from recipe.egrsd.reward.spelling import NUMBER
from recipe.egrsd.reward.tables import FUNCTIONS, MONEY, SMALL

SHORT = {"no", "yes", "odd", "men", "day", "one", "two", "six", "ten", "the", "not"}
_RUN = re.compile(r"(?<![\\a-zA-Z])[A-Za-z\u00c0-\u024f]+(?:'[A-Za-z]+)?(?![a-zA-Z{(])")
_POWER = r"(?:\s*\^\s*\{?\s*-?\d+\s*\}?)?"
_NAMES = "|".join(units.BARE)
_UNIT = re.compile(  # behind a number: m/s^2, square feet, km/h
    rf"(?<=[\d}})])(\s*)((?:[mgJNWV]\s*/\s*(?:s|h|m|L|K|C|kg|mol|cm)(?![a-zA-Z_(]){_POWER}"
    rf"|(?:sq\.?\s|cu\.?\s|square\s|cubic\s)?(?:{_NAMES})(?![a-zA-Z_(])\.?{_POWER}"
    rf"(?:\s*(?:/|per\s)\s*(?:{_NAMES}|[shmlg])(?![a-zA-Z_(]){_POWER})*))"
)
BEFORE = {rf"\text{{{name}}}": name for name in MONEY.values()} | {r"\$": "dollar"}  # what stands before a number
ANNOUNCING = re.compile(r".*\b(?:is|are|was|equals|be|of|answer|about|approximately)\b\s*:?|.*[:=]|[Aa]nswer|[Aa]bout")


def marked(text: str) -> str:
    r"""The text with every word that stands outside \text put into it."""
    pieces = re.split(
        r"(\\text\{(?:[^{}]|\{[^{}]*\})*\}|\\(?:begin|end)\{[a-zA-Z]*\}|\\[a-zA-Z]+(?:\{[a-zA-Z]+\})?)", text
    )
    if not re.search(r"[A-Za-z]{2}", "".join(pieces[::2])):
        return text
    pieces[::2] = [_marked(piece) for piece in pieces[::2]]
    return _merged("".join(pieces))


def _marked(text: str) -> str:
    text = _UNIT.sub(lambda found: rf"{found[1]}\text{{{re.sub('[{}]', '', found[2])}}}", text)
    parts = re.split(r"(\\text\{.*?\}+)", text)
    for at in range(0, len(parts), 2):
        if any(is_word(word[0]) for word in _RUN.finditer(parts[at])):
            parts[at] = _RUN.sub(_mark, parts[at])
    return "".join(parts)


def _mark(found: re.Match) -> str:
    word = found[0]
    return rf"\text{{{word}}}" if is_word(word) or word.lower() in SMALL or len(word) > 3 else word


def is_word(word: str) -> bool:
    if len(word) < 4 or word in FUNCTIONS:
        return word.lower() in SHORT
    return bool(re.search(r"(?i)[aeiouy]", word)) and sorted(word.lower()) != list(word.lower())


def _merged(text: str) -> str:
    r"""Texts side by side are one text, numbers and marks between words with them: \text{June} 20 is text."""
    before = None
    while before != text:
        before = text
        text = re.sub(r"\\text\{([^{}]*)\}\s*[.']?\s*\\text\{([^{}]*)\}", r"\\text{\1 \2}", text)
    text = re.sub(rf"\\text\{{([A-Z][a-z]+)\}}\s*({NUMBER})$", r"\\text{\1 \2}", text)
    return re.sub(r"\\text\{\s*(and|or)\s*\}", r"\\\1 ", text)


def is_symbol(text: str) -> bool:
    return bool(re.fullmatch(r"\s*[A-Za-z]\s*", text))


def symbols(found: list[str]) -> list[str]:
    r"""\text{A} inside a formula is A."""
    return [token[6:-1].strip() if token.startswith(r"\text{") and is_symbol(token[6:-1]) else token for token in found]


def is_name(found: list[str]) -> bool:
    """One symbol, with its index or argument: what stands before = when a value is named."""
    return (
        bool(found)
        and (len(found) == 1 or found[1] in ("_", "(", "'"))
        and bool(re.match(r"[a-zA-Z]|\\[a-zA-Z]", found[0]))
    )


def announces(text: str) -> bool:
    return bool(ANNOUNCING.fullmatch(text.strip()))


def time(found: list[str]) -> tuple[int, str, str] | None:
    """Hour, minutes and half of the day ("" without) of 12:00, 1:58 am; None if it is no time."""
    text = "".join(re.sub(r"\\text\{(.*?)\}", r"\1", token) for token in found)
    clock = re.fullmatch(r"([01]?\d|2[0-4]):([0-5]\d)((?:\s*[apAP]\.?\s*[mM])?\.?)", text.replace(" ", ""), re.ASCII)
    if not clock:
        return None
    half = clock[3].replace(".", "")
    return int(clock[1]), clock[2], half.lower() if half in (half.upper(), half.capitalize()) else half


def based(found: list[str]) -> tuple[str, str] | None:
    """Digits and base of 52_8, (1011)_{2}."""
    text = re.sub(r"\\text|[{}\s]", "", "".join(found))
    number = re.fullmatch(r"\(?([0-9][0-9A-Fa-f]*(?:\.[0-9A-Fa-f]+)?)\)?_(\d+|two|three|five|eight|ten|sixteen)", text)
    if not number:
        return None
    named = {"two": "2", "three": "3", "five": "5", "eight": "8", "ten": "10", "sixteen": "16"}
    return number[1].upper().lstrip("0") or "0", named.get(number[2], number[2])


def quantity(found: list[str]) -> tuple[list[str], str | None]:
    r"""The formula and the unit behind or before it: 5 \text{ cm}^2, 4 \frac{\text{in}}{\text{s}}, \$5, 90^\circ."""
    sign = found[:1] if found[0] in ("-", "+") else []
    if money := BEFORE.get(found[len(sign)] if len(found) > len(sign) else ""):
        return _measured([*sign, *found[len(sign) + 1 :]], money)
    if found[-1] in (r"\$", r"\Omega") and _is_number(found[:-1]):
        return found[:-1], {r"\$": "dollar^1", r"\Omega": "ohm^1"}[found[-1]]
    text = " ".join(found)
    degrees = re.fullmatch(r"(.*?)\s*\^ \{ \\circ \}(?:\s*\\text\{\s*([CF])\s*\}|\s*([CF]))?", text)
    if degrees and r"\circ" not in degrees[1] and not any(token[1:] in FUNCTIONS for token in found):
        return tokens(degrees[1]), f"deg{degrees[2] or degrees[3] or ''}^1"
    return _measured(found)


def _measured(found: list[str], money: str = "") -> tuple[list[str], str | None]:
    """The formula and the words behind it; ``money``: the currency that stood before it."""
    alone = f"{money}^1" if money else None
    start = next((at for at, token in enumerate(found) if token.startswith(r"\text{")), None)
    if not start:
        return found, alone
    while start and found[start - 1] in ("{", r"\frac", "(", r"\cdot", "/"):
        start -= 1
    formula, words = found[:start], _written(found[start:])
    unit = units.read(words, money) if words else None
    if not formula or unit is None or (not units.known(unit) and not _is_number(formula)):
        return found, alone
    return formula, unit


def _written(found: list[str]) -> str | None:
    r"""A unit as plain text; None if anything but words, powers, quotients stands in it."""
    text = " ".join(found)
    text = re.sub(r"\\frac \{ (.*?) \} \{ (.*?) \}", r"\1 / \2", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace(r"\cdot", "*")
    return (
        text
        if re.fullmatch(r"[\w\s/^{}()*.\-'\u00c0-\u024f]*", text)
        and not re.search(r"(?<![\^{\s-])\d|\s\d(?!\s*\})(?<!\^ \d)", text)
        else None
    )


def _is_number(formula: list[str]) -> bool:
    r"""No name in it: 7, \frac{1}{2}, 3\sqrt{2}."""
    return bool(formula) and not any(re.fullmatch(r"[a-zA-Z]", token) for token in formula)
