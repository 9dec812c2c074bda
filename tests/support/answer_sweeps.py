"""Answers made of others: with one sign changed, so that they are wrong, or written otherwise, so that they are
right."""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

LETTER = re.compile(r"(\\(?:begin|end)\{[a-z]*\}(?:\{[lcr]*\})?|\\[a-zA-Z]+)|([a-zA-Z])")


def changed(answer: str) -> Iterator[str]:
    """One digit another one; one letter the next one, or of the other case; the last letter gone. Commands stay."""
    for digit in re.finditer("[0-9]", answer):
        yield _put(answer, digit, str((int(digit[0]) + 1) % 10))
    for found in LETTER.finditer(answer):
        if letter := found[2]:
            following = "a" if letter in "zZ" else chr(ord(letter) + 1)
            yield _put(answer, found, following if letter != "Z" else "A")
            yield _put(answer, found, letter.swapcase())
    if re.search(r"(?<![a-zA-Z\\])[a-zA-Z]$", answer) and len(answer) > 1:
        yield answer[:-1].rstrip("^_ ")


def _put(answer: str, place: re.Match, new: str) -> str:
    return answer[: place.start()] + new + answer[place.end() :]


def _sub(pattern: str, new: str | Callable[[re.Match], str]) -> Callable[[str], str]:
    return lambda answer: re.sub(pattern, new, answer)


def _fraction_of(answer: str) -> str:
    r"""A decimal as a fraction, 0.25 -> \frac{25}{100}, where the decimal is all of the answer."""
    if not re.fullmatch(r"-?[0-9]*\.[0-9]+", answer):
        return answer
    value = Fraction(answer)
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _decimal_of(answer: str) -> str:
    r"""\frac{1}{4} -> 0.25, where that ends."""
    found = re.fullmatch(r"(-?)\\frac\{([0-9]+)\}\{([0-9]+)\}|(-?)([0-9]+)/([0-9]+)", answer)
    if not found:
        return answer
    sign, over, under = (group for group in found.groups() if group is not None)
    value = Fraction(int(over), int(under))
    return f"{sign}{float(value)!r}" if (10**12 * value).denominator == 1 and len(repr(float(value))) < 12 else answer


def _e_notation(answer: str) -> str:
    return re.sub(r"^(-?[0-9.]+)e(-?[0-9]+)$", r"\1 \\times 10^{\2}", answer)


def _as_e(answer: str) -> str:
    return re.sub(r"^(-?[0-9.]+) ?\\times ?10\^\{(-?[0-9]+)\}$", r"\1e\2", answer)


def _backwards(answer: str) -> str:
    r"""A set \{a,b\} or a list of plain numbers in the opposite order."""
    if set_ := re.fullmatch(r"\\\{([^(){}]*)\\\}", answer):
        return rf"\{{{','.join(reversed(set_[1].split(',')))}\}}"
    if re.fullmatch(r"-?[0-9./]+(?:, ?-?[0-9./]+)+", answer) and not re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", answer):
        return ",".join(reversed(answer.split(",")))
    return answer


def _slashes(answer: str) -> str:
    r"""\frac{a}{b} -> {(a)/(b)}, innermost first."""
    return re.sub(r"(?<![0-9])\\frac *\{(?!d[A-Za-z^]|\\partial)([^{}]*)\} *\{([^{}]*)\}", r"{(\1)/(\2)}", answer)


def _turned(answer: str) -> str:
    """An equation's or inequality's sides changed."""
    flipped = {"=": "=", "<": ">", ">": "<", r"\ge": r"\le", r"\le": r"\ge", r"\geq": r"\leq", r"\leq": r"\geq"}
    found = re.fullmatch(r"([^=<>,;]*?)(=|<|>|\\[lg]eq?(?![a-z]))([^=<>,;]*)", answer)
    if not found or any(found[1].count(opens) != found[1].count(closes) for opens, closes in ("()", "{}")):
        return answer
    if re.search(r"\\text|\\mathrm|\\\{|\\[lgn]e", found[1] + found[3]):
        return answer
    return f"{found[3]} {flipped[found[2]]} {found[1]}"


def _sized(answer: str) -> str:
    return answer if r"\left" in answer else re.sub(r"(?<!\\)([()])", lambda found: SIZED[found[1]], answer)


def _upright(answer: str) -> str:
    """Euler's number and the imaginary unit upright, where e and i can be nothing else."""
    if re.search(r"[a-zA-Z]{2}|_|[0-9]e", answer):
        return answer
    return re.sub(r"(?<![\\a-zA-Z])([ei])(?![a-zA-Z0-9])", r"\\mathrm{\1}", answer)


