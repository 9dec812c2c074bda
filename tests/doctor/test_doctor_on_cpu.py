"""The doctor as a whole: its report on a good run, its command, and what cannot be looked at."""

import json
import shutil
import subprocess
import sys

import pytest
from findings import RED, YELLOW, examine_only, said
from runs import ROOT

from recipe.egrsd.doctor.__main__ import CHECKS, WORDS, examine, main


def test_a_good_run_has_nothing_red(given, capsys):
    assert main(given()) == 0
    screen = capsys.readouterr().out
    for check in CHECKS:
        assert check.title in screen
    assert WORDS[RED] not in screen.replace(f"0 {WORDS[RED]}", "")
    assert "student, row 0" in screen and "teacher, row 0" in screen
    assert "Now solve it yourself." in screen  # the teacher's template, rendered
    assert "16 rows to train on, 2 of them a step; 4 to validate" in screen
    assert "16 of the first 16 solutions are accepted" in screen
    assert len(screen.splitlines()) < 110  # at the 80 columns of a test; about 45 at 170


def test_the_command_of_a_user(given):
    """As it is typed, in a process of its own: exit code 1 and the refusal of main_ppo, without a traceback."""
    words = [sys.executable, "-m", "recipe.egrsd.doctor", *given("algorithm.egrsd.gamma=-0.1")]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 1
    assert "STOP config" in result.stdout and "algorithm.egrsd.gamma=-0.1" in result.stdout
    assert "Traceback" not in result.stderr
    assert "[validate_config]" not in result.stdout  # verl's own prints are not the report


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["algorithm=cl_egrsd", "algorithm.egrsd.gama=1"], "Could not override 'algorithm.egrsd.gama'"),
        (["algorithm=egsrd"], "Could not find 'algorithm/egsrd'"),
        (["algorithm=egrsd", "data.seed=${nowhere}"], "nowhere"),
    ],
)
def test_what_hydra_refuses(overrides, reason, capsys):
    assert main(overrides) == 1
    screen = " ".join(capsys.readouterr().out.split())
    assert "main_ppo refuses these overrides" in screen and reason in screen


def test_rows_are_shown_whole_when_asked_for(given, capsys):
    assert main([*given(), "--rows", "2"]) == 0
    screen = capsys.readouterr().out
    assert "student, row 1" in screen and "characters, shown by --rows" not in screen


def test_a_model_that_is_not_there_leaves_the_rest_unlooked_at(case):
    findings = examine(case("actor_rollout_ref.model.path=/nowhere/model"))
    named = "actor_rollout_ref.model.path=/nowhere/model is no folder here, and cannot be a name on the hub"
    assert named in said(findings["model"], RED)
    for title, needed in (
        ("rows", "model"),
        ("think boundary", "rows"),
        ("answer checker", "rows"),
        ("memory", "model"),
    ):
        assert said(findings[title], YELLOW) == f"not looked at: it needs '{needed}'"


def test_a_weight_that_no_message_can_hold_stops_the_doctor_as_the_run(case, tmp_path, inputs):
    """A vocabulary of 151,936 of 64 float32 numbers each is 37.1 MiB."""
    model = tmp_path / "wide"
    shutil.copytree(inputs / "model", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 151_936, "hidden_size": 64}))
    limit = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=37"
    built = case(f"actor_rollout_ref.model.path={model}", limit)
    built.config.trainer.device = "cpu"
    assert f"{limit} cannot hold the largest weight" in said(examine_only(built, "model"), RED)
