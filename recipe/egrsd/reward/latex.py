"""Tokens of an answer in one spelling (spelling.py), and what stands at the top of it: outside every bracket."""

import re

TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[0-9]+(?:\.[0-9]+)?|'+|\S", re.DOTALL)
OPENS = {
    "{": "}",
    "(": ")",
    "[": "]",
    r"\{": r"\}",
    r"\langle": r"\rangle",
    r"\lfloor": r"\rfloor",
    r"\lceil": r"\rceil",
}
CLOSES = set(OPENS.values())


class Unreadable(ValueError):
    """The answer has no meaning that could be compared; the message is the place."""


def tokens(text: str) -> list[str]:
    r"""Commands, numbers, runs of primes, single signs; \begin, \end, \text each with their braces as one token."""
    found, ahead = [], 0
    for token in TOKEN.finditer(text):
        if token.start() < ahead:
            continue
        if token[0] in (r"\text", r"\begin", r"\end"):
            ahead = group_end(text, token.end())
            found.append(text[token.start() : ahead].replace(" {", "{"))
        else:
            found.append(token[0])
    return found


def group_end(text: str, start: int) -> int:
    """Behind the brace that closes the group which opens at the first sign from ``start`` on."""
    depth = 0
    for sign in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(sign[0], 0)
        if depth == 0:
            return start + sign.end()
    raise Unreadable(f"an open brace in {text[start : start + 20]}")


def depths(found: list[str]) -> list[int]:
    """How many brackets are open at each token, a bracket itself counting as outside; any kind closes any other."""
    result, depth = [], 0
    for token in found:
        if token in OPENS or token.startswith(r"\begin"):
            result.append(depth)
            depth += 1
            continue
        if token in CLOSES or token.startswith(r"\end"):
            depth -= 1
        if depth < 0:
            raise Unreadable(f"{token} closes nothing")
        result.append(depth)
    if depth:
        raise Unreadable("an open bracket")
    return result


def split(found: list[str], separators: set[str]) -> tuple[list[list[str]], list[str]]:
    """The parts between separators at the top, and the separators."""
    parts: list[list[str]] = [[]]
    signs = []
    for token, depth in zip(found, depths(found), strict=True):
        if depth == 0 and token in separators:
            parts.append([])
            signs.append(token)
        else:
            parts[-1].append(token)
    return parts, signs


def enclosed(found: list[str]) -> bool:
    """Whether one bracket or environment opens with the first token and closes with the last."""
    brackets = len(found) > 1 and found[0] in OPENS and found[-1] in CLOSES
    if not brackets and not (len(found) > 1 and found[0].startswith(r"\begin") and found[-1].startswith(r"\end")):
        return False
    return all(depth > 0 for depth in depths(found)[1:-1])


def joined(found: list[str]) -> str:
    """Tokens as a text again, equal for equal tokens."""
    return " ".join(found)


def name(text: str) -> str:
    r"""The symbol for a name of any kind: ``R``, ``x_1``, ``y''``, ``\hat{p}``. Different names, different symbols."""
    text = re.sub(r"[\s{}]", "", text)
    plain = text if re.fullmatch("[a-zA-Z]", text) else "v" + text.encode("utf-8", "replace").hex()
    return rf"\variable{{{plain}}}"
