"""shown.py asks what the teachers of a run are asked: token by token what the recipe's data set builds."""

import sys

import pytest
from egrsd_dataset import dataset

from examples.tiny_cpu import evaluate, shown
from examples.tiny_cpu.model import TEACHER_TEMPLATE, TEACHER_THINKING, build_model, build_tokenizer, save
from examples.tiny_cpu.task import make_problems, write_parquet
from recipe.egrsd.privilege.peers import spliced
from recipe.egrsd.privilege.prompts import prompt_ids

RIGHT, WRONG = ("7+6=13", 1), ("7+6=3", 0)
GROUPS = [[WRONG, RIGHT, ("7 + 6 = 13", 1)], [WRONG, WRONG], [RIGHT, ("7+6=103", 0)], [RIGHT]]
PEERS = {
    "peer_correct": [RIGHT[0], None, RIGHT[0], RIGHT[0]],
    "peer_wrong": [WRONG[0], WRONG[0], "7+6=103", None],
    "answer_and_peer": [RIGHT[0], "", RIGHT[0], RIGHT[0]],
}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(task="forks")


@pytest.mark.parametrize("privilege", ["solution", "answer_only", "other_problem", *PEERS])
def test_it_asks_what_a_run_asks(privilege, tokenizer, tmp_path):
    problems = make_problems("validation", len(GROUPS), seed=0, task="forks")
    write_parquet(problems, tmp_path / "train.parquet")
    template = shown.OTHER_TEMPLATE if privilege == "other_problem" else TEACHER_TEMPLATE
    limit = {"max_prompt_length": 400, "template": str(template)}
    rows = dataset(tokenizer, tmp_path / "train.parquet", privilege=privilege, **limit)
    frames = [row["teacher_prompt_ids"] for row in rows]
    peers = PEERS.get(privilege, [None] * len(frames))
    expected = {
        row: spliced(frame, tokenizer.encode(peer)) if privilege in PEERS else frame
        for row, (frame, peer) in enumerate(zip(frames, peers, strict=True))
        if privilege not in PEERS or peer is not None
    }
    asked = dict(shown.prompts(problems, GROUPS))[privilege]
    found = {problems.index(problem): prompt_ids(tokenizer, chat, enable_thinking=TEACHER_THINKING)
             for problem, chat in asked}  # fmt: skip
    decoded = {row: tokenizer.decode(ids) for row, ids in found.items()}
    assert decoded == {row: tokenizer.decode(ids) for row, ids in expected.items()}


def test_the_whole_command(tmp_path, capsys, monkeypatch, tokenizer):
    """A model of random weights is right on nothing, so that no problem has a right peer."""
    save(build_model(tokenizer), tokenizer, tmp_path)
    monkeypatch.setattr(shown, "GROUP", 1)
    monkeypatch.setattr(evaluate, "THREADS", 1)  # two wait for each other where other tests run beside this
    monkeypatch.setattr(sys, "argv", ["shown", str(tmp_path), "--size", "2"])
    shown.main()
    lines = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    beside = ["solution", "answer_only", "peer_wrong", "answer_and_peer", "other_problem"]
    assert lines == [f"{name:16s} n 2: right 0.000" for name in ("nothing", *beside)]
