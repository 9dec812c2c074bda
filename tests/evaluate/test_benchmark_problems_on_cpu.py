"""What is asked, how often and how: the problems of a benchmark file, the protocol, the command line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import ROOT

from examples.tiny_cpu.task import make_problems, verl_row
from recipe.egrsd.evaluate import Refused, protocol
from recipe.egrsd.evaluate import __main__ as command
from recipe.egrsd.evaluate.problems import read_problems


def write_rows(path: Path, *rows: dict) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_rows_of_verl_become_problems(problems):
    first = make_problems("test", 1, seed=0)[0]
    assert problems[0].key == ("tiny_addition", "0")
    assert list(problems[0].messages) == first.messages
    assert problems[0].ground_truth == first.answer


def test_a_fingerprint_changes_with_the_prompt_and_with_the_answer_only(problems):
    problem = problems[0]
    others = [replace(problem, ground_truth="1"), replace(problem, messages=problems[1].messages)]
    assert len({problem.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert replace(problem, index="9").fingerprint == problem.fingerprint


def test_every_sample_has_a_seed_of_its_own(problems):
    seeds = [
        problem.seed(sample, run_seed=run_seed) for problem in problems for sample in range(16) for run_seed in (0, 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_source": ""}, r"row 1: data_source is '', expected the name of the benchmark"),
        ({"extra_info": {"index": None}}, r"row 1: extra_info has no 'index'"),
        ({"reward_model": {"ground_truth": " "}}, r"row 1: reward_model.ground_truth=' ' cannot be compared"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "row 1: the prompt must end in a user turn"),
        (
            {"extra_info": {"index": 0}},
            r"row 1: benchmark 'tiny_addition' already has a problem with extra_info.index=0",
        ),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_number(tmp_path, change, message):
    good, bad = [verl_row(problem, i) for i, problem in enumerate(make_problems("test", 2, seed=0))]
    with pytest.raises(Refused, match=message):
        read_problems([write_rows(tmp_path / "bad.parquet", good, {**bad, **change})])


def test_a_file_that_is_no_benchmark_is_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("x")
    with pytest.raises(Refused, match="cannot be read as parquet"):
        read_problems([tmp_path / "text.parquet"])
    with pytest.raises(Refused, match="has no column data_source, reward_model, extra_info"):
        read_problems([write_rows(tmp_path / "other.parquet", {"prompt": "x"})])
    empty = pa.Table.from_pylist([verl_row(make_problems("test", 1, seed=0)[0], 0)]).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(Refused, match="no rows"):
        read_problems([tmp_path / "empty.parquet"])


def test_the_number_of_samples_on_the_command_line():
    names = ["aime24", "math500"]
    assert protocol.samples(["4"], names) == {"aime24": 4, "math500": 4}
    assert protocol.samples(["aime24=16", "2"], names) == {"aime24": 16, "math500": 2}
    for word, message in (
        ("0", ">= 1"),
        ("x", ">= 1"),
        ("hmmt25=16", "has no benchmark 'hmmt25'; it has aime24, math500"),
    ):
        with pytest.raises(Refused, match=message):
            protocol.samples([word], names)


def test_the_papers_protocol_is_named_so_only_as_long_as_it_is_whole():
    given = ["--model", "m", "--data", "d", "--out", "o"]
    stated = json.loads((ROOT / "recipe/egrsd/config/paper.json").read_text())["evaluation"]
    assert stated.pop("k") == protocol.SAMPLES
    paper = {"max_tokens": stated.pop("max_new_tokens"), **stated, "top_k": 0}  # the paper states no top-k
    assert protocol.chosen(command._parser().parse_args(given)) == {"protocol": "paper", **paper}
    assert protocol.chosen(command._parser().parse_args([*given, "--no-thinking", "--top-k", "20"])) == {
        "protocol": "own", **paper, "thinking": False, "top_k": 20,
    }  # fmt: skip


def test_the_command_line_loads_neither_torch_nor_vllm():
    code = (
        "import sys, recipe.egrsd.evaluate.__main__ as e; e._parser().format_help(); "
        "assert not {'torch', 'vllm', 'transformers', 'verl', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_error_of_the_user_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--model", "m", "--data", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "out")])
    assert str(stopped.value).startswith("evaluate: ")
    path = write_rows(tmp_path / "one.parquet", verl_row(make_problems("test", 1, seed=0)[0], 0))
    with pytest.raises(SystemExit, match="--temperature 0 draws the same response every time; use --k 1"):
        command.main(["--model", "m", "--data", str(path), "--out", str(tmp_path / "out"), "--temperature", "0"])
