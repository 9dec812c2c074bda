"""Equations, inequalities, the sets that they describe. Where values at points do not decide, math-verify solves
them."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from recipe.egrsd.reward import values
from recipe.egrsd.reward.answers import Answer, Chain, Described, Items, Pieces, Text, Value
from recipe.egrsd.reward.latex import Unreadable, tokens
from recipe.egrsd.reward.words import is_name

SOLVED = 1e-15  # what is left of an equation where a solution is put into it
DOMAINS = {"": "Reals", r"\mathbb{R}": "Reals", r"\mathbb{Z}": "Integers", r"\mathbb{N}": "Naturals"}
FLIPPED = {">": "<", r"\ge": r"\le"}


def label(chain: Chain) -> bool:
    """Whether the first side only names what is equal to the others: x, f(x), \\bar{x}, Speed, (x,y)."""
    first = chain.sides[0]
    if set(chain.signs) != {"="}:
        return False
    if isinstance(first, Text):
        return True
    if isinstance(first, Items):
        return all(isinstance(part, Value) and is_name(tokens(part.latex)) for part in first.parts)
    return isinstance(first, Value) and values.has_names(first.latex) and values.only_names(first.latex)


def values_of(chain: Chain) -> tuple[Answer, ...]:
    """The sides of a chain of equals without the name, which may also stand last: x = 7, 7 = x."""
    last = chain.sides[-1]
    if label(chain):
        return chain.sides[1:]
    return chain.sides[:-1] if isinstance(last, Value) and is_name(tokens(last.latex)) else chain.sides


def statement(chain: Chain) -> bool:
    """Equal numbers: \\log_8 4 = 2/3 says no more than its last side."""
    first = chain.sides[0]
    return set(chain.signs) == {"="} and isinstance(first, Value) and not values.has_names(first.latex)


def same_names(first: Answer, second: Answer, same: Callable[[Answer, Answer], bool]) -> bool:
    return isinstance(first, Text) or isinstance(second, Text) or same(first, second)


def named_apart(parts: Sequence[Answer]) -> bool:
    """x = 1, y = 2: different names for the parts."""
    chains = [part for part in parts if isinstance(part, Chain) and label(part)]
    return len({chain.sides[0] for chain in chains}) == len(parts) > 1


def pairs(chain: Chain) -> list[tuple[Any, str]]:
    """Each relation of a chain as (left minus right, sign), with < and <= only."""
    found = []
    for left, sign, right in zip(chain.sides, chain.signs, chain.sides[1:], strict=False):
        if not isinstance(left, Value) or not isinstance(right, Value):
            raise Unreadable("a relation between what are no values")
        difference = values.parsed(left.latex) - values.parsed(right.latex)
        found.append((-difference, FLIPPED[sign]) if sign in FLIPPED else (difference, sign))
    return found


def same(gold: Chain, answer: Chain) -> bool:
    """Every relation of one is a relation of the other; else the same solutions."""
    if not all(isinstance(side, Value) for side in (*gold.sides, *answer.sides)):
        return same_sets(gold, answer)
    mine, theirs = pairs(gold), pairs(answer)
    if len(mine) == len(theirs) and all(any(_multiple(one, other) for other in theirs) for one in mine):
        return True
    return _same_sides(gold, answer) or _same_solutions(gold, answer) or same_sets(gold, answer)


def _multiple(one: tuple, other: tuple) -> bool:
    """Whether one side is the other times a constant, above 0 for an inequality."""
    if one[1] != other[1] or not one[0].free_symbols or one[0].free_symbols != other[0].free_symbols:
        return False
    ratios = []
    for point in range(len(values.POINTS)):
        given = values.place(sorted(one[0].free_symbols, key=str), point)
        mine, theirs = values.number(one[0], given), values.number(other[0], given)
        if mine is None or theirs is None or mine == 0 or theirs == 0:
            continue
        ratios.append((mine / theirs).evalf(values.DIGITS))
    if not ratios or not all(values.close(ratio, ratios[0]) for ratio in ratios):
        return False
    return one[1] in ("=", r"\ne") or ratios[0].as_real_imag()[0] > 0


def _same_sides(gold: Chain, answer: Chain) -> bool:
    """The same two sides, perhaps turned around: all that can be said of an identity."""
    if gold.signs != ("=",) or answer.signs != ("=",):
        return False
    mine, theirs = ([cast(Value, side).latex for side in chain.sides] for chain in (gold, answer))
    return any(values.same(mine[0], left) and values.same(mine[1], right) for left, right in (theirs, theirs[::-1]))


def _same_solutions(gold: Chain, answer: Chain) -> bool:
    """math-verify's comparison of two equations in the same names, unless one has no solution that it could find."""
    from math_verify import verify
    from sympy import Eq

    if gold.signs != ("=",) or answer.signs != ("=",):
        return False
    (mine, _), (theirs, _) = pairs(gold)[0], pairs(answer)[0]
    if mine.free_symbols != theirs.free_symbols or not (_solve(mine, theirs) and _solve(theirs, mine)):
        return False
    return bool(verify(Eq(mine, 0, evaluate=False), Eq(theirs, 0, evaluate=False), timeout_seconds=None))


