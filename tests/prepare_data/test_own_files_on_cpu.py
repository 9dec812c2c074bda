"""prepare_data on files of one's own: any named columns, a test set held out, and what cannot be read."""

import json

import datasets
import huggingface_hub
import pytest
from source_rows import openthoughts, rows_of, write

from recipe.egrsd.prepare_data import __main__ as prepare_data


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_any_file_with_named_columns(suffix, tmp_path):
    path = tmp_path / f"mine.{suffix}"
    if suffix == "csv":
        path.write_text(
            'q,a,s\n"What is 3, in three digits?",003,"It is\n\\boxed{003}"\nWhich element is Na?,NA,sodium\n'
        )
    else:
        rows = [{"q": "What is 3, in three digits?", "a": "003", "s": "It is\n\\boxed{003}"}]
        rows += [{"q": "Which element is Na?", "a": "NA", "s": "sodium"}]
        texts = {"jsonl": "\n".join(map(json.dumps, rows)), "json": json.dumps(rows)}
        path.write_text(texts[suffix]) if suffix in texts else write(path, rows)
    columns = ["--problem-column", "q", "--answer-column", "a", "--solution-column", "s"]
    prepare_data.main(["--out", str(tmp_path), "--train", str(path), *columns, "--benchmarks", "--validation", "0"])
    first, second = rows_of(tmp_path)
    assert first["reward_model"]["ground_truth"] == "003" and second["reward_model"]["ground_truth"] == "NA"
    assert first["extra_info"]["solution"] == "It is\n\\boxed{003}"
    assert first["data_source"] == "mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train", "nowhere.jsonl"], r"nowhere.jsonl cannot be read: FileNotFoundError"),
        (
            ["--train", "{path}"],
            r"has no column \['answer'\], only \['problem', .*name the right ones with --problem-column",
        ),
        (
            ["--train", "{path}", "--answer-column", "none", "--solution-column", "none"],
            "needs a problem, and a solution or an",
        ),
        (["--train", "openthoughts={path}"], "1 of 1 rows are usable .* and --validation takes 256 of them"),
        (["--benchmarks", "aime26"], r"names \['aime26'\]; choose from \['aime24',"),
        (
            ["--train", "none", "--test", "{path}/../train.parquet"],
            r"would be written over train.parquet; give the file ano",
        ),
        (["--train", "none", "--test", "{path}"], r"mine: .* has no column \['answer'\], only .* --answer-column"),
    ],
)
def test_what_cannot_be_used_is_named(words, sentence, tmp_path):
    path = write(tmp_path / "mine.parquet", [openthoughts(1)])
    words = [word.format(path=path) for word in words]
    with pytest.raises(SystemExit, match=f"^prepare_data: .*{sentence}"):
        prepare_data.main(["--out", str(tmp_path), "--benchmarks", *words])


def test_a_test_set_of_ones_own(tmp_path):
    """Written whole, its split named, with the columns of --train; training leaves its problems out."""
    test = write(tmp_path / "held_out.parquet", [openthoughts(1), openthoughts(2)])
    others = ["Add the digits of the year in which your neighbour was born.", "Which number is its own square root?"]
    rows = [openthoughts(2), *(openthoughts(3 + i, problem=problem) for i, problem in enumerate(others))]
    train = write(tmp_path / "mine.parquet", rows)
    words = ["--train", str(train), "--test", str(test), "--answer-column", "Answer", "--benchmarks", "none"]
    prepare_data.main(["--out", str(tmp_path / "out"), *words, "--validation", "1"])
    held_out = rows_of(tmp_path / "out", "held_out")
    assert [row["reward_model"]["ground_truth"] for row in held_out] == ["7", "14"]
    assert {(row["extra_info"]["split"], row["data_source"]) for row in held_out} == {("test", "held_out")}
    rest = [
        row["reward_model"]["ground_truth"]
        for name in ("train", "validation")
        for row in rows_of(tmp_path / "out", name)
    ]
    assert sorted(rest) == ["21", "28"]


def test_a_test_set_is_whole_or_refused(tmp_path):
    test = write(tmp_path / "held_out.parquet", [openthoughts(1), openthoughts(2, Answer="", solution="no box")])
    words = ["--train", "none", "--test", str(test), "--answer-column", "Answer", "--benchmarks", "none"]
    with pytest.raises(SystemExit, match=r"held_out: row 1 of .*held_out.parquet: no closed box in the solution"):
        prepare_data.main(["--out", str(tmp_path / "out"), *words])


def test_without_the_hub_a_file_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        SystemExit, match=r"HuggingFaceH4/aime_2024 cannot be read: ConnectionError: .* name a file .*--benchmarks none"
    ):
        prepare_data.main(["--out", str(tmp_path), "--train", "none", "--benchmarks", "aime24"])


def test_broken_json_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"problem": "P?", "solution": "\\ud800"')
    with pytest.raises(SystemExit, match=r"rows.jsonl cannot be read"):
        prepare_data.main(["--out", str(tmp_path), "--train", str(tmp_path / "rows.jsonl"), "--benchmarks"])
