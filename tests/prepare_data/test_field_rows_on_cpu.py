"""Rows and files as people have them: missing values in every dress, chats, types, files of other kinds. What
becomes of each."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.egrsd.prepare_data import __main__ as prepare_data
from recipe.egrsd.prepare_data.rows import Refused, read
from recipe.egrsd.prepare_data.sources import Source
from recipe.egrsd.privilege.texts import RowError, final_answer
from recipe.egrsd.reward import compute_score

SOURCE = Source(name="mine", path="mine.parquet", solution="solution", answer="answer")
NAN, INF = float("nan"), float("inf")
USER, ASSISTANT = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": r"\boxed{7}"}
SYSTEM = {"role": "system", "content": "Be brief."}


def row(**changes):
    return {"problem": "How many?", "solution": r"So \boxed{7}.", "answer": "8"} | changes


@pytest.mark.parametrize("value", [None, NAN, "", " ", "null", "NULL", "None", "nan", [], [None], [NAN], [""]])
def test_a_missing_answer_is_missing_in_any_dress(value):
    problem = read(SOURCE, 0, row(answer=value), instruction="")
    assert (problem.answer, problem.from_box) == ("7", True)
    for key, reason in (("solution", "no solution"), ("problem", "no problem")):
        if value not in ([], [None], [""]) and not isinstance(value, list):
            with pytest.raises(Refused, match=f"^{reason}$"):
                read(SOURCE, 0, row(**{key: value}), instruction="")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "proof"}, "the answer is 'proof': there is none to check"),
        ({"answer": "notfound"}, "the answer is 'notfound': there is none to check"),
        ({"answer": INF}, "the answer is inf, no number"),
        ({"answer": ["1", "2"]}, "the answer is a list of 2, expected one"),
        ({"answer": {"a": 1}}, "the answer is dict, expected a text or a number"),
        ({"answer": True}, "the answer is bool, expected a text or a number"),
        ({"solution": ["a", "b"]}, "the solution is a list of 2, expected one"),
        ({"solution": 7}, "the solution is int, expected a text"),
        ({"problem": 7}, "the problem is int, expected a text or a chat"),
        ({"problem": [USER, ASSISTANT]}, "the prompt must end in a user turn of plain text"),
        ({"problem": []}, "the prompt must end in a user turn of plain text"),
        (
            {"problem": [{"role": "user", "content": [{"type": "image"}]}]},
            "the prompt must be a list of turns of plain text",
        ),
    ],
)
def test_what_cannot_be_used_is_dropped_under_what_it_is(changes, reason):
    with pytest.raises(Refused) as refused:
        read(SOURCE, 0, row(**changes), instruction="")
    assert str(refused.value) == reason


def test_lists_of_one_and_numbers_are_taken():
    assert read(SOURCE, 0, row(answer=["8"], solution=[r"So \boxed{7}."]), instruction="").answer == "8"
    assert [read(SOURCE, 0, row(answer=value), instruction="").answer for value in (8, 8.0, 0.5, "NA")] == [
        "8",
        "8",
        "0.5",
        "NA",
    ]


def test_the_turns_before_the_problem_are_kept():
    problem = read(SOURCE, 0, row(problem=[SYSTEM, USER]), instruction="")
    assert problem.row(SOURCE, split="train", instruction="Box it.")["prompt"] == [
        SYSTEM, {"role": "user", "content": "How many?\n\nBox it."}
    ]  # fmt: skip


@pytest.mark.parametrize(("truth", "shown"), [(42, "42"), (" 42 ", "42"), (r"so \boxed{42}", "42"), ("-0", "-0")])
def test_a_ground_truth_has_one_rule_for_privilege_and_reward(truth, shown):
    assert final_answer({"ground_truth": truth}) == shown
    assert compute_score("", rf"\boxed{{{shown}}}", truth)["score"] == 1.0


@pytest.mark.parametrize("truth", [None, "", True, 4.5, [42], "7" * 1001])
def test_what_the_reward_cannot_use_the_teacher_is_not_shown(truth):
    with pytest.raises(RowError, match=r"reward_model.ground_truth is "):
        final_answer({"ground_truth": truth})
    assert compute_score("", r"\boxed{42}", truth)["bad_ground_truth"] == 1


@pytest.mark.parametrize(
    ("name", "content", "words", "sentence"),
    [
        ("rows.jsonl", "", ["--train"], "rows.jsonl has no rows."),
        ("rows.jsonl", "\n \n", ["--train"], "rows.jsonl has no rows."),
        ("rows.json", "[]", ["--train"], "rows.json has no rows."),
        (
            "rows.tsv",
            "a\tb\n",
            ["--train"],
            "is a file of a kind that is not read; give one of .parquet, .json, .jsonl, .csv.",
        ),
        ("rows.jsonl.gz", "x", ["--train"], "is a file of a kind that is not read"),
        (
            "rows.csv",
            "Problem,Answer\nP?,7\n",
            ["--train", "none", "--benchmarks", "aime24="],
            "the published columns: rename",
        ),
    ],
)
def test_a_file_is_refused_for_what_it_is(tmp_path, name, content, words, sentence):
    (tmp_path / name).write_text(content)
    *words, last = words
    given = [f"{last}{tmp_path / name}"] if last.endswith("=") else [last, str(tmp_path / name)]
    rest = [] if "--benchmarks" in words else ["--benchmarks"]
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main(["--out", str(tmp_path / "out"), *words, *given, *rest])
    assert str(stopped.value).startswith("prepare_data: ") and sentence in str(stopped.value)


@pytest.mark.parametrize("rows", [5, 120])
@pytest.mark.parametrize("columns", [("answer", "none"), ("none", "question"), ("none", "answer")])
def test_a_mark_in_another_column(tmp_path, columns, rows):
    """--mark is of the cell that --answer-column names: the refusal names the column that holds it, or says that
    none does."""
    mark = "####" if columns[1] != "answer" else "@@"
    path = tmp_path / "train.jsonl"
    path.write_text(
        "\n".join(json.dumps({"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"}) for i in range(rows))
    )
    words = [
        "--out",
        str(tmp_path / "out"),
        "--train",
        str(path),
        "--problem-column",
        "question",
        "--benchmarks",
        "--mark",
        mark,
    ]
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main([*words, "--solution-column", columns[0], "--answer-column", columns[1]])
    way = "'answer' holds ####, so --answer-column answer --solution-column none --mark '####'."
    if "answer" not in columns or mark == "@@":
        way = f" hold no {mark}: --answer-column names the column of solution, {mark} and answer."
    assert str(stopped.value).endswith(way)
    assert f"none of the first {min(rows, 100)} rows is usable" in str(stopped.value)


def test_the_mark_of_gsm8k(tmp_path):
    """Named after the first hundred rows, of which none is usable; with it they are read."""
    cells = [
        {"question": f"What is {i} + 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"}
        for i in range(120)
    ]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(cells), path)
    words = ["--out", str(tmp_path / "out"), "--train", str(path), "--problem-column", "question", "--benchmarks"]
    words += ["--validation", "2", "--solution-column"]
    with pytest.raises(
        SystemExit, match=r"none of the first 100 rows is usable .* --solution-column none --mark '####'"
    ):
        prepare_data.main([*words, "answer", "--answer-column", "none"])
    prepare_data.main([*words, "none", "--answer-column", "answer", "--mark", "####"])  # as told
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert len(rows) == 118
    first = next(row for row in rows if row["extra_info"]["index"] == 5)
    assert first["reward_model"]["ground_truth"] == "6" and first["extra_info"]["solution"] == "5 + 1 = <<5+1=6>>6"
