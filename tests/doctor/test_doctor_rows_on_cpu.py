"""The doctor on models, rows, teacher's templates, reward functions and solutions that cannot teach, as real files."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from findings import GREEN, RED, YELLOW, examine_only, said
from rows import write_rows
from transformers import AutoTokenizer

from recipe.egrsd.doctor import checks


@pytest.fixture
def copied_model(inputs, tmp_path) -> Path:
    return Path(shutil.copytree(inputs / "model", tmp_path / "model"))


def test_a_vocabulary_larger_than_the_model(case, copied_model):
    config = json.loads((copied_model / "config.json").read_text())
    (copied_model / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    found = examine_only(case(f"actor_rollout_ref.model.path={copied_model}"), "model")
    assert "100 logits for" in said(found, RED) and "no embedding" in said(found, RED)


def test_a_tokenizer_without_a_chat_template(case, copied_model):
    (copied_model / "chat_template.jinja").unlink()
    assert "no chat template" in said(examine_only(case(f"actor_rollout_ref.model.path={copied_model}"), "model"), RED)


def test_rows_that_cannot_teach(case, tmp_path):
    path = write_rows(
        tmp_path / "bad.parquet", change=lambda index, row: row["extra_info"].update(solution=" " * (index == 3))
    )
    found = said(examine_only(case(f"data.train_files={path}"), "rows"), RED)
    assert "EGRSD cannot use" in found and "row 3: extra_info.solution is empty" in found


def test_a_file_that_is_not_there(case):
    assert "nowhere.parquet" in said(examine_only(case("data.val_files=nowhere.parquet"), "rows"), RED)


def test_fewer_rows_than_a_batch(case):
    found = examine_only(case("data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32"), "rows")
    assert "16 rows to train on, 32 of them a step" in said(found, RED)


def test_epochs_that_end_before_the_steps(case):
    """16 rows, four a step: an epoch has four."""
    four = ["data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4"]
    few = [*four, "trainer.total_epochs=2", "trainer.total_training_steps=9"]
    found = said(examine_only(case(*few), "rows"), YELLOW)
    assert "trainer.total_epochs=2 ends the run after 8 of trainer.total_training_steps=9 steps" in found
    for enough in (["trainer.total_epochs=2", "trainer.total_training_steps=8"], ["trainer.total_epochs=1"]):
        assert "total_epochs" not in said(examine_only(case(*four, *enough), "rows"), YELLOW)


def test_a_template_that_forgets_the_solution(case, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ problem }}\n\nThink well.\n\n{{ instruction }}")
    found = examine_only(case(f"algorithm.egrsd.teacher.template={tmp_path}/mine.jinja"), "config")
    assert "it does not print {{ solution }}, which algorithm.egrsd.privilege=solution shows" in said(found, RED)
    (tmp_path / "solution.jinja").write_text("{{ problem }}\n\n{{ solution }}\n\n{{ instruction }}")
    template = f"algorithm.egrsd.teacher.template={tmp_path}/solution.jinja"
    found = examine_only(case(template, algorithm="op2sd"), "config")
    assert "it does not print {{ other_problem }}, which algorithm.egrsd.privilege=other_problem" in said(found, RED)


SAYS = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    right = ground_truth in solution_str
    return {"score": float(right), "feedback": FEEDBACK}
"""


