"""What the teacher sees: a row's prompt and what it is privileged with -> one user turn -> token ids.

| algorithm.egrsd.privilege | shown beyond the problem                                              |
| solution                  | the reference solution (the paper)                                    |
| answer_only               | the final answer alone                                                |
| shuffled                  | another row's solution: does the gain come from any text at all?      |
| wrong                     | another row's final answer                                            |
| concise                   | no solution, but the wish for a short one (CRISP)                     |
| none                      | nothing: the teacher is the student, but for the thinking switch      |
| peer_correct              | a correct response to the same problem, of the same step (peers.py)   |
| peer_wrong                | a wrong one                                                           |

The student's prompt is the row's own; the two differ in the last user turn and in the thinking switch of the chat
template. A prompt is never cut. A row that cannot be used raises RowError with the reason; the data set adds the row
number.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from recipe.egrsd.config.schema import PEER_PRIVILEGES
from recipe.egrsd.reward import expected_answer

DEFAULT_TEMPLATE = Path(__file__).with_name("teacher_prompt.jinja")
CONCISE_TEMPLATE = Path(__file__).with_name("teacher_prompt_concise.jinja")
PLACE_OF_PEER = "\ue000peer\ue000"
"""Stands in a text where a peer's response belongs: characters of a private use area, which no text should hold."""
SLOT = -1
"""Stands in a teacher's prompt where a peer's response belongs: the id of no token."""


class RowError(ValueError):
    """A data row that cannot become a teacher prompt."""


def reference_solution(extra_info: Any, *, solution_key: str) -> str:
    """The solution text of a row; RowError when it is missing, not a string, or blank."""
    if not isinstance(extra_info, Mapping) or solution_key not in extra_info:
        raise RowError(f"extra_info has no '{solution_key}' (algorithm.egrsd.teacher.solution_key names the column)")
    solution = extra_info[solution_key]
    if not isinstance(solution, str):
        raise RowError(f"extra_info.{solution_key} is {type(solution).__name__}, expected the solution as a string")
    if not solution.strip():
        raise RowError(f"extra_info.{solution_key} is empty")
    return solution.strip()


def final_answer(reward_model: Any) -> str:
    """The ground truth of a row, as the reward reads it; RowError when there is none."""
    answer = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    expected = expected_answer(answer)
    if expected is None:
        raise RowError(f"reward_model.ground_truth is {answer!r}, expected the final answer as a string or an integer")
    return expected


def shown_text(row: Mapping[str, Any], *, privilege: str, solution_key: str) -> str:
    """What a row has to show under that privilege; empty where the privilege is no text of a row,
    PLACE_OF_PEER where it is a peer's response. RowError as above."""
    if privilege in ("solution", "shuffled"):
        return reference_solution(row.get("extra_info"), solution_key=solution_key)
    if privilege in ("answer_only", "wrong"):
        return final_answer(row.get("reward_model"))
    return PLACE_OF_PEER if privilege in PEER_PRIVILEGES else ""


def another_text(texts: Sequence[str], row: int) -> str:
    """The text of the first row that differs, searched from half a data set further on; the same one in every run."""
    start = row + len(texts) // 2
    for other in range(start, start + len(texts)):
        text = texts[other % len(texts)]
        if text and text != texts[row]:
            return text
    raise RowError("no other row has a different text to show")


def user_chat(messages: Any) -> Sequence[Mapping]:
    """The messages themselves; RowError if they are not turns of plain text, the last of them a user's."""
    if not isinstance(messages, Sequence) or not all(map(_is_plain_turn, messages)):
        raise RowError("the prompt must be a list of turns of plain text")
    if not messages or messages[-1]["role"] != "user":
        raise RowError("the prompt must end in a user turn of plain text")
    return messages


def teacher_messages(
    messages: Sequence[Mapping], solution: str, *, instruction: str, template: str | Path | None = None
) -> list[Mapping]:
    """The student's chat with its last user turn replaced by problem, fenced solution, transition and instruction.

    Args:
        messages: the row's prompt, ending in a user turn of plain text.
        solution: the reference solution.
        instruction: the sentence every student prompt ends with; it moves behind the solution, so that student and
            teacher finish on the same words. Empty: the prompt is used whole.
        template: a jinja file with the variables problem, solution, instruction; None is teacher_prompt.jinja.

    Raises:
        RowError: as ``user_chat``, or the prompt does not end in ``instruction``.
    """
    messages = user_chat(messages)
    problem = messages[-1]["content"].strip()
    if not problem.endswith(instruction.strip()):
        raise RowError(
            f"the prompt ends in {problem[-60:]!r}, not in algorithm.egrsd.teacher.instruction={instruction!r}; set "
            "that key to the sentence your prompts end with, or to '' if they share none"
        )
    problem = problem.removesuffix(instruction.strip()).rstrip()
    text = _template(template or DEFAULT_TEMPLATE).render(
        problem=problem, solution=solution, instruction=instruction.strip()
    )
    return [*messages[:-1], {"role": "user", "content": text}]


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **chat_template_kwargs: Any) -> list[int]:
    """Token ids of a chat with the generation prompt appended, as verl's agent loop builds the student's.

    Raises:
        RowError: the tokenizer's chat template refuses the turns, or the text is no valid Unicode.
    """
    return tokenizer.encode(_chat_text(tokenizer, messages, **chat_template_kwargs), add_special_tokens=False)


def frame_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **chat_template_kwargs: Any) -> list[int]:
    """The same for a chat that shows PLACE_OF_PEER, each side of it by itself, SLOT in between.

    Raises:
        RowError: as ``prompt_ids``, or the chat does not show it exactly once.
    """
    parts = _chat_text(tokenizer, messages, **chat_template_kwargs).split(PLACE_OF_PEER)
    if len(parts) != 2:
        raise RowError(
            f"the teacher's prompt shows the peer's response {len(parts) - 1} times; print {{{{ solution }}}} once in "
            "algorithm.egrsd.teacher.template"
        )
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in parts)
    return [*before, SLOT, *after]


def _chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **chat_template_kwargs: Any) -> str:
    try:
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **chat_template_kwargs
        )
        text.encode()
    except (jinja2.TemplateError, UnicodeEncodeError) as error:
        raise RowError(f"the prompt cannot be written as a chat: {error}") from error
    return text


def refuse_control_tokens(tokenizer: Any, text: str, *, where: str) -> None:
    """RowError if text spells a special token of the tokenizer: it could end the user turn and forge another one."""
    for token in tokenizer.all_special_tokens:
        if token in text:
            raise RowError(
                f"{where} contains the control token {token!r}, which would break the chat; remove or escape it"
            )


def _is_plain_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


@cache
def _template(path: str | Path) -> jinja2.Template:
    return jinja2.Template(Path(path).read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
