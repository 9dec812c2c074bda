"""An answer as it was typed -> the same answer in one spelling. Response and ground truth go through the same rules.

Text to text, with regular expressions alone: signs typed as characters, spacing, brackets' sizes, names of commands,
numbers, words. What a formula means is read behind it (formula.py, answers.py).
"""

import re
from typing import cast

from recipe.egrsd.reward.tables import CODES, FUNCTIONS, LOWERED, MONEY, RAISED, SIGNS, SYNONYMS

NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_UPRIGHT = re.compile(
    r"\\(?:mathrm|textrm|textnormal|textup|textbf|textit|textsf|texttt|mbox|hbox|operatorname\*?)\s*(?=\{)"
)
_STYLE = re.compile(
    r"\\(?:mathbf|mathit|mathsf|mathnormal|boldsymbol|bm|bold|underline|uline|ensuremath)\s*\{([^{}]*)\}"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,!; ]|~|\{,\}|,\\!)\s*(?=\d{3}(?!\d))")
_LONG = re.compile(r"(?<![\d.(\[,])(?<!\\\{)[1-9]\d{0,2}(?:,\d{3})+(?![\d,)\]]|\\\})")
_SIGN = r"(?:\\\$|\\(?:" + "|".join(sign[1:] for sign in MONEY if sign[1:].isalpha()) + r")(?![a-zA-Z]))"
_CODE = re.compile(
    rf"(?<![\\a-zA-Z\d])(?:US\s*(?=\\\$)|(?:\\text\s*\{{\s*)?({'|'.join(CODES)})\.?(?:\s*\}})?\s*(?=\.?\d))"
)
_LEADING = re.compile(  # what \text{...} has in front that is no text: a number with its signs, a time, a ratio, a sign
    rf"([-+]?\s*(?:{_SIGN}\s*)?[-+]?(?:\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+:\d+|{NUMBER}(?:[,/]\d+)*)(?:\s*\\?%)?"
    rf"|\\?%|{_SIGN})(?![\w:.]|,\d)\s*(.*)"
)
_GROUP = r"((?:[^{}]|\{[^{}]*\})*)"
_OVER = re.compile(rf"(?<!\\)\{{{_GROUP}\\over(?![a-zA-Z]){_GROUP}\}}")
_TEXT = re.compile(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SYSTEM = re.compile(
    r"\\left\s*\\\{\s*\\begin\{(array|aligned|matrix)\}(?:\{[lcr| ]*\})?(.*?)\\end\{\1\}\s*\\right\s*\.", re.DOTALL
)
_ABOUT = re.compile(
    r"^\s*(?:\\approx(?![a-z])|(?:\\text\{\s*)?(?:[Aa]bout|[Aa]pproximately|[Aa]pprox\.?|[Rr]oughly|[Ee]xactly)"
    r"(?:\s*\}|\s(?=[\d\\.-])))"
)
_BARE = re.compile(r"(?<![\\a-zA-Z])np\.(?=[a-z])|(?<![\\a-zA-Z])(" + "|".join(FUNCTIONS) + r")(?![a-zA-Z])")
_E_NOTATION = re.compile(rf"(?<![\w.}}])({NUMBER})[eE]([+-]?\d+)(?![\w^({{]|\.\d)")


def normalise(text: str) -> str:
    """One spelling of an answer; twice the same as once. Any text goes through, readable or not."""
    text = _characters(text)
    text = _THOUSANDS.sub("", text)
    text = " ".join(re.sub(r"(?<!\\)(?:\\[,;:! ]|~)", " ", text).split())
    text = _commands(text)
    text = _CODE.sub(lambda found: CODES.get(found[1], ""), text)
    text = _TEXT.sub(_text, text)
    text = re.sub(rf"({_SIGN})\s*\{{\s*\}}", r"\1 ", text)
    text = re.sub(
        rf"(?!\\\$){_SIGN}", lambda sign: rf"\text{{{MONEY[sign[0]]}}}", text
    )  # the dollar has a sign of its own
    text = _numbers(text)
    return " ".join(_close(text).split())


def _characters(text: str) -> str:
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda found: "^{" + found[0].translate(RAISED) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda found: "_{" + found[0].translate(LOWERED) + "}", text)
    text = "".join(SIGNS.get(character, character) for character in text)
    return re.sub(
        r"√\s*(\d+|\([^()]*\)|\\?[a-zA-Z]+)?",
        lambda found: rf"\sqrt{{{found[1] or ''}}}" if found[1] else r"\sqrt ",
        text,
    )


