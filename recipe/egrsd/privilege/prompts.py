"""A row's prompt and what its privilege shows (texts.py) -> one user turn -> token ids.

The student's prompt is the row's own; the teacher's differs in the last user turn and in the thinking switch of the
chat template. A prompt is never cut. A row that cannot be used raises RowError with the reason; the data set adds the
row number.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from recipe.egrsd.privilege.texts import KINDS, PLACE, RowError, problem_of, user_chat

DEFAULT_TEMPLATE = KINDS["solution"].path
SLOT = -1
"""Stands in a teacher's prompt where a text of the step belongs: the id of no token."""


def teacher_messages(
    messages: Sequence[Mapping],
    solution: str = "",
    *,
    instruction: str,
    template: str | Path | None = None,
    **others: str,
) -> list[Mapping]:
    """The student's chat with its last user turn replaced by problem, fenced solution, transition and instruction.

    Args:
        messages: the row's prompt, ending in a user turn of plain text.
        solution: the reference solution.
        instruction: the sentence every student prompt ends with; it moves behind the solution, so that student and
            teacher finish on the same words. Empty: the prompt is used whole.
        template: a jinja file with the variables problem, solution, instruction; None is teacher_prompt.jinja.
        others: further variables of the template.

    Raises:
        RowError: as ``user_chat``, or the prompt does not end in ``instruction``.
    """
    messages = user_chat(messages)
    problem = problem_of(messages, instruction=instruction)
    text = _template(template or DEFAULT_TEMPLATE).render(
        problem=problem, solution=solution, instruction=instruction.strip(), **others
    )
    return [*messages[:-1], {"role": "user", "content": text}]


def forgotten(privilege: str, *, instruction: str, template: str | Path) -> list[str]:
    """The variables of the privilege that the template does not print."""
    chat = [{"role": "user", "content": f"Problem. {instruction}"}]
    texts = {name: f"\ue000{name}\ue000" for name in KINDS[privilege].variables}
    turn = teacher_messages(chat, instruction=instruction, template=template, **texts)[-1]["content"]
    return [name for name, text in texts.items() if text not in turn]


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **chat_template_kwargs: Any) -> list[int]:
    """Token ids of a chat with the generation prompt appended, as verl's agent loop builds the student's.

    Raises:
        RowError: the tokenizer's chat template refuses the turns, or the text is no valid Unicode.
    """
    return tokenizer.encode(_chat_text(tokenizer, messages, **chat_template_kwargs), add_special_tokens=False)


def frame_ids(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, variable: str, **chat_template_kwargs: Any
) -> list[int]:
    """The same for a chat that shows PLACE as that variable, each side of it by itself, SLOT in between.

    Raises:
        RowError: as ``prompt_ids``, or the chat does not show it exactly once.
    """
    parts = _chat_text(tokenizer, messages, **chat_template_kwargs).split(PLACE)
    if len(parts) != 2:
        raise RowError(
            f"the teacher's prompt shows the {variable} {len(parts) - 1} times; print {{{{ {variable} }}}} once in "
            "algorithm.egrsd.teacher.template"
        )
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in parts)
    return [*before, SLOT, *after]


def _chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **chat_template_kwargs: Any) -> str:
    if not tokenizer.chat_template:
        raise RowError(
            "the tokenizer has no chat template, as of a base model; give one in "
            "actor_rollout_ref.model.custom_chat_template"
        )
    try:
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **chat_template_kwargs
        )
        text.encode()
    except (jinja2.TemplateError, UnicodeEncodeError) as error:
        raise RowError(f"the prompt cannot be written as a chat: {error}") from error
    return text


@cache
def _template(path: str | Path) -> jinja2.Template:
    return jinja2.Template(Path(path).read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
