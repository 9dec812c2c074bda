r"""A formula in one spelling -> LaTeX that math-verify's parser cannot confuse. Unreadable if it has no safe reading.

Every name becomes \variable{...}, a symbol of its own: math-verify lower-cases letters, drops primes, takes a last
letter for a unit, differentiates plain symbols, reads \gamma as a function, dx as a differential. Every product is
written out and grouped as math-verify would read it (a/bc is a/(bc)), except that a quotient of two integers is a
fraction (1/2x is x/2).
"""

import functools
import re

from recipe.egrsd.reward import operators
from recipe.egrsd.reward.latex import CLOSES, OPENS, Unreadable, depths, name, tokens
from recipe.egrsd.reward.tables import ACCENTS, CALLED, SYMBOLS

OPERATORS = {
    "+": "+",
    "-": "-",
    "*": r"\cdot ",
    r"\cdot": r"\cdot ",
    r"\times": r"\cdot ",
    "/": "/",
    r"\div": "/",
    ":": "/",
}
DIGITS = "0123456789"
CONSTANTS = {r"\infty": r"\infty ", r"\pi": r"\pi ", r"\%": r"\frac{1}{100}"}
LISTED = {",", "<", ">", "=", r"\le", r"\ge", r"\cap", r"\cup", r"\mid", ";"}  # in the brackets of a name: no product
LETTERS = {"e": "e", "i": "I"}  # Euler's number and the imaginary unit, unless they have an index or are bound


@functools.lru_cache(maxsize=1024)
def safe(text: str) -> str:
    """The formula as math-verify's parser is given it."""
    found = tokens(text)
    depths(found)
    degrees = r"\circ" in found and any(token in CALLED for token in found)
    return Reader(found, degrees=degrees).expression()


def _product(run: list[str]) -> str:
    """Factors side by side; a whole number before a fraction of whole numbers is a mixed number, as for math-verify."""
    if len(run) == 2 and run[0].isdigit() and re.fullmatch(r"\\frac\{\d+\}\{\d+\}", run[1]):
        return run[0] + run[1]
    return run[0] if len(run) == 1 else "(" + r"\cdot ".join(run) + ")"