TYPED = {"pi": "π", "infty": "∞", "cup": "∪", "theta": "θ"}
SIZED = {"(": r"\left(", ")": r"\right)"}
REWRITES: dict[str, Callable[[str], str]] = {
    "full stop": lambda answer: f"{answer.rstrip('.')}.",
    "dollars": lambda answer: f"${answer}$",
    "display style": lambda answer: rf"\displaystyle {answer}",
    "braces around": lambda answer: f"{{{answer}}}",
    "large fractions": _sub(r"\\frac(?![a-zA-Z])", r"\\dfrac"),
    "short fractions": _sub(r"\\frac *\{ *([0-9]) *\} *\{ *([0-9]) *\}", r"\\frac\1\2"),
    "fractions with a slash": _slashes,
    "sized brackets": lambda answer: (
        answer if r"\left" in answer else _sub(r"(?<!\\)\(", r"\\left(")(_sub(r"(?<!\\)\)", r"\\right)")(answer))
    ),
    "no sizes": _sub(r"\\(?:left|right)(?![a-zA-Z]|\s*\.|\\\{\\begin)", ""),
    "spaces": _sub(r"(?<=[0-9a-z})])([+=])", r" \1 "),
    "thin spaces": _sub(r"(?<=[0-9a-z)])([+=])(?=[^ ])", r"\\,\1\\;"),
    "fewer spaces": _sub(r"(?<=[0-9+=,-]) +(?=[0-9(\\+=-])(?<![0-9] (?=[0-9]))", ""),
    "braces of powers": _sub(r"\^([0-9a-z])(?![0-9])", r"^{\1}"),
    "no braces of powers": _sub(r"\^ ?\{ ?([0-9a-z]) ?\}(?![0-9a-z])", r"^\1"),
    "decimal as fraction": _fraction_of,
    "fraction as decimal": _decimal_of,
    "e-notation as power": _e_notation,
    "power as e-notation": _as_e,
    "opposite order": _backwards,
    "sides changed": _turned,
    "degree sign": _sub(r"\^ ?\{? ?\\circ ?\}?", "°"),
    "degrees in words": _sub(r"^([0-9.]+) ?(?:\^ ?\{? ?\\circ ?\}?|°)$", r"\1 \\text{ degrees}"),
    "typed signs": lambda answer: (
        answer.replace(r"\pi", "π").replace(r"\infty", "∞").replace(r"\cup", "∪").replace(r"\theta", "θ")
    ),
    "typed minus": lambda answer: answer if re.search(r"e-[0-9]|-[a-z]{2,}", answer) else answer.replace("-", "−"),
    "typed square": _sub(r"\^ ?(?:2(?![0-9/ .])|\{ ?2 ?\})", "²"),
    "typed root": _sub(r"\\sqrt ?\{([0-9]+)\}", r"√\1"),
    "other names of signs": lambda answer: _sub(r"\\ge(?![a-zA-Z])", r"\\geqslant")(
        _sub(r"\\le(?![a-zA-Z])", r"\\leq")(answer)
    ),
    "operator names": _sub(r"\\(arctan|ln|sin|cos)(?![a-zA-Z])", r"\\operatorname{\1}"),
    "upright e and i": lambda answer: (
        answer
        if re.search(r"[a-zA-Z]{2}|_|[0-9]e", answer)
        else _sub(r"(?<![\\a-zA-Z])([ei])(?![a-zA-Z0-9])", r"\\mathrm{\1}")(answer)
    ),
    "a trailing zero": _sub(r"^(-?[0-9]+\.[0-9]+)$", r"\g<1>0"),
    "a product's sign": _sub(r"(?<=[0-9]) ?\\(sqrt|pi)(?![a-z])", r" \\cdot \\\1"),
    "thousands": _sub(r"^([1-9][0-9]{0,2})([0-9]{3})$", r"\1,\2"),
    "percent spaced": _sub(r" ?\\?%", r"\\,\\%"),
    "unit in words": _sub(r"^(-?[0-9.]+)$", r"\1 \\text{ cm}"),
    "named": lambda answer: (
        answer if re.search(r"[=<>,;]|\\[lgn]e|text|rm|[a-zA-Z]{4}|\\approx|%", answer) else f"w = {answer}"
    ),
    "plus sign gone": _sub(r"(?<=[(,])\+(?=\\infty)", ""),
}


def rewritten(answer: str) -> Iterator[tuple[str, str]]:
    """The answer under each rule that changes it, with the rule's name."""
    for name, rule in REWRITES.items():
        if (other := rule(answer)) != answer:
            yield name, other