def _solve(one, other) -> bool:
    """Whether one has solutions and all of them solve the other, too."""
    from sympy import solve

    solutions = solve(one, list(one.free_symbols), dict=True)
    for solution in solutions:
        left = other.subs(solution)
        found = values.number(left, values.place(sorted(left.free_symbols, key=str), 0))
        if found is None or abs(found) > SOLVED:
            return False
    return bool(solutions)


def same_sets(gold: Answer, answer: Answer) -> bool:
    """Intervals, unions, inequalities in one name, as sets of real numbers. (0,12) may be a point, no inequality."""
    from math_verify import verify

    if isinstance(answer, Chain) and _is_point(gold):
        return False
    names = [_names(one) for one in (gold, answer)]
    mine, theirs = as_set(gold), as_set(answer)
    if mine is None or theirs is None or mine.is_empty or theirs.is_empty:
        return False  # what nothing solves is not what nothing else solves
    if (all(names) and names[0] != names[1]) or mine.free_symbols != theirs.free_symbols:
        return False
    return bool(mine == theirs or verify(mine, theirs, timeout_seconds=None))


def _is_point(answer: Answer) -> bool:
    return isinstance(answer, Items) and answer.kind == "()" and "infty" not in str(answer.parts)


def _names(answer: Answer) -> set:
    """The names that an answer's inequalities are about; none for a set."""
    if isinstance(answer, Chain):
        if set(answer.signs) == {"="} and label(answer):
            first = answer.sides[0]
            return set(values.parsed(first.latex).free_symbols) if isinstance(first, Value) else {first}
        return set().union(*(difference.free_symbols for difference, _ in pairs(answer)))
    return set().union(*(_names(part) for part in answer.parts)) if isinstance(answer, Items | Pieces) else set()


def as_set(answer: Answer):
    """The set of real numbers that an answer describes; None if it describes none."""
    import sympy

    if isinstance(answer, Described):
        domain = DOMAINS.get(answer.domain)
        if domain is None or not _is_about(answer.condition, answer.name):
            return None
        known = as_set(answer.condition)
        return known and sympy.Intersection(known, getattr(sympy.S, domain))
    if isinstance(answer, Value):
        return sympy.S.Reals if answer.latex.replace(" ", "") == r"\mathbb{R}" else None
    if isinstance(answer, Chain):
        return _solutions(answer)
    if isinstance(answer, Pieces):
        return _joined(answer)
    if not isinstance(answer, Items):
        return None
    if answer.kind in ("()", "[)", "(]", "[]") and len(answer.parts) == 2:
        low, high = (_end(part) for part in answer.parts)
        return sympy.Interval(low, high, answer.kind[0] == "(", answer.kind[1] == ")")
    if answer.kind == "set":
        return sympy.FiniteSet(*(_end(part) for part in answer.parts))
    return _several(answer)


def _is_about(answer: Answer, name: str) -> bool:
    return {str(found) for found in _names(answer)} == {
        str(found) for found in getattr(values.parsed(name), "free_symbols", ())
    }


def _end(answer: Answer):
    """An end of an interval; a number that is no fraction to 25 digits, which sets are quick to compare."""
    import sympy

    if not isinstance(answer, Value):
        raise Unreadable("an interval's end is no value")
    value = values.parsed(answer.latex)
    if value in (sympy.oo, -sympy.oo) or value.free_symbols:
        return value
    found = values.number(value, {})
    if found is None or found.as_real_imag()[1] != 0:
        raise Unreadable("an interval's end is no real number")
    return value.doit() if value.doit().is_Rational else sympy.Rational(str(sympy.Float(found, 25)))


def _several(answer: Items):
    """Inequalities in a row: all hold, or with "or" any of them; without a common solution a row means "or", too."""
    import sympy

    sets = [as_set(part) if isinstance(part, Chain | Pieces) or answer.kind == "or" else None for part in answer.parts]
    if None in sets or len(_names(answer)) > 1:
        return None
    common = sympy.Intersection(*sets)
    return sympy.Union(*sets) if answer.kind == "or" or common.is_empty else common


def _joined(pieces: Pieces):
    import sympy

    sets = [as_set(part) for part in pieces.parts]
    if None in sets:
        return None
    result = sets[0]
    for sign, piece in zip(pieces.signs, sets[1:], strict=True):
        result = {r"\cup": sympy.Union, r"\cap": sympy.Intersection, r"\setminus": sympy.Complement}[sign](
            result, piece
        )
    return result


def _solutions(chain: Chain):
    """What solves a chain of inequalities in one name, as sympy writes it; x in (0,1) is that interval."""
    import sympy

    if set(chain.signs) == {"="} and label(chain):
        return as_set(chain.sides[-1])
    kinds = {"<": sympy.Lt, r"\le": sympy.Le, r"\ne": sympy.Ne, "=": sympy.Eq}
    found = pairs(chain)
    names = set().union(*(difference.free_symbols for difference, _ in found))
    if len(names) != 1:
        return None
    try:
        sets = [kinds[sign](difference, 0).as_set() for difference, sign in found]
    except Exception:  # noqa: BLE001  sympy cannot solve it
        return None
    return sympy.Intersection(*sets)
