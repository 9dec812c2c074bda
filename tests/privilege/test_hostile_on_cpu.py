"""Bad rows: none crashes, each is used or gets a named refusal, none forges a chat turn. Bad outputs:
tests/reward/test_hostile_responses_on_cpu.py."""

import hostile
import pytest
from egrsd_dataset import dataset
from rows import PROBLEMS, write

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import verl_row

ROW = verl_row(PROBLEMS[0], 0)


QWENS = [
    "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end", "vision_start",
    "vision_end", "vision_pad", "image_pad", "video_pad",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    """The demo's, with the control tokens that Qwen's has beside those for turns."""
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [*tokenizer.extra_special_tokens, *(f"<|{name}|>" for name in QWENS)]}
    )
    assert len(tokenizer.all_special_tokens) == 14
    return tokenizer


@pytest.fixture(scope="module")
def rows(tokenizer):
    return list(hostile.training_rows(ROW, tokenizer.all_special_tokens, solution_key="solution"))


def test_the_corpus_is_large(rows):
    assert len(rows) >= 140
    names = [name for name, _ in rows]
    assert len(set(names)) == len(names)


def test_every_row_is_used_or_refused_by_name(rows, tokenizer, tmp_path):
    """A row that is used has exactly the control tokens of a harmless one: one turn opened, one closed, the answer's
    opened."""
    training = dataset(tokenizer, write(tmp_path / "rows.parquet"), max_prompt_length=4096)
    control = set(tokenizer.all_special_ids)
    harmless = [token for token in training._teacher_prompt(ROW, 0)["teacher_prompt_ids"] if token in control]
    used = []
    for name, row in rows:
        outcome = training._teacher_prompt(row, 0)
        if outcome["egrsd_refusal"]:
            assert outcome["teacher_prompt_ids"] == [], name
            assert len(outcome["egrsd_refusal"]) > 20, name
        else:
            assert [token for token in outcome["teacher_prompt_ids"] if token in control] == harmless, name
            used.append(name)
    assert {name for name in used if "long" not in name} == {
        f"solution: {name}" for name in hostile.INJECTIONS if name != "lone surrogate"
    }


def test_text_between_fences_is_not_a_template(tokenizer, tmp_path):
    training = dataset(tokenizer, write(tmp_path / "rows.parquet"))
    injected = {**ROW, "extra_info": {"solution": hostile.INJECTIONS["jinja variable"]}}
    assert "{{ 7 * 7 }}" in tokenizer.decode(training._teacher_prompt(injected, 0)["teacher_prompt_ids"])
