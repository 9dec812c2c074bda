"""Which texts of which row each privilege shows, and in which template.

| algorithm.egrsd.privilege | shown beyond the problem                                              |
| solution                  | the reference solution (the paper)                                    |
| answer_only               | the final answer alone                                                |
| shuffled                  | another row's solution: does the gain come from any text at all?      |
| wrong                     | another row's final answer                                            |
| other_problem             | another row's problem and solution, said to be no hint (OP²SD)        |
| crosslingual              | the problem and its reference solution in English (COPSD)             |
| concise                   | no solution, but the wish for a short one (CRISP)                     |
| none                      | nothing: the teacher is the student, but for the thinking switch      |
| peer_correct              | a correct response to the same problem, of the same step (peers.py)   |
| peer_wrong                | a wrong one                                                           |
| peer_wrong_first          | a wrong one; where there is none a correct one (OASIS)                |
| answer_and_peer           | the final answer and a correct response; without one it alone (HSD)   |
| feedback                  | what the reward function said of this response (feedback.py)          |
| feedback_shuffled         | what it said of a response to another problem                         |
| peers                     | each response to it and the solution, if any, one a pass (guides.py)  |
| peer_contrast             | a right response to it, and wrong ones, one a pass (contrasts.py)     |
| answer_contrast           | the final answer, and a wrong one, one a pass                         |

A row that cannot be used raises RowError with the reason; the data set adds the row number.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipe.egrsd.config.teacher import TeacherConfig
from recipe.egrsd.reward import expected_answer

PLACE = "\ue000place\ue000"
"""Stands where a text belongs that only the step knows, a peer's response or feedback: characters of a private use
area, which no text should hold."""


class RowError(ValueError):
    """A data row that cannot become a teacher prompt."""


class Kind(NamedTuple):
    """What a privilege is made of."""

    variables: tuple[str, ...] = ("solution",)
    """What its template prints beside problem and instruction. Another row must differ in the first of them."""
    template: str = "teacher_prompt.jinja"
    of_another_row: bool = False
    known_in_step: bool = False
    """Whether the text is made in the step, from its rollouts."""
    own_guide: str = ""
    """The row's own text that is a guide beside those of the step: solution or answer."""

    @property
    def path(self) -> Path:
        return Path(__file__).with_name(self.template)


KINDS = {
    "solution": Kind(),
    "answer_only": Kind(),
    "shuffled": Kind(of_another_row=True),
    "wrong": Kind(of_another_row=True),
    "other_problem": Kind(("other_problem", "solution"), "teacher_prompt_other_problem.jinja", of_another_row=True),
    "crosslingual": Kind(("english_problem", "solution"), "teacher_prompt_crosslingual.jinja"),
    "concise": Kind((), "teacher_prompt_concise.jinja"),
    "none": Kind(()),
    "peer_correct": Kind(known_in_step=True),
    "peer_wrong": Kind(known_in_step=True),
    "peer_wrong_first": Kind(known_in_step=True),
    "answer_and_peer": Kind(known_in_step=True),
    "feedback": Kind(("feedback",), "teacher_prompt_feedback.jinja", known_in_step=True),
    "feedback_shuffled": Kind(("feedback",), "teacher_prompt_feedback.jinja", known_in_step=True),
    "peers": Kind(known_in_step=True, own_guide="solution"),
    "peer_contrast": Kind(known_in_step=True),
    "answer_contrast": Kind(known_in_step=True, own_guide="answer"),
}


def shown_texts(row: Mapping[str, Any], *, privilege: str, teacher: TeacherConfig, prompt_key: str) -> dict[str, str]:
    """What a row has to show, its own teacher or another row's: the variables of its kind. PLACE stands for what
    only the step knows. RowError if it has not got that."""
    if privilege == "answer_and_peer":
        return {"solution": f"{final_answer(row.get('reward_model'))}\n\n{PLACE}"}
    if KINDS[privilege].known_in_step:
        return dict.fromkeys(KINDS[privilege].variables, PLACE)
    if privilege in ("answer_only", "wrong"):
        return {"solution": final_answer(row.get("reward_model"))}
    texts = {}
    if "solution" in KINDS[privilege].variables:
        texts["solution"] = reference_solution(row.get("extra_info"), solution_key=teacher.solution_key)
    if privilege == "crosslingual":
        texts["english_problem"] = _text(
            row.get("extra_info"), teacher.problem_key, "problem_key", "problem in English"
        )
    if privilege == "other_problem":
        texts["other_problem"] = problem_of(user_chat(row.get(prompt_key)), instruction=teacher.instruction)
    return texts


