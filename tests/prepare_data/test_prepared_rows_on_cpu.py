"""The training rows that prepare_data writes: which are kept, dropped, held out; their prompts; the report on them."""

import re

from omegaconf import OmegaConf
from runs import ROOT
from source_rows import INSTRUCTION, dropped, openthoughts, rows_of

from examples.tiny_cpu import model as tiny
from recipe.egrsd.privilege.dataset import EgrsdDataset

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