def _commands(text: str) -> str:
    """Every command by one name, sizes and styles gone, functions with their backslash."""
    text = re.sub(r"\\not\s*=|\\not\\equiv|(?<=\s)!=|<>", r"\\ne ", text)
    text = re.sub(r"(?<=\s)eq(?=\s)", r"\\ne ", text)  # what a file makes of \neq when it takes \n for a new line
    text = re.sub(r"<=|=<", r"\\le ", text).replace(">=", r"\ge ").replace("**", "^")
    text = re.sub(r"={2,}", "=", text)
    text = _SYSTEM.sub(r"\\begin{cases}\2\\end{cases}", text)
    text = re.sub(r"\{\s*:\s*\}", ":", text)
    for _ in range(2):
        text = _OVER.sub(r"\\frac{\1}{\2}", text)
    text = _OVER.sub(r"\\frac{\1}{\2}", f"{{{text}}}") if _OVER.fullmatch(f"{{{text}}}") else text
    text = re.sub(r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    text = re.sub(r"(?<![\w})])[_^]\s*(\{\w+\}|\w)\s*C\s*_\s*(\{\w+\}|\w)", r"\\binom \1 \2", text)
    text = re.sub(r"\\(?:left|right)\s*\.", "", text)
    text = re.sub(r"\^\s*\{\s*\\degree\s*\}|(?:\^\s*)?\\degree(?![a-zA-Z])", r"^{\\circ}", text)
    text = re.sub(r"\\\\\s*\[[^\]]*\]", r"\\\\", text)  # the space behind a matrix's row
    text = re.sub(r"\\math(?:rm|it|bf)\s*([a-zA-Z0-9])(?![a-zA-Z])", r"\1", text)
    text = re.sub(r"\{\s*\\rm\s+([^{}]*)\}", r"\\text{\1}", text)
    for _ in range(2):
        text = _STYLE.sub(r" \1", text)
    text = _UPRIGHT.sub(r"\\text", text)
    text = _COMMAND.sub(_synonym, text)
    text = re.sub(r"\\text\s*\{\s*(" + "|".join(FUNCTIONS) + r")\s*\}", r"\\\1 ", text)
    text = _BARE.sub(lambda found: rf"\{found[1]} " if found[1] else "", text)
    text = re.sub(r"\\sqrt\s*\(", r"\\sqrt(", text)
    text = re.sub(r"(?<![\\a-zA-Z])(?:infinity|infty|inf)(?![a-zA-Z])", r"\\infty ", text)
    text = re.sub(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi ", text)
    text = re.sub(r"\\log\s*_\s*(?:\{\s*e\s*\}|e(?![a-zA-Z]))", r"\\ln ", text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", r"^{\\circ}", text)
    text = re.sub(r"(?<=\^)(\{?)\s*\\text\s*\{\s*T\s*\}", r"\1T", text)
    return re.sub(r"\\text\s*\{\s*([ei]|d(?=\s*\}\s*[a-zA-Z\\]))\s*\}", r" \1 ", text)


def _synonym(found: re.Match) -> str:
    written: str = found[1]
    name = SYNONYMS.get(written, written)
    if name == written:
        return found[0]
    return rf"\{name}" if name.isalpha() and len(name) > 1 else name


def _text(found: re.Match) -> str:
    r"""\text{...} without what is no text: separators, a number in front, a single letter, percent."""
    inner = " ".join(re.sub(r"[{}]|(?<!\\)\$", "", found[1]).split())
    if re.fullmatch(r"[,;]?\s*(?:and|or)\s*[,;]?", inner):
        return r" \or " if "or" in inner else r" \and "
    inner = re.sub(r"(?<=\b[A-Z])\s*,?\s+(?:and|or)\s+(?=[A-Z]\b)", ",", inner)
    if re.fullmatch(r"\(?[A-Za-z]\)?(?:\s*,\s*[A-Za-z])*", inner):
        return rf"\text{{{inner}}}" if len(inner) == 1 else f" {inner.strip('()')} "
    if re.fullmatch(r"(?i)%|percent|percentage|pct", inner):
        return r"\%"
    if number := _LEADING.match(inner):
        return rf"{number[1]} \text{{{_named(number[2])}}}" if number[2] else number[1]
    of_any_text = re.fullmatch(r"([,;]?)\s*(.*?)\s*([,;.]?)", inner, re.DOTALL)
    before, inner, behind = cast(re.Match[str], of_any_text).groups()
    return f"{before} " + (rf"\text{{{_named(inner)}}}" if inner else " ") + behind.replace(".", " ")


def _named(text: str) -> str:
    """Words in which a sign of money has its name."""
    return " ".join(re.sub(_SIGN, lambda sign: f" {MONEY[sign[0]]} ", text).split())


def _numbers(text: str) -> str:
    text = re.sub(r"(?i)(?<=[\d\s}])(?:\\text\{)?(?:percent|percentage|pct)(?![a-z])\}?|(?<!\\)%", r"\\%", text)
    text = _E_NOTATION.sub(r"\1\\times 10^{\2}", text)
    text = re.sub(r"10\^\{\+", "10^{", text)
    text = re.sub(r"([0-9]*)\.([0-9]*)\s*\\(?:overline|bar|dot)\s*\{([0-9]+)\}", _recurring, text)
    if "".join(_LONG.findall(text)).count(",") == text.count(",") > 0:  # else it is a list
        text = _LONG.sub(lambda found: found[0].replace(",", ""), text)
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    text = re.sub(r"(?<=\d)\.(?![\d.])(?=\s*[-+/*^,;)\]}\\]|$)", "", text)
    return re.sub(r"(?<=[\d}])\s+x\s+(?=\d)|(?<=\d)x(?=10\^)", r"\\times ", text)


def _recurring(found: re.Match) -> str:
    r"""0.1\overline{6} -> \frac{15}{90}."""
    whole, places, period = (found[group] or "" for group in (1, 2, 3))
    difference = int(whole + places + period) - int(f"0{whole}{places}")
    return rf"\frac{{{difference}}}{{{'9' * len(period)}{'0' * len(places)}}}"


def _close(text: str) -> str:
    """Without what only frames the answer: dollars, a closing full stop, braces around all of it, a word for about."""
    text = re.sub(r"(?<!\\)\$", "", text)
    text = re.sub(r"\(\s*((?:[a-zA-Z],?\s*)+\\in\s*\\mathbb\{[A-Z]\}[^()]*)\)\s*[.]?\s*$", r", \1", text)  # (k in Z)
    before = None
    while before != text:
        before = text = text.strip()
        if text[-1:] in (".", ",", ";", ":") and not text.endswith("\\" + text[-1]):
            text = text[:-1]
        elif text.startswith("{") and _closes(text) == len(text) - 1:
            text = text[1:-1]
        text = _ABOUT.sub("", text)
    return text


def _closes(text: str) -> int:
    """Where the brace that opens the text closes; -1 if it does not."""
    depth = 0
    for token in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0 and token[0] == "}":
            return token.start()
    return -1
