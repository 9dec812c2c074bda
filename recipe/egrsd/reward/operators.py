r"""Safe LaTeX of what a reader (formula.py) meets behind \frac, \sqrt, |, \sin, \sum, \lim, \int, \begin{matrix}."""

import re
from typing import TYPE_CHECKING

from recipe.egrsd.reward.latex import OPENS, Unreadable, joined, name, split
from recipe.egrsd.reward.tables import CALLED

if TYPE_CHECKING:
    from recipe.egrsd.reward.formula import Reader

SEVERAL = {r"\max", r"\min", r"\gcd", r"\lcm"}
ARGUMENT_ENDS = {"+", "-", "=", ",", "/", r"\cdot", r"\times", r"\div", "*", ":", ")", "]", "|"}
DERIVATIVE = re.compile(r"(d|\\partial)(\^\{?\d\}?)?(.*)")


def fraction(reader: "Reader", _: str) -> str:
    over, under = reader.raw(), reader.raw()
    tops, bottoms = DERIVATIVE.fullmatch("".join(over)), DERIVATIVE.fullmatch("".join(under))
    if tops and bottoms and tops[1] == bottoms[1] and re.fullmatch(r"(\\?[a-zA-Z]+)(\^\{?\d\}?)?", bottoms[3]):
        return name(rf"\frac{''.join(over)}over{''.join(under)}")
    return rf"\frac{{{reader.inside(over)}}}{{{reader.inside(under)}}}"


def root(reader: "Reader", _: str) -> str:
    if reader.peek() != "[":
        return rf"\sqrt{{{reader.argument(whole=True)}}}"
    reader.take()
    degree = reader.inside(reader.until())
    return rf"\sqrt[{degree}]{{{reader.argument(whole=True)}}}"


def choose(reader: "Reader", _: str) -> str:
    return rf"\binom{{{reader.argument()}}}{{{reader.argument()}}}"


def absolute(reader: "Reader", token: str) -> str:
    """Up to the next bar that is not within brackets."""
    rest = reader.found[reader.at :]
    depth = 0
    for place, sign in enumerate(rest):
        depth += (sign in OPENS) - (sign in OPENS.values())
        if depth < 0:
            break
        if sign == token and depth == 0:
            reader.at += place + 1
            return f"|{reader.inside(rest[:place])}|"
    raise Unreadable("a bar that does not close")


def function(reader: "Reader", token: str) -> str:
    r"""\sin^{2} x, \log_{2}(x), \ln |x|. The argument is a bracket, or all factors up to a sign or the next
    function."""
    power = base = ""
    while reader.peek() in ("^", "_"):
        if reader.take() == "^":
            power = reader.argument(whole=True)
        else:
            base = reader.argument(whole=True)
    if token in SEVERAL:
        return _several(reader, token)
    argument = _argument(reader)
    if token == r"\exp":
        written = f"e^{{{argument}}}"
    elif token == r"\det":
        written = name(rf"\det{argument}")
    else:
        written = rf"{token}{f'_{{{base}}}' if base else ''}({argument})"
    if power == "-1" and not token.startswith((r"\arc", r"\l")):
        return rf"{token.replace(chr(92), chr(92) + 'arc')}({argument})"
    return f"{{{written}}}^{{{power}}}" if power else written


def _argument(reader: "Reader") -> str:
    if reader.peek() in ("(", "{", "["):
        reader.take()
        return reader.inside(reader.until())
    start = reader.at
    while reader.at < len(reader.found) and reader.peek() not in ARGUMENT_ENDS - (
        {"|", "-"} if reader.at == start else set()
    ):
        if reader.peek() in CALLED and reader.at > start:
            break
        if reader.peek() == "-":
            reader.take()
        reader.factor()
    if reader.at == start:
        raise Unreadable("a function of nothing")
    return reader.inside(reader.found[start : reader.at])


def _several(reader: "Reader", token: str) -> str:
    r"""\max, \min, \gcd, \lcm of a list in brackets."""
    if reader.peek() not in ("(", r"\{", "{", "["):
        return name(token)
    reader.take()
    found = reader.until()
    if found[:1] == [r"\{"]:
        found = found[1:-1]
    parts = [reader.inside(part) for part in split(found, {","})[0]]
    return rf"{token}({','.join(parts)})"


