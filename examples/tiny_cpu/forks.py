"""A task with true forks: add eight numbers in an order of your own.

    Plan: C F A E B D H G.
    Now C5: 5.
    Then F4: 9.
    Check: 4+5=9.
    So A3: 12.
    ...
    \\boxed{28}

Three kinds of positions:

    fork    a letter of the plan but the last: any number that is left may come next, and every order is as good. A
            teacher has seen one order, the reference's, and leans to it. Seven follow one another, more than a
            lookahead of five.
    pivot   the first word of a line: a momentary hesitation, since the tokens behind it are determined. It also decides
            whether a check comes, the one choice here that costs length.
    lock    everything else. The mistakes are made here, in carries; any order of the same numbers has as many of them
            (the total divided by 10), so that no order is easier.

A number stands right behind its name, C5 and not C=5: a model of two layers finds it there by induction within 100
steps; with a sign between the two it had not learned to in 300.
"""

import random
from string import ascii_uppercase
from typing import ClassVar

from examples.tiny_cpu.problem import Problem, reference_solution

SIZE = 8
LETTERS = ascii_uppercase[:SIZE]
DIGITS = (2, 5)  # smallest, largest
CONNECTIVES = ("Now", "Then", "So", "Next")
# How often a teacher takes what the reference would take next; otherwise it chooses freely.
LEAN = 0.5


class Forks(Problem):
    """Eight small numbers, each named by a letter."""

    TITLE = "sums in an order of choice"
    WORDINGS = ("Add {terms}.", "Find the sum of {terms}.", "What do {terms} make?", "Sum up {terms}.")
    FORGET = 0.27
    CHECK = 0.3
    MAX_PROMPT, MAX_RESPONSE, MAX_TEACHER_PROMPT = 96, 192, 288  # the last holds a problem and a peer's response
    WARM_START_ROWS: ClassVar = {"student": 20, "teacher": 12, "concise": 4}
    WARM_START_STEPS = 350
    CHOICES: ClassVar = {
        "fork": rf"(?<=\APlan:)(?: [{LETTERS}]){{1,{SIZE - 1}}}",
        "pivot": rf"^(?:{'|'.join(CONNECTIVES)}|Check)",
    }

    @staticmethod
    def draw(rng: random.Random) -> tuple[int, ...]:
        return tuple(rng.randint(*DIGITS) for _ in range(SIZE))

    @staticmethod
    def key(numbers: tuple[int, ...]) -> str:
        return "+".join(map(str, numbers))

    @property
    def question(self) -> str:
        return self.wording.format(terms=", ".join(f"{name}{n}" for name, n in zip(LETTERS, self.numbers, strict=True)))

    def solve(
        self, rng: random.Random, *, forget: float = 0.0, check: float = 0.0, seen: str = "", lean: float = 0.0
    ) -> str:
        """As everywhere; with probability ``lean`` the plan goes on with the first letter of the order ``seen`` that
        is left."""
        plan = _order(rng, seen, lean)
        value = dict(zip(LETTERS, self.numbers, strict=True))
        lines, total = [f"Plan: {' '.join(plan)}."], 0
        for name in plan:
            term, before = value[name], total
            carry = int(before % 10 + term >= 10 and rng.random() >= forget)
            total = before // 10 * 10 + 10 * carry + (before + term) % 10
            lines.append(f"{rng.choice(CONNECTIVES)} {name}{term}: {total}.")
            if rng.random() < check:
                lines.append(f"Check: {term}+{before}={total}.")
        return "\n".join([*lines, rf"\boxed{{{total}}}"])

    def teacher(self, rng: random.Random) -> str:
        return self.solve(rng, check=self.TEACHER_CHECK, seen=order_of(reference_solution(self)), lean=LEAN)

    def concise(self, rng: random.Random) -> str:
        """What it says when it is told to be concise: as careless as ever, without checks."""
        return self.solve(rng, forget=self.FORGET)


def order_of(solution: str) -> str:
    """The letters of a solution's plan."""
    return solution.partition("Plan: ")[2].partition(".")[0].replace(" ", "")


def _order(rng: random.Random, seen: str, lean: float) -> str:
    plan, left = "", list(LETTERS)
    while left:
        follows = rng.random() < lean
        plan += next(name for name in seen if name in left) if follows else rng.choice(left)
        left.remove(plan[-1])
    return plan
