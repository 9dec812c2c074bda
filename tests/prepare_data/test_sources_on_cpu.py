"""prepare_data on the columns of the published data sets: benchmarks, COPSD's languages, DAPO's wrapping."""

import json
import re
from typing import Any

import pytest
from runs import ROOT
from source_rows import INSTRUCTION, PUBLISHED, dropped, openthoughts, rows_of, write

from recipe.egrsd.prepare_data import __main__ as prepare_data
from recipe.egrsd.prepare_data.sources import BENCHMARKS, TRAINING
from recipe.egrsd.reward import compute_score

DAPO_BEFORE, DAPO_BEHIND = next(source.wrapping for source in TRAINING if source.name == "dapo")


def test_the_sources_are_the_papers():
    paper = json.loads((ROOT / "recipe/egrsd/config/paper.json").read_text())
    assert TRAINING[0].path == paper["settings"]["data"]
    assert [source.name for source in BENCHMARKS] == [name.lower() for name in paper["columns"][:-2]]
    assert set(PUBLISHED) == {source.name for source in BENCHMARKS}


def test_every_benchmark_is_written_from_its_published_columns(tmp_path, capsys):
    words = [f"{name}={write(tmp_path / f'{name}.parquet', [row])}" for name, (row, _) in PUBLISHED.items()]
    prepare_data.main(["--out", str(tmp_path / "out"), "--train", "none", "--benchmarks", *words])
    for name, (row, (answer, solution)) in PUBLISHED.items():
        assert rows_of(tmp_path / "out", name) == [
            {
                "data_source": name,
                "prompt": [{"role": "user", "content": f"{row.get('problem', 'P?')}\n\n{INSTRUCTION}"}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": answer},
                "extra_info": {"index": 0, "split": "test", "solution": solution},
            }
        ]
        assert compute_score(name, rf"so \boxed{{{answer}}}", answer)["acc"] == 1
    assert capsys.readouterr().out.count("this is another benchmark") == len(PUBLISHED)  # one row is not 30 or 1,319
    assert not (tmp_path / "out" / "train.parquet").exists()


def translated(index: int, language: str = "sw", **changes: Any) -> dict[str, Any]:
    """A row with the columns of yihongLiu/COPSD-AfriMGSM-TrainDataset, as its card names them."""
    row = {
        "source": "amc_aime",
        "problem": f"Ann has {index} pens and buys seven more. How many pens has she?",
        "solution": f"{index} + 7 is \\boxed{{{index + 7}}}.",
        "Answer": str(index + 7),
        "problem_translated": f"Ann ana kalamu {index} na ananunua saba. Ana kalamu ngapi?",
        "language": {"sw": "Swahili", "yo": "Yoruba"}[language],
        "language_short": language,
    }
    return row | changes


@pytest.mark.parametrize("train", ["copsd_afrimgsm", "copsd_polymath"])
def test_copsds_rows_hold_the_problem_in_both_languages(train, prepare, tmp_path):
    rows = [translated(1, "yo"), translated(2), translated(3, problem=None), translated(4, problem_translated=" ")]
    report = prepare(rows, "--language", "sw", "--instruction", "Jibu ndani ya \\boxed{}.", train=train)
    assert (report["kept"], dropped(report)) == (1, {"no problem in English": [1], "no problem": [2]})
    assert rows_of(tmp_path / "out") == [
        {
            "data_source": train,
            "prompt": [{"role": "user", "content": f"{rows[1]['problem_translated']}\n\nJibu ndani ya \\boxed{{}}."}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "9"},
            "extra_info": {
                "index": 0,
                "split": "train",
                "solution": "2 + 7 is \\boxed{9}.",
                "problem_en": rows[1]["problem"],
                "language": "sw",
            },
        }
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "copsd_afrimgsm: name one of its languages with --language, one run each: sw, yo."),
        (["--language", "de"], "copsd_afrimgsm: --language de is none of its languages: sw, yo."),
    ],
)
def test_a_language_has_to_be_named(words, said, prepare):
    with pytest.raises(SystemExit, match=re.escape(said)):
        prepare([translated(1, "yo"), translated(2)], *words, train="copsd_afrimgsm")
    with pytest.raises(SystemExit, match="--language sw needs a source with a column of languages"):
        prepare([openthoughts(1)], "--language", "sw")


def test_one_language_needs_no_name_and_benchmarks_are_sought_in_english(prepare, tmp_path):
    """A translation of a benchmark's problem is that problem."""
    path = write(tmp_path / "minerva.parquet", [{"question": translated(2)["problem"], "answer": "9"}])
    other = translated(1, problem="A boat carries nine crates over the river each day. How many in a week?")
    report = prepare([other, translated(2)], "--benchmarks", f"minerva={path}", train="copsd_afrimgsm")
    assert (report["kept"], dropped(report)) == (1, {"the problem is one of a benchmark's": [1]})


def test_a_benchmark_is_whole_or_refused(tmp_path):
    rows = [PUBLISHED["minerva"][0], {"question": "P?", "answer": r"\frac{"}]
    path = write(tmp_path / "minerva.parquet", rows)
    arguments = ["--out", str(tmp_path / "out"), "--train", "none", "--benchmarks", f"minerva={path}"]
    prepare_data.main(arguments)
    report = json.loads((tmp_path / "out" / "minerva.report.json").read_text())
    assert (report["kept"], report["graded_as_text_only"]) == (2, {"count": 1, "first": [1]})
    write(path, [*rows, {"question": "P?", "answer": " "}])
    with pytest.raises(SystemExit, match=r"minerva: row 2 of .*minerva.parquet: no closed box in the solution"):
        prepare_data.main(arguments)


def test_only_what_no_answer_can_meet_counts_as_unreadable(tmp_path):
    readable = ["1.04e-3", "3e8", "-1./3", "a + b + c", r"4-\mathrm{i}", "125°", r"33\frac13\%", r"\frac{dM}{dt}=2"]
    readable += [r"2\gamma", "52_8"]
    unreadable = [r"\frac{", "5 4.6", r"m^2n\cdot m=m^3\cdot", "north-west"]
    rows = [{"question": f"P{index}?", "answer": answer} for index, answer in enumerate([*readable, *unreadable])]
    path = write(tmp_path / "minerva.parquet", rows)
    prepare_data.main(["--out", str(tmp_path / "out"), "--train", "none", "--benchmarks", f"minerva={path}"])
    report = json.loads((tmp_path / "out" / "minerva.report.json").read_text())
    assert report["graded_as_text_only"] == {"count": 4, "first": [10, 11, 12, 13]}


def test_dapo_is_unwrapped_and_its_copies_are_dropped(prepare, tmp_path):
    def row(problem: str, answer: str) -> dict[str, Any]:
        return {
            "data_source": "math_dapo",
            "prompt": [{"content": f"{DAPO_BEFORE}\n\n{problem}\n\n{DAPO_BEHIND}", "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
        }

    bare = row("How many?", "3") | {"prompt": [{"content": "How many?", "role": "user"}]}
    report = prepare([row("What is 6 times 7?", "42"), row("What is 6  times 7?", "42"), bare], train="dapo")
    (kept,) = rows_of(tmp_path / "out")
    assert kept["prompt"][0]["content"] == f"What is 6 times 7?\n\n{INSTRUCTION}"
    assert kept["extra_info"]["solution"] == r"The final answer is \boxed{42}."  # the data set has no solutions
    assert dropped(report) == {
        "the same problem stands in an earlier row": [1],
        "the problem is not wrapped in the source's usual words": [2],
    }