def columns(privilege: str, teacher: TeacherConfig) -> dict[str, str]:
    """The keys of extra_info that every row needs, by the setting that names them."""
    kind, keys = KINDS[privilege], {"solution": "solution_key", "english_problem": "problem_key"}
    if kind.known_in_step or privilege in ("answer_only", "wrong"):
        return {}
    shown = [key for variable, key in keys.items() if variable in kind.variables]
    return {f"algorithm.egrsd.teacher.{key}": getattr(teacher, key) for key in shown}


def reference_solution(extra_info: Any, *, solution_key: str) -> str:
    """The solution text of a row; RowError when it is missing, not a string, or blank."""
    return _text(extra_info, solution_key, "solution_key", "solution")


def _text(extra_info: Any, key: str, named_by: str, what: str) -> str:
    if not isinstance(extra_info, Mapping) or key not in extra_info:
        raise RowError(f"extra_info has no '{key}' (algorithm.egrsd.teacher.{named_by} names the column)")
    text = extra_info[key]
    if not isinstance(text, str):
        raise RowError(f"extra_info.{key} is {type(text).__name__}, expected the {what} as a string")
    if not text.strip():
        raise RowError(f"extra_info.{key} is empty")
    return text.strip()


def lacks_solution(extra_info: Any, *, solution_key: str) -> bool:
    """True for a row that has no solution, where none is needed: no such key, nothing or blanks under it."""
    value = extra_info.get(solution_key) if isinstance(extra_info, Mapping) else None
    return value is None or (isinstance(value, str) and not value.strip())


def final_answer(reward_model: Any) -> str:
    """The ground truth of a row, as the reward reads it; RowError when there is none."""
    answer = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    expected = expected_answer(answer)
    if expected is None:
        raise RowError(f"reward_model.ground_truth is {answer!r}, expected the final answer as a string or an integer")
    return expected


def user_chat(messages: Any) -> Sequence[Mapping]:
    """The messages themselves; RowError if they are not turns of plain text, the last of them a user's."""
    if not isinstance(messages, Sequence) or not all(map(_is_plain_turn, messages)):
        raise RowError("the prompt must be a list of turns of plain text")
    if not messages or messages[-1]["role"] != "user":
        raise RowError("the prompt must end in a user turn of plain text")
    return messages


def problem_of(messages: Sequence[Mapping], *, instruction: str) -> str:
    """The last turn of a user_chat without the instruction that every prompt ends with; RowError if it does not."""
    problem = messages[-1]["content"].strip()
    if not problem.endswith(instruction.strip()):
        raise RowError(
            f"the prompt ends in {problem[-60:]!r}, not in algorithm.egrsd.teacher.instruction={instruction!r}; set "
            "that key to the sentence your prompts end with, or to '' if they share none"
        )
    return problem.removesuffix(instruction.strip()).rstrip()


def another_row(texts: Sequence[str], row: int) -> int:
    """The first row whose text differs, searched from half a data set further on; the same one in every run. An empty
    text is of a row that cannot be used."""
    start = row + len(texts) // 2
    for other in range(start, start + len(texts)):
        text = texts[other % len(texts)]
        if text and text != texts[row]:
            return other % len(texts)
    raise RowError("no other row has a different text to show")


def refuse_control_tokens(tokenizer: Any, text: str, *, where: str) -> None:
    """RowError if text spells a special token of the tokenizer: it could end the user turn and forge another one."""
    for token in tokenizer.all_special_tokens:
        if token in text:
            raise RowError(
                f"{where} contains the control token {token!r}, which would break the chat; remove or escape it"
            )


def _is_plain_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
