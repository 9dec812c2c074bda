"""train.sh, which the demos run, for every preset; what the demo saves, and how it ends."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from composing import COMPOSE
from hydra.core.override_parser.overrides_parser import OverridesParser
from made_up_runs import write_run
from omegaconf import OmegaConf
from runs import ROOT

import recipe.egrsd.config.resolvers  # noqa: F401  what the CPU's config asks for
from examples.tiny_cpu import demo
from examples.tiny_cpu.task import TASKS
from examples.tiny_cpu.training import ALGORITHMS, TRAIN_SCRIPT, tiny_training
from examples.training import Training
from recipe.egrsd.config.validation import validate

# ---------------------------------------------------------------- train.sh


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """(train.sh, algorithm, what else it reads) -> the words that it starts verl with."""
    python = tmp_path_factory.mktemp("examples") / "python"  # runs a file, and writes down what it starts as a module
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] || exec \'{sys.executable}\' "$@"\nprintf \'%s\\0\' "$@"\n')
    python.chmod(0o755)
    settings = {"MODEL": "model", "DATA": "data", "OUTPUT": "output", "PYTHON": str(python)}

    def start(script: Path, algorithm: str, **variables: str) -> list[str]:
        environment = {**os.environ, **settings, "ALGORITHM": algorithm, **variables}
        recorded = subprocess.check_output(["bash", str(script)], env=environment, text=True).split("\0")
        assert recorded[:2] == ["-m", "verl.trainer.main_ppo"]
        return recorded[2:-1]

    return start


@pytest.fixture(scope="module")
def composed(words) -> dict:
    """What verl would be given, by task and algorithm."""
    cases = {}
    for task, name in product(TASKS, ALGORITHMS):
        run = tiny_training(*map(Path, "rmd"), task=task, algorithm=name, seed=0, steps=1)
        cases[f"{task} {name}"] = ("ppo_trainer", words(run.script, name, **run.variables))
    process = subprocess.run(
        [sys.executable, "-c", COMPOSE], env={**os.environ, "VERL_PLATFORM": "cpu"}, input=json.dumps(cases),
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    configs = json.loads(process.stdout)
    return {name: OmegaConf.create(config) for name, config in configs.items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("task", TASKS)
def test_every_algorithm_gets_the_same_rollouts_and_optimiser(composed, task, algorithm):
    config, demo = composed[f"{task} {algorithm}"], composed[f"{task} cl_egrsd"]
    validate(config)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert config.data.train_batch_size * rollout.n == 32
    assert actor.ppo_mini_batch_size == config.data.train_batch_size and actor.ppo_epochs == 1
    assert actor.optim == demo.actor_rollout_ref.actor.optim
    assert (rollout.temperature, rollout.seed) == (demo.actor_rollout_ref.rollout.temperature, 0)
    assert os.path.exists(config.algorithm.egrsd.teacher.template)


def test_the_demo_is_the_run_that_is_documented(composed):
    config = composed["addition cl_egrsd"]
    assert (config.data.train_batch_size, config.actor_rollout_ref.rollout.n) == (32, 1)
    assert (config.algorithm.egrsd.gamma, config.algorithm.egrsd.window) == (0.3, 3)


def test_grpo_has_no_trace_of_a_teacher(composed):
    egrsd = composed["addition grpo"].algorithm.egrsd
    assert (egrsd.gamma, egrsd.clip_range, egrsd.length_bonus, egrsd.advantage) == (0, 0, 0, "grpo")


@pytest.mark.parametrize(("preset", "problems"), [("of_groups", 8), ("built_on_it", 8), ("egrsd", 32)])
@pytest.mark.parametrize("script", ["tiny_cpu/train.sh", "smollm2/train.sh"])
def test_the_preset_says_how_many_rollouts_a_problem_has(words, tmp_path, script, preset, problems):
    """One of your own, too: 32 rollouts of a step are 8 problems with 4 each."""
    for folder in ("examples", "recipe/egrsd/config/algorithm"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    own = {"of_groups": "egrsd, _self_]\nactor_rollout_ref: {rollout: {n: 4}}\n", "built_on_it": "of_groups]\n"}
    for name, text in own.items():
        path = tmp_path / "recipe/egrsd/config/algorithm" / f"{name}.yaml"
        path.write_text(f"# @package _global_\ndefaults: [{text}")
    given = dict(word.split("=", 1) for word in words(tmp_path / "examples" / script, preset))
    sizes = {given["data.train_batch_size"], given["actor_rollout_ref.actor.ppo_mini_batch_size"]}
    assert (given["algorithm"], sizes) == (preset, {str(problems)})
    assert "actor_rollout_ref.rollout.n" not in given


@pytest.mark.parametrize("script", [TRAIN_SCRIPT, TRAIN_SCRIPT.parents[1] / "smollm2" / "train.sh"])
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ALGORITHM": "egsrd"}, "ALGORITHM=egsrd is no preset; choose from ['cl_egrsd', "),
        (
            {"ALGORITHM": "rlsd", "BATCH": "20"},
            "BATCH=20 rollouts are no whole groups of 8, which ALGORITHM=rlsd needs",
        ),
    ],
)
def test_what_cannot_be_a_batch_is_named(script, variables, said):
    given = {"MODEL": "m", "DATA": "d", "OUTPUT": "o", "PYTHON": sys.executable}
    process = subprocess.run(
        ["bash", str(script)], env={**os.environ, **given, **variables}, capture_output=True, text=True
    )
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr.startswith(said) and process.stderr.count("\n") == 1


def test_verls_grpo_has_whole_groups_too():
    given = {"MODEL": "m", "DATA": "d", "OUTPUT": "o", "PYTHON": "false", "ALGORITHM": "grpo", "BATCH": "20"}
    process = subprocess.run(["bash", str(TRAIN_SCRIPT)], env={**os.environ, **given}, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr == "BATCH=20 rollouts are no whole groups of 8, which ALGORITHM=grpo needs; use a multiple.\n"


def test_the_shells_batch_and_lr_are_not_the_demos(words, monkeypatch):
    """run_qwen3_fsdp.sh reads the same names. A run's own count."""
    monkeypatch.setenv("BATCH", "8")
    monkeypatch.setenv("LR", "1e-6")
    run = tiny_training(*map(Path, "rmd"), task="addition", algorithm="egrsd", seed=0, steps=1)
    for script, lr in ((TRAIN_SCRIPT, "2e-4"), (TRAIN_SCRIPT.parents[1] / "smollm2" / "train.sh", "2e-5")):
        given = dict(word.split("=", 1) for word in words(script, "egrsd", **shell_of(run)))
        assert (given["data.train_batch_size"], given["actor_rollout_ref.actor.optim.lr"]) == ("32", lr)
    own = replace(run, variables={"BATCH": "16", "LR": "1e-5"})
    given = dict(word.split("=", 1) for word in words(TRAIN_SCRIPT, "egrsd", **shell_of(own)))
    assert (given["data.train_batch_size"], given["actor_rollout_ref.actor.optim.lr"]) == ("16", "1e-5")


