"""What the teacher sees: a row's prompt and its reference solution -> one user turn -> token ids.

The student's prompt is the row's own; the two differ in the last user turn and in the thinking switch of the chat template.
A prompt is never cut. A row that cannot be used raises RowError with the reason; the data set adds the row number.
"""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

DEFAULT_TEMPLATE = Path(__file__).with_name("teacher_prompt.jinja")


class RowError(ValueError):
    """A data row that cannot become a teacher prompt."""


def reference_solution(extra_info: dict | None, *, solution_key: str) -> str:
    """The solution text of a row; RowError when it is missing, not a string, or blank."""
    if solution_key not in (extra_info or {}):
        raise RowError(f"extra_info has no '{solution_key}' (algorithm.egrsd.teacher.solution_key names the column)")
    solution = extra_info[solution_key]
    if not isinstance(solution, str):
        raise RowError(f"extra_info.{solution_key} is {type(solution).__name__}, expected the solution as a string")
    if not solution.strip():
        raise RowError(f"extra_info.{solution_key} is empty")
    return solution.strip()


def teacher_messages(
    messages: list[dict], solution: str, *, instruction: str, template: str | Path | None = None
) -> list[dict]:
    """The student's chat with its last user turn replaced by problem, fenced solution, transition and instruction.

    Args:
        messages: the row's prompt, ending in a user turn of plain text.
        solution: the reference solution.
        instruction: the sentence every student prompt ends with; it moves behind the solution, so that student and teacher
            finish on the same words. Empty: the prompt is used whole.
        template: a jinja file with the variables problem, solution, instruction; None is teacher_prompt.jinja.

    Raises:
        RowError: last turn not a user's, not plain text, or not ending in ``instruction``.
    """
    last = messages[-1] if len(messages) else {}
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        raise RowError("the prompt must end in a user turn of plain text")
    problem = last["content"].strip()
    if not problem.endswith(instruction.strip()):
        raise RowError(
            f"the prompt ends in {problem[-60:]!r}, not in algorithm.egrsd.teacher.instruction={instruction!r}; set that key "
            "to the sentence your prompts end with, or to '' if they share none"
        )
    problem = problem.removesuffix(instruction.strip()).rstrip()
    text = _template(template or DEFAULT_TEMPLATE).render(
        problem=problem, solution=solution, instruction=instruction.strip()
    )
    return [*messages[:-1], {"role": "user", "content": text}]


def prompt_ids(tokenizer: Any, messages: list[dict], **chat_template_kwargs: Any) -> list[int]:
    """Token ids of a chat with the generation prompt appended, as verl's agent loop builds the student's."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **chat_template_kwargs)
    return tokenizer.encode(text, add_special_tokens=False)


def refuse_control_tokens(tokenizer: Any, text: str, *, where: str) -> None:
    """RowError if text spells a special token of the tokenizer: it could end the user turn and forge another one."""
    for token in tokenizer.all_special_tokens:
        if token in text:
            raise RowError(f"{where} contains the control token {token!r}, which would break the chat; remove or escape it")


@cache
def _template(path: str | Path) -> jinja2.Template:
    return jinja2.Template(Path(path).read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
