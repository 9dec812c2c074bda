r"""Numbers that are written out (7, -1,000.5, 3/4, 1\frac12, 3\times 10^{8}) as exact fractions; when two are equal."""

import re
from dataclasses import dataclass
from fractions import Fraction

DIGITS = 6  # significant digits that a decimal must show to stand for a value that it only rounds
MAX_EXPONENT = 5000  # of ten; beyond it a number is left to math-verify
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?)"
_TEN = r"10\s*\^\s*(?:\{\s*([+-]?\s*\d+)\s*\}|([+-]?\s*\d+))"
_PLAIN = re.compile(rf"({_UNSIGNED})(?:\s*(?:\\times|\\cdot|\*)\s*{_TEN})?|{_TEN}", re.ASCII)
_PART = rf"(?:\{{\s*([+-]?{_UNSIGNED})\s*\}}|([0-9]))"  # of \frac: a number in braces, or one digit
_FRACTION = re.compile(
    rf"([0-9]+(?=\s))?([0-9]+(?=\\))?\s*(?:\\frac\s*{_PART}\s*{_PART}|({_UNSIGNED})\s*/\s*({_UNSIGNED}))", re.ASCII
)


@dataclass(frozen=True)
class Number:
    """A number as it stands there."""

    value: Fraction
    decimal: bool = False
    """Written with a point or a power of ten, as a measurement is."""
    last: Fraction = Fraction(0)
    """One unit in the last place."""

    @property
    def shown(self) -> int:
        """Significant digits."""
        return len(str(abs(int(self.value / self.last)))) if self.last else 0


def literal(text: str) -> Number | None:
    """The number that a text in one spelling (spelling.py) writes out; None if it is anything else."""
    text = text.strip()
    sign = -1 if text.startswith("-") else 1
    text = text[1:].strip() if text[:1] in ("-", "+") else text
    while text.startswith("{") and text.endswith("}") and "{" not in text[1:]:
        text = text[1:-1].strip()
    if plain := _PLAIN.fullmatch(text):
        return _plain(plain, sign)
    if fraction := _FRACTION.fullmatch(text):
        return _fraction(fraction, sign)
    return None


def _plain(found: re.Match, sign: int) -> Number | None:
    digits = (found[1] or "1").replace(",", "")
    exponent = next((int(group.replace(" ", "")) for group in found.groups()[1:] if group), 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    places = len(digits.partition(".")[2])
    scale = Fraction(10) ** exponent
    written = found[1] is not None and ("." in digits or found[2] or found[3])
    last = scale / 10**places if written else Fraction(0)
    return Number(sign * Fraction(digits) * scale, decimal=bool(written), last=last)


def _fraction(found: re.Match, sign: int) -> Number | None:
    spaced, glued, *parts = found.groups()
    over, under = (Fraction(part.replace(",", "")) for part in parts if part)
    whole = spaced or glued
    if under == 0 or (whole and not (over > 0 and under > 0 and over.denominator == under.denominator == 1)):
        return None
    return Number(sign * (int(whole or 0) + over / under))


def equal(first: Number, second: Number) -> bool:
    """Exactly; a decimal of six digits also equals what it rounds, but never another decimal of its own length."""
    if first.value == second.value:
        return True
    if first.decimal and second.decimal:
        longer, shorter = sorted((first, second), key=lambda number: number.last)
        if longer.last == shorter.last or shorter.shown < DIGITS:
            return False
        return abs(longer.value - shorter.value) <= shorter.last / 2
    if first.decimal or second.decimal:
        decimal, exact = (first, second) if first.decimal else (second, first)
        return rounds(decimal, exact.value)
    return False


def rounds(decimal: Number, value: Fraction) -> bool:
    """Whether a decimal stands for this value: within one unit of its last place, and within one part in a million."""
    close = abs(decimal.value - value)
    return close <= decimal.last and close <= abs(value) * Fraction(1_001, 10 ** (DIGITS + 3))