def shell_of(run: Training) -> dict[str, str]:
    return {name: value for name, value in run.environment().items() if name not in ("PYTHON", "ALGORITHM")}


# ---------------------------------------------------------------- demo

SETTINGS = {"task": "addition", "algorithm": "cl_egrsd", "seed": 0, "steps": 30, "num_problems": 500}


def test_the_demo_saves_tokens(tmp_path):
    """Of the first and the last step and some between, by the key that a user would set."""
    training = demo.Demo(tmp_path, **SETTINGS).training
    (override,) = OverridesParser.create().parse_overrides(training.overrides)
    assert override.key_or_group == "algorithm.egrsd.save_tokens_every"
    assert 40 % override.value() == 0


def test_the_demo_ends_by_naming_its_report(tmp_path, capsys):
    write_run(tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics.jsonl").rename(tmp_path / "metrics" / "000.jsonl")
    shares = {"accuracy_before": 0.5, "accuracy_after": 0.8, "greedy_before": 0.3, "greedy_after": 0.9}
    gain = {"accuracy_difference": 0.3, "accuracy_difference_se": 0.02, "length_before": 60.0, "length_after": 50.0}
    demo.Demo(tmp_path, **SETTINGS).finish(SETTINGS | {"title": "a demo"} | shares | gain)
    *_, last = capsys.readouterr().out.split()
    assert last == str(tmp_path / "report.html")
    assert 'id="tokens"' in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy_after"] == 0.8
    assert (tmp_path / "training.png").stat().st_size > 10_000
