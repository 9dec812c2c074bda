"""What an evaluation says: the figures of a benchmark, and two runs compared problem by problem."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import SETTINGS, fill

from recipe.egrsd.evaluate import Refused, comparison, run, summary
from recipe.egrsd.evaluate import __main__ as command
from recipe.egrsd.evaluate.responses import Recorder


def answer(value: object) -> str:
    return rf"\boxed{{{value}}}"


def test_the_figures_of_a_benchmark(tmp_path, tokenizer, problems):
    right = [answer(problem.ground_truth) for problem in problems]
    texts = {
        "0": [right[0]] * 4,
        "1": [*right[1:2] * 2, answer(1), answer(2)],
        "2": [answer(1)] * 3 + [right[2]],
        "3": [""] * 4,
    }
    recorder = Recorder(tokenizer, thinking=True)
    fill(tmp_path, recorder, problems, texts)
    results = json.loads((tmp_path / "results.json").read_text())
    figures = results["benchmarks"]["tiny_addition"]
    assert (figures["problems"], figures["samples"]) == (4, 4)
    assert figures["accuracy"]["value"] == (4 + 2 + 1 + 0) / 16
    assert figures["pass_at"]["1"]["value"] == pytest.approx(figures["accuracy"]["value"])
    assert figures["pass_at"]["2"]["value"] == pytest.approx((1 + 5 / 6 + 1 / 2 + 0) / 4)
    assert figures["pass_at"]["4"]["value"] == 3 / 4
    assert figures["majority"]["value"] == (1 + 1 + 0 + 0) / 4
    assert (figures["truncated"]["value"], figures["no_answer"]) == (1 / 4, 1 / 4)
    lengths = sorted(len(tokenizer.encode(text)) for own in texts.values() for text in own)
    assert figures["tokens_mean"]["value"] == pytest.approx(sum(lengths) / 16)
    assert figures["tokens_median"] == pytest.approx((lengths[7] + lengths[8]) / 2)
    assert lengths[13] <= figures["tokens_p90"] <= lengths[14]
    assert results["macro"]["accuracy"]["value"] == figures["accuracy"]["value"]
    printed = summary.table(results).splitlines()
    assert printed[1].split()[:7] == ["tiny_addition", "4", "4", "43.8", "±", "21.3", "(±"]
    assert printed[2].startswith("mean")


def test_figures_are_about_the_samples_asked_for_though_the_folder_holds_more(tmp_path, tokenizer, problems):
    texts = {str(i): [answer(problem.ground_truth), answer(0)] for i, problem in enumerate(problems)}
    fill(tmp_path, Recorder(tokenizer, thinking=True), problems, texts)
    benchmarks = run.conclude(tmp_path, problems[:3], {"tiny_addition": 1}, SETTINGS)["benchmarks"]
    assert benchmarks["tiny_addition"]["accuracy"] == {"value": 1.0, "se": 0.0, "se_sampling": None}


@pytest.fixture
def two_runs(tmp_path, tokenizer, problems) -> tuple[Path, Path]:
    recorder = Recorder(tokenizer, thinking=True)
    right = {problem.index: answer(problem.ground_truth) for problem in problems}
    before = {index: [answer(0), text] for index, text in right.items()}
    after = {**{index: [text, text] for index, text in right.items()}, "3": [answer(0), answer(0)]}
    fill(tmp_path / "before", recorder, problems, before)
    fill(tmp_path / "after", recorder, problems, after, temperature=0.6)
    return tmp_path / "before", tmp_path / "after"


def test_two_runs_are_compared_problem_by_problem(two_runs):
    result = comparison.compare(*two_runs)
    accuracy = result["benchmarks"]["tiny_addition"]["accuracy"]
    assert accuracy["value"] == (0.5 + 0.5 + 0.5 - 0.5) / 4
    assert accuracy["se"] == pytest.approx(0.25)
    assert accuracy["p_value"] == pytest.approx(0.391, abs=1e-3)  # t = 1 with 3 degrees of freedom
    assert result["macro"]["accuracy"]["value"] == accuracy["value"]
    assert result["settings"] == {"temperature": (1.0, 0.6)}


def test_compare_on_the_command_line(two_runs, tmp_path, capsys):
    before, after = map(str, two_runs)
    command.main(["compare", before, after, "--json", str(tmp_path / "difference.json")])
    printed = capsys.readouterr().out
    assert "+25.0 ± 25.0" in printed
    assert "temperature: 1.0 before, 0.6 after" in printed
    assert json.loads((tmp_path / "difference.json").read_text())["macro"]["accuracy"]["value"] == 0.25


def test_runs_on_other_problems_are_not_compared(two_runs, tmp_path, tokenizer, problems):
    recorder, before = Recorder(tokenizer, thinking=True), two_runs[0]
    texts = {problem.index: [answer(0)] for problem in problems}
    fill(tmp_path / "fewer", recorder, problems[:2], texts)
    fill(tmp_path / "changed", recorder, [*problems[:3], replace(problems[3], ground_truth="1")], texts)
    fill(tmp_path / "other", recorder, [replace(problem, benchmark="other") for problem in problems], texts)
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("fewer", r"tiny_addition: 2 of 4 problems are missing in one run or have another text there \(index 2, 3\)"),
        ("changed", r"1 of 4 problems .* \(index 3\)"),
        ("other", "no benchmark in common"),
        ("empty", "nothing was evaluated there, or not to its end"),
    ):
        with pytest.raises(Refused, match=message):
            comparison.compare(before, tmp_path / folder)
