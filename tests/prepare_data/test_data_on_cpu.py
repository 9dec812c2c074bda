"""prepare_data on small local files with the columns of the published data sets: what is written, dropped, counted,
resumed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from runs import ROOT

from examples.tiny_cpu import model as tiny
from recipe.egrsd.prepare_data import __main__ as prepare_data
from recipe.egrsd.prepare_data.overlap import Overlap
from recipe.egrsd.prepare_data.sources import BENCHMARKS, TRAINING
from recipe.egrsd.privilege.dataset import EgrsdDataset
from recipe.egrsd.reward import compute_score

INSTRUCTION = OmegaConf.load(ROOT / "recipe/egrsd/config/algorithm/egrsd.yaml").algorithm.egrsd.teacher.instruction
ROOTS = r"Let \(x\) and \(y\) be real numbers such that \(x+y=10\) and \(xy=21\). Find \(x^2+y^2\)."
DAPO_BEFORE, DAPO_BEHIND = next(source.wrapping for source in TRAINING if source.name == "dapo")

# One row of each with all of its published columns, and what must become of it: ground truth, solution.
PUBLISHED = {
    "aime24": (
        {"id": 60, "problem": ROOTS, "solution": r"So \boxed{058}.", "answer": "058", "url": "u", "year": "2024"},
        ("058", r"So \boxed{058}."),
    ),
    "aime25": ({"id": 0, "problem": "P?", "solution": "s", "answer": "70", "url": "u", "year": "2025"}, ("70", None)),
    "hmmt25": (
        {"problem_idx": 1, "problem": "P?", "answer": r"\frac{1}{576}", "problem_type": ["Algebra"]},
        (r"\frac{1}{576}", None),
    ),
    "math500": (
        {
            "problem": "P?",
            "solution": r"\boxed{\frac12}",
            "answer": r"\frac12",
            "subject": "S",
            "level": 2,
            "unique_id": "t/1",
        },
        (r"\frac12", r"\boxed{\frac12}"),
    ),
    "minerva": ({"question": "P?", "answer": "4.5e33"}, ("4.5e33", None)),
    "gsm8k": ({"question": "P?", "answer": "7*10000=70,000\n#### 70,000"}, ("70000", "7*10000=70,000")),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def openthoughts(index: int, **changes: Any) -> dict[str, Any]:
    """A row with the columns of siyanzhao/Openthoughts_math_30k_opsd that public code reads."""
    row = {
        "problem": f"A farmer has {index} fields with seven trees each. How many trees does the farmer have in all?",
        "solution": f"<think>\nSeven each.\n</think>\n\nThere are \\boxed{{{7 * index}}} trees.",
        "Answer": str(7 * index),
        "COT_Reason": "Seven each.",
        "generated_token_count": 12,
    }
    return row | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def prepare(tmp_path) -> Callable[..., dict[str, Any]]:
    """(rows, *words) -> the report on the training rows; the files lie in tmp_path/out."""

    def run(rows: list[dict[str, Any]], *words: str, train: str = "openthoughts", out: str = "out") -> dict[str, Any]:
        path = write(tmp_path / f"{train}.parquet", rows)
        benchmarks = [] if "--benchmarks" in words else ["--benchmarks"]
        validation = [] if "--validation" in words else ["--validation", "0"]
        prepare_data.main(
            ["--out", str(tmp_path / out), "--train", f"{train}={path}", *benchmarks, *validation, *words]
        )
        return json.loads((tmp_path / out / "train.report.json").read_text())

    return run


def rows_of(folder: Path, name: str = "train") -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def dropped(report: dict[str, Any]) -> dict[str, list[int]]:
    assert all(rows["count"] == len(rows["first"]) for rows in report["dropped"].values())
    return {reason: rows["first"] for reason, rows in report["dropped"].items()}


# ---------------------------------------------------------------- sources


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


# ---------------------------------------------------------------- rows

HOSTILE = {
    "a null problem": (openthoughts(1, problem=None), "no problem"),
    "a blank problem": (openthoughts(1, problem=" \n"), "no problem"),
    "the instruction alone": (openthoughts(1, problem=INSTRUCTION), "no problem"),
    "a null solution": (openthoughts(1, solution=None), "no solution"),
    "a blank solution": (openthoughts(1, solution="\t"), "no solution"),
    "no answer, no box": (openthoughts(1, Answer=None, solution="It is 7."), "no closed box in the solution"),
    "no answer, an open box": (openthoughts(1, Answer="", solution=r"\boxed{7"), "no closed box in the solution"),
    "no answer, an empty box": (openthoughts(1, Answer="", solution=r"\boxed{}"), "no closed box in the solution"),
    "an answer without end": (openthoughts(1, Answer="7" * 1001), "the answer is no text of 1 to 1,000 characters"),
    "broken LaTeX": (openthoughts(1, Answer=r"\frac{"), "math-verify cannot read the answer"),
}
USABLE = {
    "dollars": (openthoughts(1, Answer="$7$"), "7"),
    "more dollars": (openthoughts(1, Answer="$$ 7 $$"), "7"),
    "a boxed answer": (openthoughts(1, Answer=r"\boxed{7}"), "7"),
    "white space": (openthoughts(1, Answer=" 7\n"), "7"),
    "the solution's last box": (openthoughts(1, Answer=None, solution=r"not \boxed{6} but \boxed{7}"), "7"),
    "a word": (openthoughts(1, Answer=r"\text{Tuesday}"), r"\text{Tuesday}"),
    "a control token": (openthoughts(1, problem="What does <|im_end|> end?"), "7"),  # EgrsdDataset knows the tokenizer
}


def test_a_row_that_cannot_be_used_is_dropped_under_its_reason(prepare, tmp_path):
    rows = [row for row, _ in HOSTILE.values()] + [openthoughts(2)]
    report = prepare(rows)
    expected: dict[str, list[int]] = {}
    for index, (_, reason) in enumerate(HOSTILE.values()):
        expected.setdefault(reason, []).append(index)
    assert dropped(report) == expected
    assert (report["rows_in"], report["kept"]) == (len(rows), 1)
    assert [row["extra_info"]["index"] for row in rows_of(tmp_path / "out")] == [len(rows) - 1]


def test_what_can_be_used_is_kept(prepare, tmp_path):
    rows = [row | {"problem": f"{row['problem']} ({index})"} for index, (row, _) in enumerate(USABLE.values())]
    report = prepare(rows)
    assert dropped(report) == {}
    assert [row["reward_model"]["ground_truth"] for row in rows_of(tmp_path / "out")] == [
        answer for _, answer in USABLE.values()
    ]
    assert report["answers"] == {"from_the_answer_column": len(rows) - 1, "from_the_solutions_box": 1}


def test_prompts_end_in_the_default_instruction_once(prepare, tmp_path):
    prepare([openthoughts(1), openthoughts(2, problem=f"How many? {INSTRUCTION}")])
    first, second = (row["prompt"][0]["content"] for row in rows_of(tmp_path / "out"))
    assert first.endswith(f"in all?\n\n{INSTRUCTION}")
    assert second == f"How many?\n\n{INSTRUCTION}"
    prepare([openthoughts(1)], "--instruction", "Box it.")
    assert rows_of(tmp_path / "out")[0]["prompt"][0]["content"].endswith("in all?\n\nBox it.")


def test_the_report_says_what_the_answer_checker_thinks_of_the_solutions(prepare, capsys):
    wrong, boxless = openthoughts(3, Answer="1"), openthoughts(4, solution="28 trees")
    report = prepare([openthoughts(1), openthoughts(2, Answer="14.0"), wrong, boxless, openthoughts(5, Answer=None)])
    boxes = {verdict: rows["first"] for verdict, rows in report["solutions_boxes"].items()}
    assert boxes == {"accepted": [0, 1], "rejected": [2], "no box": [3]}  # the last has nothing to be compared with
    assert re.search(r"solutions whose box math-verify accepts, of 3 +66\.7%", capsys.readouterr().out)


def test_lengths_are_counted(prepare):
    report = prepare(
        [openthoughts(index, Answer="7", solution="x" * length) for index, length in enumerate([1, 249, 250, 900])]
    )
    assert report["solution_chars"] == {
        "median": 250, "p90": 250, "max": 900, "histogram": {"0-249": 2, "250-499": 1, "500-999": 1}
    }  # fmt: skip


def test_validation_rows_are_held_out_whatever_the_order(prepare, tmp_path):
    rows = [openthoughts(index) for index in range(1, 21)]
    held_out = []
    for out, order in (("there", rows), ("back", rows[::-1])):
        report = prepare(order, "--validation", "5", out=out)
        train, validation = (
            [row["prompt"][0]["content"] for row in rows_of(tmp_path / out, n)] for n in ("train", "validation")
        )
        assert len(train) == 15 and not {*train} & {*validation}
        assert {name: facts["rows"] for name, facts in report["files"].items()} == {
            "train.parquet": 15,
            "validation.parquet": 5,
        }
        held_out.append({*validation})
    assert held_out[0] == held_out[1]


def test_the_training_data_set_reads_what_was_written(prepare, tmp_path):
    """The real tokenizer, the recipe's own template and the default instruction; the think block of a solution
    stays."""
    prepare([openthoughts(index) for index in range(1, 7)], "--validation", "2")
    teacher = OmegaConf.load(ROOT / "recipe/egrsd/config/algorithm/egrsd.yaml").algorithm.egrsd.teacher
    train, validation = (str(tmp_path / "out" / f"{name}.parquet") for name in ("train", "validation"))
    config = OmegaConf.create(
        {
            "train_files": train,
            "filter_overlong_prompts": True,
            "filter_overlong_prompts_workers": None,
            "max_prompt_length": 1024,
            "peer": "shortest",
            "apply_chat_template_kwargs": {"enable_thinking": False},
            "egrsd": {"teacher": teacher, "privilege": "solution", "use_v1": True, "trainer_mode": "egrsd_sync"},
        }
    )
    tokenizer = tiny.build_tokenizer()
    written = rows_of(tmp_path / "out")
    rows = EgrsdDataset(train, tokenizer, config)
    assert len(rows) == len(written) == 4
    for row, expected in zip(rows, written, strict=True):
        text = tokenizer.decode(row["teacher_prompt_ids"])
        assert expected["extra_info"]["solution"] in text and text.count(INSTRUCTION) == 1
        assert row["reward_model"]["ground_truth"] == expected["reward_model"]["ground_truth"]
    assert len(EgrsdDataset(validation, tokenizer, config)) == 2


# ---------------------------------------------------------------- overlap

BENCHMARK = {
    "aime": [
        (
            "Find the number of ordered pairs of positive integers (m, n) with m + n = 2024 and gcd(m, n) = 8. The "
            "answer can be written as p/q where p and q are relatively prime positive integers. Find p + q."
        )
    ],
    "roots": [ROOTS],
    "short": ["Compute $17 \\cdot 23$."],
}


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (ROOTS, [("roots", 0)]),
        (
            "Let $x$ and $y$ be REAL numbers such that\n$$x + y =10$$, $$xy=21.$$ Find $\\left(x^{2}+y^2\\right)$!",
            [("roots", 0)],
        ),
        (f"Here is an old problem. {ROOTS} Explain each step.", [("roots", 0)]),
        ("Let $x$ and $y$ be real numbers such that $x-y=4$ and $xy=5$. Find all values of $x^3-y^3$.", []),
        ("The probability can be written as p/q where p and q are relatively prime positive integers. Find p + q.", []),
        ("compute 17 \\cdot 23", [("short", 0)]),
        ("Compute $17 + 23$.", []),
        ("", []),
        ("$$ \\left( \\right) $$", []),
        ("计算 17 与 23 的乘积。", []),
    ],
)
def test_overlap_is_found_in_other_words_and_not_in_boilerplate(problem, expected):
    assert Overlap(BENCHMARK).of(problem) == expected


@pytest.mark.parametrize("keep", [False, True])
def test_benchmark_problems_leave_the_training_set(prepare, tmp_path, capsys, keep):
    path = write(tmp_path / "aime24.parquet", [PUBLISHED["aime24"][0]])
    leaked = openthoughts(2, problem=ROOTS.replace(r"\(", "$").replace(r"\)", "$"))
    words = ["--benchmarks", f"aime24={path}", *(["--keep-overlap"] if keep else [])]
    report = prepare([openthoughts(1), leaked, openthoughts(3)], *words)
    found = report["overlap"]["benchmarks"]["aime24"]
    assert found == {"rows": {"count": 1, "first": [1]}, "problems": {"count": 1, "first": [0]}}
    assert [row["extra_info"]["index"] for row in rows_of(tmp_path / "out")] == ([0, 1, 2] if keep else [0, 2])
    assert dropped(report) == ({} if keep else {"the problem is one of a benchmark's": [1]})
    assert "rows that hold one of 1 problems of aime24" in capsys.readouterr().out


# ---------------------------------------------------------------- again and again


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".partial"}


@pytest.fixture
def everything(prepare, tmp_path) -> Callable[[str], dict[str, bytes]]:
    """(folder) -> all files after a run with two benchmarks."""
    words = [f"{name}={write(tmp_path / f'{name}.parquet', [PUBLISHED[name][0]])}" for name in ("aime24", "gsm8k")]
    rows = [openthoughts(index) for index in range(1, 9)] + [openthoughts(1)]

    def run(out: str) -> dict[str, bytes]:
        prepare(rows, "--benchmarks", *words, "--validation", "2", out=out)
        return bytes_of(tmp_path / out)

    return run


def test_the_same_input_gives_the_same_bytes(everything):
    first = everything("first")
    assert sorted(first) == [
        "aime24.parquet", "aime24.report.json", "gsm8k.parquet", "gsm8k.report.json",
        "train.parquet", "train.report.json", "validation.parquet",
    ]  # fmt: skip
    assert everything("second") == first


def test_what_is_complete_stays_and_what_is_not_is_made_again(everything, prepare, tmp_path, capsys):
    first, out = everything("out"), tmp_path / "out"
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert everything("out") == first
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    assert capsys.readouterr().out.count("complete already") == 3
    (out / "validation.parquet").unlink()
    (out / "gsm8k.parquet").write_bytes(b"PAR1 torn")
    assert everything("out") == first
    assert (out / "aime24.parquet").stat().st_mtime_ns == times[out / "aime24.parquet"]
    report = prepare([openthoughts(1)])  # another input in the same folder
    assert report["kept"] == len(rows_of(out)) == 1


@pytest.mark.parametrize("moment", range(7))
def test_an_interruption_leaves_nothing_half_written(everything, monkeypatch, tmp_path, moment):
    """Every file is written whole under another name first. The interruption comes after half of the bytes of one of
    them."""
    whole, out = everything("whole"), tmp_path / "out"
    replace, replaced = prepare_data.os.replace, []

    def interrupted(unfinished: Path, path: Path) -> None:
        if len(replaced) == moment:
            unfinished.write_bytes(unfinished.read_bytes()[: unfinished.stat().st_size // 2])
            raise KeyboardInterrupt
        replaced.append(path.name)
        replace(unfinished, path)

    with monkeypatch.context() as patched:
        patched.setattr(prepare_data.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            everything("out")
    left = bytes_of(out)
    assert sorted(left) == sorted(replaced) and len(left) == moment
    assert all(whole[name] == content for name, content in left.items())
    assert everything("out") == whole
    assert not list(out.glob("*.partial"))
