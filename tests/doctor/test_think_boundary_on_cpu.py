"""The doctor on where the student's and the teacher's prompts end: think blocks, their switches, chat templates."""

import pytest
from findings import GREEN, RED, YELLOW, examine_only, said
from rows import write_rows

from recipe.egrsd.doctor import boundary

THINKING = "+data.apply_chat_template_kwargs.enable_thinking"
TEACHER = "algorithm.egrsd.teacher.enable_thinking"
NO_THINKING = "actor_rollout_ref.model.custom_chat_template='{{ messages[-1].content }}:'"


@pytest.mark.parametrize(
    ("overrides", "algorithm", "level", "reason"),
    [
        ([], "cl_egrsd", GREEN, "the ratio clip bounds it to that token's weight"),
        ([f"{TEACHER}=false"], "cl_egrsd", GREEN, "both begin their response at the same point"),
        (["algorithm.egrsd.clip_range=0"], "egrsd", GREEN, "without a ratio weight what it says of that token's"),
        ([], "opsd", YELLOW, "no ratio clip bounds what that token adds"),
        ([], "ssopd", YELLOW, "no ratio clip bounds what that token adds"),
        ([], "hsd", YELLOW, "no ratio clip bounds what that token adds"),
        (["algorithm.egrsd.pull.coefficient=0"], "ssopd", GREEN, "without a ratio weight what it says of that"),
        ([], "rlcsd", GREEN, "under right and wrong guides alike: their difference cancels it"),
        ([], "sipo", GREEN, "under right and wrong guides alike: their difference cancels it"),
        ([], "ogls_sd", GREEN, "cancels it; the teacher without a guide stands on the student's own prompt"),
        ([f"{THINKING}=true"], "cl_egrsd", YELLOW, "within data.max_response_length=24 few such responses"),
        ([f"{THINKING}=true", f"{TEACHER}=false"], "cl_egrsd", YELLOW, "where the teacher expects otherwise"),
        ([NO_THINKING], "cl_egrsd", YELLOW, "alike, although enable_thinking is False and True"),
    ],
)
def test_think_boundary(case, overrides, algorithm, level, reason):
    found = list(boundary.check(case(*overrides, algorithm=algorithm, rows=True)))
    assert reason in said(found, level)
    if not overrides:
        assert r"student …'\n<|im_start|>assistant\n<think>\n\n</think>\n\n'" in said(found, level)
        assert r"<|im_end|>\n<|im_start|>assistant\n'" in said(found, level)


TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\\n{% endfor %}"
OFF = "{% if enable_thinking is defined and enable_thinking is false %}"
IGNORES, MAY_THINK = "the chat template ignores it", "the student may think: within"
TEMPLATES = {  # what published templates do, in a few words: template, what is said, what is not
    "Qwen3": (f"{TURNS}[assistant] {OFF}<think></think>{{% endif %}}", "the ratio clip bounds it", IGNORES),
    "Gemma 4": (f"{TURNS}[model] {OFF}<channel>thought<channel/>{{% endif %}}", "the ratio clip bounds it", IGNORES),
    "SmolLM3": (f"[system] /{OFF}no_{{% endif %}}think\\n{TURNS}[assistant] ", "the ratio clip bounds it", IGNORES),
    "R1": (
        f"{TURNS}[assistant] <think>\\n",
        "enable_thinking does nothing to this template: a longer",
        "; +data.apply",
    ),
    "Llama": (f"{TURNS}[assistant] ", IGNORES, MAY_THINK),
    "Llama 3.2": (f"[system] {{{{ strftime_now('%d') }}}}\\n{TURNS}[assistant] ", "writes today's date", MAY_THINK),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_token_lists_decide_not_the_words(case, name):
    template, said_of_it, not_said = TEMPLATES[name]
    built = case()
    built.load_model()
    built.tokenizer.chat_template = template.replace("\\\\n", "\\n")
    built.load_rows()
    text = "\n".join(finding.text for finding in boundary.check(built))
    assert said_of_it in text and not_said not in text


def test_the_ends_of_both_prompts_show_the_words_of_the_assistants_turn(case):
    words = "algorithm.egrsd.assistant_prefix='Fikiri hatua kwa hatua.'"
    found = list(boundary.check(case(f"{THINKING}=true", words, algorithm="opsd", rows=True)))
    end = r"assistant\n<think>\nFikiri hatua kwa hatua.'"
    assert said(found, GREEN).count(end) == 2 and "both begin their response at the same point" in said(found, GREEN)
    assert "few such responses reach an answer; a longer response, or without" in said(found, YELLOW)
    assert "enable_thinking=false" not in said(found, YELLOW)
    found = examine_only(case(words, algorithm="opsd"), "config")
    assert "enable_thinking=false closes the thoughts" in said(found, RED)


def test_copsd_without_words_is_looked_at(case, tmp_path):
    path = write_rows(tmp_path / "rows.parquet", change=lambda _, row: row["extra_info"].update(problem_en="Add."))
    template = ["algorithm.egrsd.teacher.template=null", "algorithm.egrsd.teacher.max_prompt_length=460"]
    knobs = [f"data.train_files={path}", f"{THINKING}=true", *template]
    found = list(boundary.check(case(*knobs, algorithm="copsd", rows=True)))
    assert "COPSD begins both turns with a sentence in the student's language" in said(found, YELLOW)
    words = "algorithm.egrsd.assistant_prefix='Fikiri.'"
    assert "COPSD" not in said(list(boundary.check(case(*knobs, words, algorithm="copsd", rows=True))), YELLOW)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("\n<think>\n\n</think>\n\n", "closed"),
        ("x</think>", "closed"),
        ("assistant\n<think>\n", "open"),
        ("assistant\n", "none"),
    ],
)
def test_think_states(end, state):
    assert boundary.think_state(end) == state