class Reader:
    """Reads tokens from left to right. ``bound`` maps what sums and limits run over to symbols of their depth alone."""

    def __init__(self, found: list[str], *, degrees: bool = False, bound: dict[str, str] | None = None) -> None:
        self.found, self.at, self.degrees, self.bound = found, 0, degrees, bound or {}

    def peek(self) -> str:
        return self.found[self.at] if self.at < len(self.found) else ""

    def take(self) -> str:
        if self.at >= len(self.found):
            raise Unreadable("the formula ends too early")
        self.at += 1
        return self.found[self.at - 1]

    def inside(self, found: list[str]) -> str:
        return Reader(found, degrees=self.degrees, bound=self.bound).expression()

    def expression(self) -> str:
        """All that is left, as sums of grouped products."""
        written, run = [], []
        while self.at < len(self.found):
            token = self.peek()
            if token not in OPERATORS:
                run.append(self.factor())
                continue
            self.take()
            if token in ("/", r"\div") and len(run) == 1 and run[0].isdigit() and self._is_integer_alone():
                run = [rf"\frac{{{run[0]}}}{{{self.take()}}}"] if written[-1:] != ["/"] else self._refuse("a/b/c")
                continue
            written += [_product(run), OPERATORS[token]] if run else self._sign(token)
            run = []
        if not run:
            raise Unreadable("a sign without its number")
        return "".join([*written, _product(run)])

    def _sign(self, token: str) -> list[str]:
        if token not in "+-":
            raise Unreadable(f"nothing before {token}")
        return [token]

    def _refuse(self, what: str) -> list[str]:
        raise Unreadable(what)

    def _is_integer_alone(self) -> bool:
        behind = self.found[self.at + 1] if self.at + 1 < len(self.found) else ""
        return self.peek().isdigit() and behind not in ("^", "!", "_") and not self.peek().startswith("0")

    def factor(self) -> str:
        """One factor with its powers, primes and factorials."""
        start = self.at
        text = self.atom()
        while (token := self.peek()) and token in ("^", "!", "'", "''", "'''"):
            self.take()
            if token == "!":
                text = f"{{{text}!}}"
            elif token != "^" or self.degree():
                if token != "^":
                    raise Unreadable("a prime behind a formula")
                text = rf"({text}\cdot\frac{{\pi}}{{180}})" if self.degrees else text
            else:
                text = (
                    f"{{{text}}}^{{{self.argument(whole=True)}}}"
                    if text != "e"
                    else f"e^{{{self.argument(whole=True)}}}"
                )
        if self.peek() == "_":
            raise Unreadable(f"an index behind {' '.join(self.found[start : self.at])}")
        return text

    def degree(self) -> bool:
        if self.found[self.at : self.at + 3] == ["{", r"\circ", "}"]:
            self.at += 3
            return True
        return False

    def atom(self) -> str:
        token = self.take()
        if token[0] in DIGITS:
            return self.number(token)
        if token in LETTERS and self.peek() != "_" and token not in self.bound:
            return LETTERS[token]
        if token in OPENS:
            return self.bracket(token)
        if token in CALLED:
            return operators.function(self, token)
        if token in operators.READERS:
            return operators.READERS[token](self, token)
        if token.startswith(r"\begin{"):
            return operators.matrix(self, token)
        if token in CONSTANTS:
            return CONSTANTS[token]
        if re.fullmatch(r"[a-zA-Z]", token) or token in SYMBOLS | ACCENTS:
            return self.symbol(token)
        raise Unreadable(token)

    def bracket(self, token: str) -> str:
        inner = self.inside(self.until())
        return rf"{token} {inner} {OPENS[token]}" if token in (r"\lfloor", r"\lceil") else f"({inner})"

    def symbol(self, token: str) -> str:
        """A name with its index, primes and argument: all of it is the symbol."""
        whole = token + (self.plain(self.raw()) if token in ACCENTS else "")
        while (
            self.peek() == "_"
            or set(self.peek()) == {"'"}
            or self.found[self.at : self.at + 3] == ["^", "{", r"\prime"]
        ):
            mark = self.take()
            if mark == "^":
                whole += "'" * len(re.findall("prime", "".join(self.until_prime())))
            else:
                whole += "_" + self.plain(self.raw(whole=True)) if mark == "_" else mark
        if token == r"\nabla" and self.peek() == "^":
            self.take()
            whole += "^" + self.plain(self.raw(whole=True))
        if whole in self.bound:
            return self.bound[whole]
        return name(whole + self.called())

    def until_prime(self) -> list[str]:
        self.take()
        return self.until()

    def called(self) -> str:
        """The argument of f(2), f(x), P(A,B), P(X>2) as a part of the name; a sum in brackets is a factor."""
        if self.peek() != "(":
            return ""
        start = self.at
        self.take()
        inner = self.until()
        simple = len(inner) == 1 and re.fullmatch(r"[0-9.]+|[a-zA-Z]|\\[a-zA-Z]+", inner[0])
        if simple or LISTED & set(inner):
            return f"({self.plain(inner)})"
        self.at = start
        return ""

    def plain(self, found: list[str]) -> str:
        """Tokens as a part of a name; what a sum or a limit runs over has there the name that it has elsewhere."""
        return "".join(self.bound.get(token, token) for token in found)

    def number(self, token: str) -> str:
        if self.peek()[:1] in DIGITS and self.peek():
            raise Unreadable("two numbers side by side")
        whole, _, places = token.partition(".")
        if not places:
            return token.lstrip("0") or "0"
        return rf"(\frac{{{(whole + places).lstrip('0') or '0'}}}{{1{'0' * len(places)}}})"

    def raw(self, *, whole: bool = False) -> list[str]:
        """The tokens of one argument: a group without its braces, or one token (``whole``: a sign or a bracket with
        it)."""
        token = self.take()
        if token == "{" or (whole and token == "("):
            return self.until()
        if whole and token == "-":
            return [token, *self.raw()]
        if token == r"\frac":
            return [token, "{", *self.raw(), "}", "{", *self.raw(), "}"]
        if token == r"\sqrt":
            return [token, "{", *self.raw(), "}"]
        if token[0] in DIGITS and len(token) > 1 and not whole:
            self.at -= 1  # \frac12 takes one digit
            self.found = [*self.found[: self.at], token[0], token[1:], *self.found[self.at + 1 :]]
            return [self.take()]
        return [token]

    def argument(self, *, whole: bool = False) -> str:
        return self.inside(self.raw(whole=whole))

    def until(self) -> list[str]:
        """Tokens up to the bracket that closes the one just taken; takes that, too."""
        start, depth = self.at, 1
        while depth:
            token = self.take()
            depth += (token in OPENS) - (token in CLOSES)
        return self.found[start : self.at - 1]
