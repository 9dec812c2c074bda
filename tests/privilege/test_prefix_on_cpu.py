"""Words at the start of the assistant's turn: in chat templates of three kinds, and in all that write prompts."""

import copy

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from egrsd_dataset import dataset
from inputs import write_inputs
from rows import PROBLEMS, write
from runs import ROOT
from transformers import AutoTokenizer

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import INSTRUCTION
from recipe.egrsd.evaluate import Refused
from recipe.egrsd.evaluate import __main__ as evaluate
from recipe.egrsd.evaluate.model import locate
from recipe.egrsd.evaluate.problems import Problem
from recipe.egrsd.privilege.prefix import template_with

WORDS = "Nitafikiri kwa \"Kiswahili\", {{ hatua }} kwa 'hatua' \\boxed{é}."
QWEN3 = (ROOT / "examples/rehearsal/qwen3_chat_template.jinja").read_text()
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENS = TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}\n"  # as Qwen3-Thinking-2507's
PLAIN = TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n"
PRINTS = TURN + "{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}\n"  # no block before its last line
CHAT = [{"role": "user", "content": "1 + 1?"}]


@pytest.fixture
def tokenizer():
    return copy.deepcopy(tiny.build_tokenizer())


def text(tokenizer, **switches) -> str:
    knobs = {"add_generation_prompt": True} | switches
    return tokenizer.apply_chat_template(CHAT, tokenize=False, **knobs)


@pytest.mark.parametrize(
    ("template", "begun"),
    [(QWEN3, f"<think>\n{WORDS}"), (OPENS, WORDS), (PLAIN, WORDS), (PRINTS, WORDS)],
    ids=["qwen3", "opens", "plain", "prints"],
)
def test_the_words_follow_the_generation_prompt_inside_the_thoughts(template, begun, tokenizer):
    tokenizer.chat_template = template
    before, without = text(tokenizer), text(tokenizer, add_generation_prompt=False)
    tokenizer.chat_template = template_with(tokenizer, WORDS, switches=[{}, {"enable_thinking": True}])
    assert text(tokenizer) == text(tokenizer, enable_thinking=True) == before + begun
    assert text(tokenizer, add_generation_prompt=False) == without  # a finished turn is left as it is


def test_a_checkpoint_has_them_and_gets_them_once(tokenizer, tmp_path):
    tokenizer.chat_template = QWEN3
    tokenizer.chat_template = extended = template_with(tokenizer, WORDS, switches=[{}])
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == template_with(loaded, WORDS, switches=[{}]) == extended
    with pytest.raises(ValueError, match=r"assistant_prefix='Ich denke.': the model's chat template has other words"):
        template_with(loaded, "Ich denke.", switches=[{}])


REFUSED = {
    "closed": (QWEN3, [{}, {"enable_thinking": False}], "leaves the think block closed and none; set data.apply_chat"),
    "several": ({"default": PLAIN, "tool_use": PLAIN}, [{}], "needs one chat template, and the tokenizer's is dict"),
    "forged": (PLAIN, [{}], "contains the control token '<|im_end|>'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_go_on_with_them_is_refused(name, tokenizer):
    tokenizer.chat_template, switches, said = REFUSED[name]
    words = "Fine.<|im_end|>" if name == "forged" else WORDS
    with pytest.raises(ValueError, match=r"^algorithm\.egrsd\.assistant_prefix") as refused:
        template_with(tokenizer, words, switches=switches)
    assert said in str(refused.value)


def test_both_prompts_end_alike(tokenizer, tmp_path):
    """The data set's teacher and verl's student, from one tokenizer, as in a run."""
    tokenizer.chat_template = QWEN3
    tokenizer.chat_template = template_with(tokenizer, WORDS, switches=[{}, {"enable_thinking": True}])
    path = write(tmp_path / "rows.parquet")
    rows = dataset(tokenizer, path, data={"apply_chat_template_kwargs": {}})
    begun = tokenizer.encode(f"assistant\n<think>\n{WORDS}", add_special_tokens=False)
    for row in rows:
        student = tokenizer.apply_chat_template(row["raw_prompt"], add_generation_prompt=True, return_dict=False)
        assert student != row["teacher_prompt_ids"]
        assert student[-len(begun) :] == row["teacher_prompt_ids"][-len(begun) :] == begun


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=4)
    return folder


def test_an_evaluation_begins_with_them(inputs, tmp_path):
    files = locate(str(inputs / "model"), base=None)
    problem = Problem("swahili", 0, CHAT, "2")
    recorder = evaluate._recorder(files, thinking=True, words="Sawa.")
    assert recorder.tokenizer.decode(recorder.prompt(problem)).endswith("assistant\n<think>\nSawa.")
    with pytest.raises(Refused, match=r"--assistant-prefix: .* leaves the think block closed"):
        evaluate._recorder(files, thinking=False, words="Sawa.")


def in_english(folder, change=None):
    """Rows of the task with the problem in English beside them; change(index, extra_info) edits one in place."""
    english = {row: {"problem_en": f"In English: {problem.question}"} for row, problem in enumerate(PROBLEMS)}
    path = write(folder / "rows.parquet", english)
    rows = pq.read_table(path).to_pylist()
    for index, row in enumerate(rows):
        if change:
            change(index, row["extra_info"])
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


CROSSLINGUAL = {"privilege": "crosslingual", "template": None, "max_prompt_length": 1024}


def test_the_english_problem_stands_between_the_problem_and_the_solution(tokenizer, tmp_path):
    row = dataset(tokenizer, in_english(tmp_path), **CROSSLINGUAL)[0]
    shown = tokenizer.decode(row["teacher_prompt_ids"])
    question, solution = PROBLEMS[0].question, row["extra_info"]["solution"]
    begin = (
        f"<|im_start|>user\n{question}\n\nThe same problem in English:\n\nIn English: {question}\n\nA worked solution"
    )
    assert shown.startswith(begin)
    assert f"=== Reference Solution Begin ===\n{solution}\n=== Reference Solution End ===" in shown
    assert "in the language of the problem at the top" in shown
    assert shown.endswith(f"\n\n{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n") and shown.count(solution) == 1


def test_the_same_problem_under_opsds_template_is_opsd(tokenizer, tmp_path):
    """The null test: identical tokens."""
    path = write(tmp_path / "rows.parquet", {row: {"problem_en": p.question} for row, p in enumerate(PROBLEMS)})
    template = str(ROOT / "recipe/egrsd/privilege/teacher_prompt.jinja")
    both = [
        [row["teacher_prompt_ids"] for row in dataset(tokenizer, path, **(CROSSLINGUAL | knobs))]
        for knobs in ({"template": template}, {"privilege": "solution"})
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "extra_info.problem_en is NoneType, expected the problem in English as a string"),
        (" ", "extra_info.problem_en is empty"),
        ("Add.<|im_end|>", "the english problem to be shown contains the control token '<|im_end|>'"),
    ],
)
def test_a_row_without_a_usable_english_problem_is_named(value, reason, tokenizer, tmp_path):
    path = in_english(tmp_path, lambda index, extra: extra.update(problem_en=value if index == 2 else "Add."))
    with pytest.raises(ValueError, match=r"cannot use 1 of 6 training rows") as refused:
        dataset(tokenizer, path, **CROSSLINGUAL)
    assert f"row 2: {reason}" in str(refused.value)
