"""What a task of this folder is: problems with an answer, and several people who write solutions to them.

reference   right and concise; a data row carries it
student     careless and wordy; what the model is warm-started to say to the problem alone
teacher     right and nearly concise; what it is warm-started to say when it is shown the reference
"""

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

INSTRUCTION = r"Answer in \boxed{}."


@dataclass(frozen=True)
class Problem(ABC):
    """Some numbers and the words around them."""

    numbers: tuple[int, ...]
    wording: str

    WORDINGS: ClassVar[tuple[str, ...]]
    TITLE: ClassVar[str]
    """What the problems are, for headings."""
    FORGET: ClassVar[float]
    """Probability that a careless solution writes a carry of 1 as 0 and loses it, so that a mistake saves no words."""
    CHECK: ClassVar[float]
    """Probability, for each line of a wordy solution, of another line that repeats its sum. It never finds a
    mistake."""
    TEACHER_CHECK: ClassVar[float] = 0.1
    """The same in a teacher's solution: rare, not absent, since it scores the student's wordy text and must know
    checks."""
    MAX_PROMPT: ClassVar[int]
    MAX_RESPONSE: ClassVar[int]
    MAX_TEACHER_PROMPT: ClassVar[int]
    """Tokens; no text of the task is longer."""
    WARM_START_ROWS: ClassVar[dict[str, int]]
    """Rows of a warm-start step by who writes them."""
    WARM_START_STEPS: ClassVar[int]
    CHOICES: ClassVar[dict[str, str]]
    """Kind of position -> regular expression of the words that are freely chosen there; all the rest is determined."""

    @staticmethod
    @abstractmethod
    def draw(rng: random.Random) -> tuple[int, ...]:
        """Numbers of a problem."""

    @staticmethod
    @abstractmethod
    def key(numbers: tuple[int, ...]) -> str:
        """Equal for problems that are the same to the task; it alone decides the split."""

    @property
    @abstractmethod
    def question(self) -> str:
        """The text of the problem, without the instruction."""

    @abstractmethod
    def solve(self, rng: random.Random, *, forget: float = 0.0, check: float = 0.0) -> str:
        """A worked solution, all free choices drawn from rng; the defaults give a right and concise one."""

    @property
    def data_source(self) -> str:
        """verl's name for the task."""
        return f"tiny_{type(self).__name__.lower()}"

    @property
    def answer(self) -> str:
        """The boxed text of a correct solution."""
        return str(sum(self.numbers))

    @property
    def messages(self) -> list[dict]:
        """The student's chat: one user turn that ends in the instruction."""
        return [{"role": "user", "content": f"{self.question}\n\n{INSTRUCTION}"}]

    def student(self, rng: random.Random) -> str:
        return self.solve(rng, forget=self.FORGET, check=self.CHECK)

    def teacher(self, rng: random.Random) -> str:
        return self.solve(rng, check=self.TEACHER_CHECK)


def reference_solution(problem: Problem) -> str:
    """The right solution that a data row carries; always the same for the same problem."""
    return problem.solve(random.Random(problem.question))
