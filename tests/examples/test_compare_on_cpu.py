"""compare.py and what it makes of its runs: paired differences, the table, the picture, only what is missing."""

import json
import os
import subprocess
import sys
from functools import partial

import matplotlib
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pretended import pretend
from runs import ROOT

from examples.tiny_cpu import compare
from examples.tiny_cpu.paired import comparison_table, difference_of, mean_of
from examples.tiny_cpu.picture import draw_comparison
from examples.training import steps_of


def runs_of(**accuracies: list[float]) -> dict:
    return {method: {str(seed): {"accuracy": value, "length": 80.0 + value} for seed, value in enumerate(values)}
            for method, values in accuracies.items()}  # fmt: skip


def test_paired_difference_of_hand_values():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653, so 2 ± 2.484137."""
    runs = runs_of(egrsd=[11.0, 22.0, 33.0], egrsd_ungated=[10.0, 20.0, 30.0])
    found = difference_of(runs, "egrsd", "accuracy")
    assert (found.value, found.each) == (2.0, [1.0, 2.0, 3.0])
    assert found.low == pytest.approx(2 - 2.484137, abs=1e-5) and found.high == pytest.approx(2 + 2.484137, abs=1e-5)
    assert mean_of(runs, "egrsd", "accuracy").error == pytest.approx(11 / 3**0.5)


def test_only_common_seeds_are_paired_and_one_seed_has_no_error():
    runs = runs_of(egrsd=[1.0, 2.0], egrsd_ungated=[1.0], start=[0.5])
    assert difference_of(runs, "egrsd", "accuracy") is None
    assert mean_of(runs, "egrsd_ungated", "accuracy").error is None
    assert "100.0" in comparison_table(runs)


def test_the_picture_is_drawn_whatever_is_there_yet(tmp_path):
    whole = runs_of(start=[0.5, 0.6], egrsd=[0.6, 0.9], egrsd_ungated=[0.7, 0.8])
    for name, runs in {"start": runs_of(start=[0.5]), "whole": whole}.items():
        draw_comparison(runs, tmp_path / f"{name}.png", title="forks")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_the_picture_has_every_method_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text stays text
    methods = ["start", "egrsd_ungated", *(f"egrsd,gamma=0.{number}" for number in range(1, 11))]
    draw_comparison(runs_of(**{method: [0.5, 0.6] for method in methods}), tmp_path / "many.svg", title="forks")
    drawn = (tmp_path / "many.svg").read_text()
    assert [method for method in methods if f">{method}<" not in drawn] == []


def test_a_method_is_a_preset_with_settings():
    overrides = ["algorithm.egrsd.gamma=1.0", "algorithm.egrsd.window=5"]
    assert compare.parse_method("egrsd,gamma=1.0,window=5") == ("egrsd", overrides)
    with pytest.raises(ValueError, match="egsrd is no preset"):
        compare.parse_method("egsrd")


def test_the_folder_of_a_method_can_stand_in_an_override_of_hydra():
    folder = compare.folder_name("egrsd,gamma=1.0,window=5")
    assert folder == "egrsd_gamma_1.0_window_5"
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir=outputs/{folder}/hydra"])
    assert override.value() == f"outputs/{folder}/hydra"


def test_a_second_start_does_only_what_is_missing(tmp_path):
    results, run = compare.Results(tmp_path / "results.json", {"steps": 2}), partial(pretend, tmp_path)
    failures = compare.do_missing(run, results, ["egrsd", "rlsd"], [0], jobs=2)
    assert failures == ["rlsd, seed 0: Ray is gone"]
    again = compare.Results(tmp_path / "results.json", {"steps": 2})
    assert again.missing(["egrsd", "rlsd"], [0, 1]) == [("rlsd", 0), ("egrsd", 1), ("rlsd", 1)]
    assert compare.do_missing(run, again, ["egrsd"], [0, 1], jobs=1) == []
    assert (tmp_path / "egrsd-0").read_text() == (tmp_path / "egrsd-1").read_text() == "x"
    with pytest.raises(ValueError, match="name another --folder"):
        compare.Results(tmp_path / "results.json", {"steps": 3})


def test_the_validation_of_a_resumed_run_does_not_hide_the_step_it_starts_from(tmp_path):
    """verl validates when it starts, resumed or not, and logs that under the step of the checkpoint."""
    lines = {"1.jsonl": ["train/a", 1], "2.jsonl": ["val-core/acc", 1], "3.jsonl": ["train/a", 2]}
    for name, (key, value) in lines.items():
        (tmp_path / name).write_text(json.dumps({"step": 1, "data": {key: value}}))
    assert steps_of(tmp_path) == {1: {"train/a": 2, "val-core/acc": 1}}


def test_metrics_of_a_killed_and_resumed_run(tmp_path):
    (tmp_path / "000.jsonl").write_text('{"step": 1, "data": {"a": 1}}\n{"step": 2, "data": {"a": 2}}\n{"step": 3, "da')
    (tmp_path / "001.jsonl").write_text('{"step": 2, "data": {"a": 5}}\n')
    assert steps_of(tmp_path) == {1: {"a": 1}, 2: {"a": 5}}


def test_compare_sh_hands_everything_on():
    help_text = subprocess.run(
        ["bash", str(ROOT / "examples/tiny_cpu/compare.sh"), "--help"], env={**os.environ, "PYTHON": sys.executable},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "results.json" in help_text