def scale(reader: "Reader", token: str) -> str:
    r"""\sum_{k=1}^{n} and \prod: k gets a name that depends on the depth alone, as any name means the same there."""
    limits = {}
    while reader.peek() in ("^", "_"):
        sign = reader.take()
        limits[sign] = reader.raw(whole=True)
    start = limits.get("_", [])
    if "=" not in start or "^" not in limits:
        return name(joined([token, *start]))
    variable, low = joined(start[: start.index("=")]).replace(" ", ""), start[start.index("=") + 1 :]
    symbol = rf"\variable{{bound{len(reader.bound)}}}"
    inner = type(reader)(_run(reader), degrees=reader.degrees, bound={**reader.bound, variable: symbol}).expression()
    return rf"({token}_{{{symbol}={reader.inside(low)}}}^{{{reader.inside(limits['^'])}}} {{{inner}}})"


def _run(reader: "Reader") -> list[str]:
    """The tokens up to the next sign of addition: what a sum or a limit is of."""
    start = reader.at
    depth = 0
    while reader.at < len(reader.found):
        token = reader.peek()
        if depth == 0 and (token in ("+", ",", "=") or (token == "-" and reader.at > start)):
            break
        depth += (token in OPENS) - (token in OPENS.values())
        reader.at += 1
    return reader.found[start : reader.at]


def limit(reader: "Reader", token: str) -> str:
    below = reader.raw() if reader.peek() == "_" and reader.take() else []
    if r"\to" not in below or not re.fullmatch(r"[a-zA-Z]", below[0]):
        return name(joined([token, *below]))
    inner = type(reader)(
        _run(reader), degrees=reader.degrees, bound={**reader.bound, below[0]: r"\variable{z}"}
    ).expression()
    return rf"(\lim_{{z \to {reader.inside(below[below.index(chr(92) + 'to') + 1 :])}}} {{{inner}}})"


def integral(reader: "Reader", token: str) -> str:
    limits = {}
    while reader.peek() in ("^", "_"):
        sign = reader.take()
        limits[sign] = reader.argument(whole=True)
    rest = reader.found[reader.at :]
    ends = [at for at in range(len(rest) - 1) if rest[at] == "d" and re.fullmatch("[a-zA-Z]", rest[at + 1])]
    if not ends:
        raise Unreadable("an integral without its differential")
    reader.at += ends[0] + 2
    body = reader.inside(rest[: ends[0]] or ["1"])
    bounds = f"_{{{limits['_']}}}^{{{limits['^']}}}" if len(limits) == 2 else ""
    return rf"(\int{bounds} {{{body}}} d {rest[ends[0] + 1]})"


def matrix(reader: "Reader", token: str) -> str:
    r"""Every kind as pmatrix, which is what brackets around \begin{array} mean, too; vmatrix is the determinant."""
    kind = token[len(r"\begin{") :].split("}", maxsplit=1)[0]
    if kind not in ("matrix", "pmatrix", "bmatrix", "vmatrix", "Bmatrix", "array", "smallmatrix"):
        raise Unreadable(token)
    if kind == "array" and reader.peek() == "{":
        reader.take()
        reader.until()
    start = reader.at
    while not reader.peek().startswith(r"\end"):
        reader.take()
    found = reader.found[start : reader.at]
    reader.take()
    rows = [split(row, {"&"})[0] for row in split(found, {"\\\\"})[0] if row]
    cells = r"\\".join("&".join(reader.inside(cell) for cell in row) for row in rows)
    kind = "vmatrix" if kind == "vmatrix" else "pmatrix"
    return rf"\begin{{{kind}}}{cells}\end{{{kind}}}"


READERS = {
    r"\frac": fraction,
    r"\sqrt": root,
    r"\binom": choose,
    "|": absolute,
    r"\|": absolute,
    r"\lim": limit,
    r"\int": integral,
    r"\sum": scale,
    r"\prod": scale,
}
