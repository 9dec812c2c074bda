"""The demo's task: word problems that add two three-digit numbers, with solutions worked column by column.

A solution is three lines, one for each column, and the boxed answer:

    Ones: 5+7=12, carry 1.
    Tens: 8+4+1=13, carry 1.
    Hundreds: 3+2+1=6.
    \\boxed{632}

A teacher is nearly certain of every token here, so that an entropy gate finds nothing to do.
"""

import random
from typing import ClassVar

from examples.tiny_cpu.problem import Problem

# Two ways to name the columns. Which one a solution takes is a real choice, so a teacher is not certain of it either.
STYLES = (("Ones", "Tens", "Hundreds"), ("First", "Next", "Last"))


class Addition(Problem):
    """Two three-digit numbers whose sum has three digits."""

    TITLE = "three-digit addition"
    WORDINGS = (
        "Ann has {a} coins and finds {b} more. How many coins has Ann?",
        "A shop sells {a} pens and then {b} pens. How many pens is that?",
        "Bob walks {a} steps, rests, and walks {b} steps. How many steps is that?",
        "There are {a} red and {b} blue cards. How many cards are there?",
    )
    # Slightly above one half, so that the warm-started model's most likely choice is the wrong one: greedy decoding
    # then starts low for every seed, while a sample still carries often enough to be rewarded for it.
    FORGET = 0.55
    CHECK = 0.5
    MAX_PROMPT, MAX_RESPONSE, MAX_TEACHER_PROMPT = 96, 96, 192
    WARM_START_ROWS: ClassVar = {"student": 24, "teacher": 8}
    WARM_START_STEPS = 200
    CHOICES: ClassVar = {"fork": r"\A\w+", "pivot": r"(?<=\n)\w+"}

    @staticmethod
    def draw(rng: random.Random) -> tuple[int, ...]:
        while True:
            a, b = rng.randint(100, 899), rng.randint(100, 899)
            if a + b <= 999:
                return a, b

    @staticmethod
    def key(numbers: tuple[int, ...]) -> str:
        return f"{min(numbers)}+{max(numbers)}"

    @property
    def question(self) -> str:
        a, b = self.numbers
        return self.wording.format(a=a, b=b)

    def solve(self, rng: random.Random, *, forget: float = 0.0, check: float = 0.0) -> str:
        lines, digits, carry = [], [], None
        for place, name in enumerate(rng.choice(STYLES)):
            top, bottom = (number // 10**place % 10 for number in self.numbers)
            rest = "" if carry is None else f"+{carry}"
            total = top + bottom + (carry or 0)
            digits.append(total % 10 if place < 2 else total)
            carry = int(total >= 10 and rng.random() >= forget)
            lines.append(f"{name}: {top}+{bottom}{rest}={total}" + (f", carry {carry}." if place < 2 else "."))
            if rng.random() < check:
                lines.append(f"Check: {bottom}+{top}{rest}={total}.")
        boxed = "".join(map(str, reversed(digits)))
        return "\n".join([*lines, rf"\boxed{{{boxed}}}"])
