"""Token ids from the engine -> one graded row of the generations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipe.egrsd.evaluate import Refused
from recipe.egrsd.evaluate.problems import Problem
from recipe.egrsd.privilege.prompts import prompt_ids
from recipe.egrsd.privilege.texts import RowError
from recipe.egrsd.reward import compute_score

THINK_TAGS = ("<think>", "</think>")
UNGRADED = ("answer_too_long", "timed_out", "crashed", "bad_ground_truth")  # why the reward could not compare an answer


@dataclass(frozen=True)
class Think:
    """What became of the think block of one response."""

    opened: bool
    """By the response, or by the end of its prompt, as some chat templates do."""
    closed: bool
    tokens: int | None
    """Inside the block, without the tags; up to the end of the response if the block is not closed. None without a
    block."""


def think_block(prompt: Sequence[int], response: Sequence[int], tags: tuple[int, int]) -> Think:
    """The first think block that is open while the response is written; one that the prompt closes is not.

    Args:
        prompt, response: token ids.
        tags: ids of the tokens that open and close a block.
    """
    opening, closing = tags
    before = [token for token in prompt if token in tags]
    if before and before[-1] == opening:
        start = 0
    elif opening in response:
        start = list(response).index(opening) + 1
    else:
        return Think(False, False, None)
    inside = list(response[start:])
    closed = closing in inside
    return Think(True, closed, inside.index(closing) if closed else len(inside))


class Recorder:
    """Prompts for the engine, rows from its answers.

    Args:
        tokenizer: of the model; its chat template writes the prompts.
        thinking: the template's thinking switch.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool):
        self.tokenizer, self.thinking = tokenizer, thinking
        ids = [tokenizer.convert_tokens_to_ids(tag) for tag in THINK_TAGS]
        known = all(i is not None and i != tokenizer.unk_token_id for i in ids)
        self.tags = tuple(ids) if known and set(THINK_TAGS) <= tokenizer.get_vocab().keys() else None

    def prompt(self, problem: Problem) -> list[int]:
        """Token ids; Refused names the problem if its text cannot be written as a chat."""
        try:
            return prompt_ids(self.tokenizer, list(problem.messages), enable_thinking=self.thinking)
        except RowError as error:
            raise Refused(f"{problem.benchmark}, problem {problem.index}: {error}") from error

    def row(self, problem: Problem, sample: int, response: list[int], *, truncated: bool) -> dict[str, Any]:
        """One row with the columns of store.SCHEMA; the recipe's reward is the grader."""
        prompt = self.prompt(problem)
        text = self.tokenizer.decode(response, skip_special_tokens=True)
        grade = compute_score(problem.benchmark, text, problem.ground_truth)
        think = think_block(prompt, response, self.tags) if self.tags else None
        return {
            "benchmark": problem.benchmark,
            "index": problem.index,
            "sample": sample,
            "fingerprint": problem.fingerprint,
            "prompt": self.tokenizer.decode(prompt),
            "ground_truth": str(problem.ground_truth),
            "response": text,
            "pred": grade["pred"],
            "score": grade["score"],
            "tokens": len(response),
            "truncated": truncated,
            **{flag: bool(grade[flag]) for flag in ("has_answer", *UNGRADED)},
            "think_opened": think and think.opened,
            "think_closed": think and think.closed,
            "think_tokens": think and think.tokens,
        }
