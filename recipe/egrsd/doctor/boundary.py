"""Where the response begins under both prompts. The two token lists decide, not the words of one model family's
template."""

from collections.abc import Iterator
from typing import Any

from recipe.egrsd.config.contrast import CONTRAST_PRIVILEGES
from recipe.egrsd.doctor.case import Case, Finding, Level
from recipe.egrsd.privilege import prompts
from recipe.egrsd.privilege.prefix import think_state

TAIL_TOKENS = 8
SHORT_RESPONSE = 4096
"""Tokens within which a thinking student rarely finishes."""
SWITCH = "enable_thinking"


def check(case: Case) -> Iterator[Finding]:
    """What the first response token meets under both prompts, and whether the student thinks before it answers."""
    tokenizer, config = case.tokenizer, case.config
    words = tokenizer.encode(config.algorithm.egrsd.assistant_prefix or "", add_special_tokens=False)
    ends = [tokenizer.decode(ids[0][-TAIL_TOKENS - len(words) :]) for ids in (case.student_ids, case.teacher_ids)]
    student = case.student_template
    switches = student.get(SWITCH), config.algorithm.egrsd.teacher.enable_thinking

    def prompt(**kwargs: Any) -> list[int]:
        return prompts.prompt_ids(tokenizer, case.rows[0]["raw_prompt"], **{**student, **kwargs})

    heard = prompt(**{SWITCH: False}) != prompt(**{SWITCH: True})  # the template knows the switch
    off = think_state(ends[0]) == "closed" or (heard and switches[0] is False)
    level, said = _boundary(prompt() == prompt(**{SWITCH: switches[1]}), off, switches, config.algorithm.egrsd)
    yield Finding(level, f"student …{ends[0]!r}\nteacher …{ends[1]!r}\n{said}")
    template = tokenizer.chat_template or ""
    if not off and config.data.max_response_length <= SHORT_RESPONSE and "think" in template:
        limit = f"data.max_response_length={config.data.max_response_length}"
        key = f"data.apply_chat_template_kwargs.{SWITCH}"
        way_out = (
            f"+{key}=false" if heard else f"{key} does nothing to this template: a longer response, or another model"
        )
        if words:  # which that switch would shut out
            way_out = "a longer response, or without algorithm.egrsd.assistant_prefix"
        yield Finding(
            Level.YELLOW, f"the student may think: within {limit} few such responses reach an answer; {way_out}"
        )
    if config.algorithm.egrsd.privilege == "crosslingual" and not words:
        yield Finding(
            Level.YELLOW,
            "nothing says in which language the student thinks: COPSD begins both turns with a sentence in the "
            "student's language, algorithm.egrsd.assistant_prefix",
        )
    if "strftime_now" in template:
        yield Finding(
            Level.YELLOW,
            "the chat template writes today's date: the teacher's prompts keep the day of the start, the student's "
            "turn with the day, and an evaluation that is resumed tomorrow asks other prompts",
        )


def _boundary(alike: bool, off: bool, switches: tuple[bool | None, bool], egrsd: Any) -> tuple[Level, str]:
    """alike: the same chat gives both the same tokens, before and behind the user's turn."""
    if alike and None not in switches and switches[0] != switches[1]:
        return (
            Level.YELLOW,
            f"alike, although {SWITCH} is {switches[0]} and {switches[1]}: the chat template ignores it",
        )
    if alike:
        return Level.GREEN, "both begin their response at the same point"
    if not off:
        return Level.YELLOW, (
            "the student may think where the teacher expects otherwise: all its thoughts would be scored as out of "
            f"place; set data.apply_chat_template_kwargs.{SWITCH} and algorithm.egrsd.teacher.{SWITCH} alike"
        )
    return _first_token(egrsd)


def _first_token(egrsd: Any) -> tuple[Level, str]:
    """What comes of a teacher that expects thoughts where a student begins that has none."""
    expects = "the teacher may expect thoughts where the student's response begins"
    if egrsd.privilege in CONTRAST_PRIVILEGES or egrsd.steering.strength > 0:
        own = "; the teacher without a guide stands on the student's own prompt" if egrsd.steering.strength > 0 else ""
        return Level.GREEN, f"{expects}, under right and wrong guides alike: their difference cancels it{own}"
    if egrsd.divergence and egrsd.pull.coefficient > 0:
        way_out = f"consider algorithm.egrsd.teacher.{SWITCH}=false"
        return Level.YELLOW, f"{expects}, and no ratio clip bounds what that token adds to the divergence; {way_out}"
    if egrsd.clip_range > 0 and egrsd.mixing > 0:
        bound = "the ratio clip bounds it to that token's weight (see egrsd/first_token_log_ratio)"
        return Level.GREEN, f"{expects}; {bound}"
    return Level.GREEN, f"{expects}; without a ratio weight what it says of that token's probability does not count"