@pytest.mark.parametrize(
    ("feedback", "level", "expected"),
    [
        (
            "None if right else f'not {ground_truth}'",
            GREEN,
            "of an empty response 'not {truth}'; of a wrong answer 'not {truth}'; of a right one nothing; a",
        ),
        ("None", YELLOW, "of an empty response nothing; of a wrong answer nothing; of a right one nothing"),
        ("right", RED, "the reward function returned 'feedback' of type bool for row 0, an empty response"),
    ],
)
def test_what_the_reward_function_says_is_shown(feedback, level, expected, case, tmp_path):
    """To rows without solutions, which need none here."""
    (tmp_path / "says.py").write_text(SAYS.replace("FEEDBACK", feedback))

    def unsolved(_, row):
        del row["extra_info"]["solution"]

    path = write_rows(tmp_path / "rows.parquet", change=unsolved)
    words = ["algorithm.egrsd.privilege=feedback", f"reward.custom_reward_function.path={tmp_path}/says.py"]
    words += ["algorithm.egrsd.teacher.template=null", "algorithm.egrsd.teacher.max_prompt_length=450"]
    found = examine_only(case(*words, f"data.train_files={path}"), "answer checker")
    truth = pq.read_table(path)["reward_model"][0].as_py()["ground_truth"]
    assert expected.replace("{truth}", truth) in said(found, level)
    assert not said(found, RED) or level is RED
    assert "solutions are accepted" not in said(found, GREEN)


def test_a_template_that_adds_nothing(case, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ problem }}\n\n{{ instruction }}")
    overrides = [
        f"algorithm.egrsd.teacher.template={tmp_path}/mine.jinja",
        "algorithm.egrsd.teacher.enable_thinking=false",
    ]
    assert "16 teacher prompts are the student's" in said(examine_only(case(*overrides), "rows"), RED)
    none = examine_only(case(*overrides, "algorithm.egrsd.privilege=none"), "rows")
    assert not said(none, RED)  # the null test is meant


def wrong(every: int, key: str, value: str):
    """Breaks every n-th row's solution or ground truth."""

    def change(index: int, row: dict) -> None:
        if index % every == 0:
            row["extra_info" if key == "solution" else "reward_model"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "level", "reason"),
    [
        (wrong(5, "solution", r"\boxed{-1}"), YELLOW, "12 of the first 16 solutions are accepted"),
        (wrong(1, "solution", "It is so."), RED, "0 of the first 16 solutions are accepted"),
        (wrong(8, "ground_truth", " "), YELLOW, "2 of 16 ground truths are refused even against themselves"),
        (wrong(8, "ground_truth", "5 4.6"), YELLOW, "2 of 16 ground truths are refused even against themselves or unr"),
        (wrong(1, "ground_truth", " "), RED, "16 of 16 ground truths are refused even against themselves"),
    ],
)
def test_answer_checker(case, tmp_path, change, level, reason):
    path = write_rows(tmp_path / "rows.parquet", change=change)
    found = said(list(checks.answers(case(f"data.train_files={path}", rows=True))), level)
    assert reason in found and "row 0: " in found and found.count("row ") <= checks.SHOWN + 1


def test_the_students_prompt_is_verls(case):
    """The ids that verl's own agent loop sends to vLLM."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    built = case(rows=True)
    tokenizer = AutoTokenizer.from_pretrained(built.config.actor_rollout_ref.model.path)
    builder = create_continuous_token_builder(
        tokenizer, hf_model_type="qwen3", chat_template_kwargs={"enable_thinking": False}
    )
    assert built.student_ids == [builder.build_initial_tokens(row["raw_prompt"]) for row in built.rows]


def test_files_that_the_run_would_refuse(case, tmp_path):
    """By the run's own check of files, which sees what is in them before rows are read."""
    bare = write_rows(tmp_path / "bare.parquet", change=lambda index, row: row.pop("data_source"))
    assert f"data.train_files={bare} has no data_source" in said(
        examine_only(case(f"data.train_files={bare}"), "files"), RED
    )
    (tmp_path / "tools.yaml").write_text("tools: []")
    tools = f"data.tool_config_path={tmp_path}/tools.yaml"
    assert "are told to the teacher alone" in said(examine_only(case(tools), "files"), RED)
    assert "nowhere.parquet is not here" in said(examine_only(case("data.val_files=nowhere.parquet"), "files"), RED)
    assert said(examine_only(case(), "files"), GREEN)
