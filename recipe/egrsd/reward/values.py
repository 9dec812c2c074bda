"""When two formulas are equal: math-verify's parser reads them, their values are compared at a few points.

math-verify itself takes differences below 1e-15, floats alike to six decimals, zoo and nan for equal. Here two values
are equal if they agree to 20 digits wherever the names in them are given values; decimals follow the rule of
literals.py.
"""

import functools
from fractions import Fraction

from recipe.egrsd.reward import literals
from recipe.egrsd.reward.formula import safe
from recipe.egrsd.reward.latex import Unreadable

POINTS = ("0.7182939", "-1.3719452", "2.6180127")  # each name's value is one of these, moved by the name's place
END = -1  # antlr's token behind the last one
STEPS = 40  # points for floor, ceil, mod
DIGITS = 30  # that are computed
AGREE = 20  # that must agree
LOST = 1e-30  # below it, a value at a point may be what is left of one that is 0
ZERO = 1e-110  # below it, sympy's value of a number is what is left of 0; 1/52! is above


@functools.lru_cache(maxsize=512)
def parsed(latex: str):
    """sympy's object for a formula; every name is a real symbol. Unreadable if math-verify's parser refuses it.

    The parser is entered at its rule for an expression: its first rule tries every text as a list, a set and a
    relation, too, which answers.py has already decided, and takes three times as long.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy

    text = safe(latex)
    converter = _Latex2Sympy(is_real=True, config=ConversionConfig(lowercase_symbols=False))
    try:
        parser = converter.create_parser(text)
        tree = parser.expr()
        if parser.getCurrentToken().type != END:
            raise Unreadable(text)
        return converter.convert_expr(tree)
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001  of many kinds; the parser's own are plain Exceptions
        raise Unreadable(str(error)) from None


def same(first: str, second: str) -> bool:
    """Whether two formulas have one value. Unreadable if either cannot be read."""
    if first == second:
        return True
    mine, theirs = literals.literal(first), literals.literal(second)
    if mine and theirs:
        return literals.equal(mine, theirs)
    return equal(parsed(first), parsed(second), decimal=_only(mine, theirs))


def _only(mine: literals.Number | None, theirs: literals.Number | None) -> literals.Number | None:
    decimal = mine or theirs
    return decimal if decimal and decimal.decimal else None


def equal(first, second, *, decimal: literals.Number | None = None) -> bool:
    """Whether two sympy objects agree at every point; ``decimal``: that one of them which is a decimal, if one is."""
    first, second = _done(first), _done(second)
    if hasattr(first, "shape") or hasattr(second, "shape"):
        return _same_matrix(first, second)
    if not (hasattr(first, "free_symbols") and hasattr(second, "free_symbols")):
        return False
    known = False
    for point in range(_points(first, second)):
        verdict = _at(first, second, point, decimal)
        if verdict is False:
            return False
        known = known or verdict is True
    if known:
        return True
    return _simplifies(first, second) if _is_finite(first) else _same_infinity(first, second)


def _simplifies(first, second) -> bool:
    """Where no point decides: sums up to a name, or formulas that are 0 or nearly so everywhere."""
    from sympy import simplify

    return bool(first == second or simplify(first - second) == 0)


def _points(first, second) -> int:
    """One for numbers, few for formulas, many where steps hide a difference."""
    from sympy import Mod, ceiling, floor

    if not first.free_symbols | second.free_symbols:
        return 1
    return STEPS if first.has(floor, ceiling, Mod) or second.has(floor, ceiling, Mod) else len(POINTS)


def _done(value):
    try:
        return value.doit()
    except Exception:  # noqa: BLE001  sympy cannot work it out: it is compared as it stands
        return value


def _same_matrix(first, second) -> bool:
    if getattr(first, "shape", None) != getattr(second, "shape", None):
        return False
    try:
        first, second = first.as_explicit(), second.as_explicit()
        return all(equal(mine, theirs) for mine, theirs in zip(list(first), list(second), strict=True))
    except Exception:  # noqa: BLE001  of a size that is a symbol, say: compared as it stands
        return bool(first == second)


def _at(first, second, point: int, decimal: literals.Number | None) -> bool | None:
    """Agreement at one point; None if a value there is no finite number."""
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    given = place(names, point)
    mine, theirs = number(first, given), number(second, given)
    if mine is None or theirs is None:
        return None if mine is theirs else False
    if given and max(abs(mine), abs(theirs)) < LOST:
        return None
    return _rounds(decimal, mine, theirs) if decimal else close(mine, theirs)


def _rounds(decimal: literals.Number, mine, theirs) -> bool:
    parts = [value.as_real_imag() for value in (mine, theirs)]
    if any(abs(imaginary) > 1e-20 for _, imaginary in parts):
        return False
    values = [Fraction(str(real)) for real, _ in parts]
    other = max(values, key=lambda value: abs(value - decimal.value))
    return literals.rounds(decimal, other)


def has_names(latex: str) -> bool:
    try:
        return bool(getattr(parsed(latex), "free_symbols", True))
    except Unreadable:
        return True


def only_names(latex: str) -> bool:
    """Products and quotients of names alone, as math-verify takes for an assignment."""
    from latex2sympy2_extended import is_expr_of_only_symbols

    try:
        return bool(is_expr_of_only_symbols(parsed(latex)))
    except Unreadable:
        return True


def above_one(latex: str) -> bool:
    """Whether a formula is a number above 1, or below -1."""
    found = number(parsed(latex), {})
    return found is not None and bool(abs(found) > 1)


def place(names: list, point: int) -> dict:
    """Values for the names: all different, none of them a round number, the same for the same names."""
    from sympy import Float

    def at(place: int) -> Float:
        return (
            Float(POINTS[(point + place) % len(POINTS)], DIGITS + 10)
            + Float(place * (point + 3) + 11 * (point // len(POINTS)), DIGITS + 10) / 17
        )

    return {name: at(place) for place, name in enumerate(names)}


def number(value, given: dict):
    """The value as a complex number of DIGITS digits; None if there is none."""
    try:
        found = value.subs(given).evalf(DIGITS) if given else value.evalf(DIGITS)
        real, imaginary = found.as_real_imag()
    except Exception:  # noqa: BLE001  of many kinds: it has no number
        return None
    if not (real.is_Number and imaginary.is_Number and real.is_finite and imaginary.is_finite):
        return None
    return found


def close(mine, theirs) -> bool:
    size = max(abs(mine), abs(theirs))
    return bool(abs(mine - theirs) <= size * 10**-AGREE or (size < ZERO and 0 in (mine, theirs)))


def _is_finite(value) -> bool:
    from sympy import nan, oo, zoo

    return not value.has(oo, -oo, zoo, nan)


def _same_infinity(first, second) -> bool:
    """oo is oo and -oo is -oo; zoo and nan are nothing."""
    from sympy import oo

    return first == second and first in (oo, -oo)
