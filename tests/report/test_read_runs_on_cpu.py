"""What the report reads of a run's folder: checkpoints and which of them it may choose, evaluations, metrics; what is
broken or missing."""

import json
from pathlib import Path

import pytest
from made_up_runs import write_evaluation, write_metrics, write_tokens

from recipe.egrsd.report import page
from recipe.egrsd.report.__main__ import main
from recipe.egrsd.report.runs import Estimate, named, read_run


def test_the_checkpoint_is_chosen_by_validation_or_age_never_by_benchmark(folders):
    run = read_run(folders[0], "run")
    chosen = run.chosen()
    assert {rule: e.step for rule, e in chosen.items()} == {"last": 30, "validation": 20}  # 20 and 30 validate alike
    assert run.validation == {10: 0.4, 20: 0.6, 30: 0.6}
    assert {row["evaluation"].step for row in page._evaluations([run])} == {None, 20, 30}


def test_without_validation_the_last_one_is_the_only_choice(tmp_path):
    write_evaluation(tmp_path / "100", 100, 0.5, 9000.0)
    write_evaluation(tmp_path / "25", 25, 0.9, 9000.0)
    assert {rule: e.step for rule, e in read_run(tmp_path, "run").chosen().items()} == {"last": 100}


def test_evaluations_of_either_form(tmp_path):
    benchmarks = {"a": {"avg": 0.5, "se": 0.3, "tokens_mean": 10}, "b": {"avg": 1.0, "se": 0.4, "tokens_mean": 30.0}}
    folder = tmp_path / "global_step_7"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"benchmarks": benchmarks}))
    (evaluation,) = read_run(tmp_path, "run").evaluations
    assert (evaluation.step, evaluation.accuracy, evaluation.tokens) == (7, Estimate(0.75, 0.25), Estimate(20.0, None))


def test_the_step_of_an_adapter_is_that_of_its_checkpoint(tmp_path):
    """Its model is the untrained one if it was named with --base."""
    write_evaluation(tmp_path / "evaluated", None, 0.5, 9000.0)
    path = tmp_path / "evaluated" / "results.json"
    adapter = "run/checkpoints/global_step_75/actor/merged/lora_adapter"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"adapter": adapter}))
    assert list(read_run(tmp_path, "run").checkpoints) == [75]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"benchmarks": {}}', '{"benchmarks": {"a": {"avg": "high", "tokens_mean": 1}}}']
)
def test_a_broken_evaluation_is_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is no evaluation: .*; move it away or evaluate again"):
        read_run(tmp_path, "run")


def test_two_of_a_kind_are_refused(tmp_path):
    write_evaluation(tmp_path / "a", 25, 0.5, 9000.0)
    write_evaluation(tmp_path / "b", 25, 0.9, 9000.0)
    with pytest.raises(ValueError, match=r"a/results\.json and .*b/results\.json both evaluate step 25; move one"):
        read_run(tmp_path, "run")
    write_tokens(tmp_path / "c" / "one", 1)
    write_tokens(tmp_path / "c" / "two", 1)
    with pytest.raises(ValueError, match="holds the tokens of several runs"):
        read_run(tmp_path / "c", "run")


def test_a_torn_line_is_said_and_the_rest_is_read(tmp_path):
    write_metrics(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 31, "da')
    run = read_run(tmp_path, "run")
    assert len(run.metrics) == 30 and run.remarks == ["metrics.jsonl: line(s) [31] are no metrics and were left out"]


def test_a_later_file_wins(tmp_path):
    (tmp_path / "metrics").mkdir()
    for number, values in enumerate(({1: 0.1, 2: 0.2}, {2: 0.5, 3: None})):
        lines = [json.dumps({"step": step, "data": {"egrsd/gate_mean": value}}) for step, value in values.items()]
        (tmp_path / "metrics" / f"{number:03d}.jsonl").write_text("\n".join(lines))
    assert read_run(tmp_path, "run").metrics == {1: {"egrsd/gate_mean": 0.1}, 2: {"egrsd/gate_mean": 0.5}, 3: {}}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="holds no metrics"):
        main([str(tmp_path)])
    with pytest.raises(SystemExit, match="is not a folder"):
        main([str(tmp_path / "nowhere")])


def test_parts_may_be_missing(tmp_path):
    write_metrics(tmp_path / "metrics_only")
    write_tokens(tmp_path / "tokens_only", 1, window=0)
    write_evaluation(tmp_path / "evaluation_only", None, 0.6, 9000.0, se=None)
    for folder in list(tmp_path.iterdir()):
        main([str(folder), "--out", str(tmp_path / f"{folder.name}.html")])
        assert "</html>" in (tmp_path / f"{folder.name}.html").read_text()


def test_equal_names_are_told_apart():
    names = [name for _, name in named([Path("/a/run"), Path("/b/run"), Path("/c")])]
    assert names == ["/a/run", "/b/run", "c"]
