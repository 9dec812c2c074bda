"""The tiny tasks, train.sh for every preset, and what compare.py makes of its runs."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import permutations
from pathlib import Path
from statistics import mean

import matplotlib
import pytest
from composing import COMPOSE
from hydra.core.override_parser.overrides_parser import OverridesParser
from made_up_runs import write_run
from omegaconf import OmegaConf
from pretended import pretend
from runs import ROOT

import recipe.egrsd.config.resolvers  # noqa: F401  what the CPU's config asks for
from examples.tiny_cpu import compare, demo
from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.forks import CONNECTIVES, LEAN, LETTERS, Forks, order_of
from examples.tiny_cpu.paired import comparison_table, difference_of, mean_of
from examples.tiny_cpu.picture import draw_comparison
from examples.tiny_cpu.positions import kinds_of
from examples.tiny_cpu.task import SPLITS, TASKS, make_problems, reference_solution, verl_row
from examples.tiny_cpu.training import ALGORITHMS, TRAIN_SCRIPT
from examples.training import steps_of
from recipe.egrsd.config.validation import validate
from recipe.egrsd.reward import compute_score

# ---------------------------------------------------------------- tasks


def test_the_additions_of_the_documented_runs_are_still_the_same():
    rng, text = random.Random(0), ""
    for index, problem in enumerate(make_problems("train", 50, seed=0)):
        text += json.dumps([verl_row(problem, index), problem.student(rng), problem.teacher(rng)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "9cff575669dfdf1f"


@pytest.fixture(scope="module", params=TASKS)
def problems(request):
    return make_problems("train", 200, seed=0, task=request.param)


def right(problem, text: str) -> float:
    return compute_score(problem.data_source, text, problem.answer)["score"]


def test_references_and_teachers_are_right_by_the_reward(problems):
    rng = random.Random(0)
    assert all(
        right(problem, reference_solution(problem)) and right(problem, problem.teacher(rng)) for problem in problems
    )


def test_students_are_right_about_half_of_the_time_and_wordier(problems):
    rng = random.Random(0)
    texts = [problem.student(rng) for problem in problems]
    assert 0.3 < mean(right(*pair) for pair in zip(problems, texts, strict=True)) < 0.7
    assert mean(map(len, texts)) > 1.1 * mean(len(reference_solution(problem)) for problem in problems)


def test_no_text_is_too_long_for_the_run(problems):
    tokenizer = tiny.build_tokenizer(0, next(name for name, kind in TASKS.items() if isinstance(problems[0], kind)))
    for problem in problems:
        longest = problem.solve(random.Random(0), check=1.0) + tiny.END_OF_TURN
        assert len(tokenizer.encode(longest)) <= problem.MAX_RESPONSE
        assert len(tiny.student_prompt(tokenizer, problem)) <= problem.MAX_PROMPT
        assert len(tiny.teacher_prompt(tokenizer, problem)) <= problem.MAX_TEACHER_PROMPT


@pytest.mark.parametrize("task", TASKS)
def test_no_problem_is_in_two_splits_whatever_the_seed(task):
    keys = {
        split: {TASKS[task].key(p.numbers) for seed in (0, 1) for p in make_problems(split, 300, seed=seed, task=task)}
        for split in SPLITS
    }
    assert all(not keys[a] & keys[b] for a in SPLITS for b in SPLITS if a < b)


# ---------------------------------------------------------------- forks


def test_every_order_is_right_and_has_the_same_carries():
    problem = make_problems("train", 1, seed=0, task="forks")[0]
    for plan in list(permutations(problem.numbers))[::997]:
        shuffled = Forks(plan, problem.wording)
        assert right(problem, shuffled.solve(random.Random(0)))
        assert sum(sum(plan[:i]) % 10 + plan[i] >= 10 for i in range(1, len(plan))) == sum(plan) // 10


def test_a_teacher_leans_to_the_order_it_has_seen_and_a_student_does_not():
    """The first letter is the reference's with probability LEAN + (1 - LEAN) / 8, and 1 / 8 without having seen it."""
    rng, problems = random.Random(0), make_problems("train", 1500, seed=0, task="forks")
    for role, expected in (("teacher", LEAN + (1 - LEAN) / len(LETTERS)), ("student", 1 / len(LETTERS))):
        same = mean(
            order_of(getattr(problem, role)(rng))[0] == order_of(reference_solution(problem))[0] for problem in problems
        )
        assert abs(same - expected) < 4 * (expected * (1 - expected) / 1500) ** 0.5


def test_forks_pivots_and_locks_are_told_apart():
    tokenizer = tiny.build_tokenizer(0, "forks")
    for problem in make_problems("train", 20, seed=0, task="forks"):
        tokens = tokenizer.encode(problem.student(random.Random(1)) + tiny.END_OF_TURN)
        kinds = kinds_of(tokenizer, tokens, problem.CHOICES)
        words = {
            kind: [tokenizer.decode([token]) for token, k in zip(tokens, kinds, strict=True) if k == kind]
            for kind in kinds
        }
        lines = tokenizer.decode(tokens).split("\n")
        assert len(words["fork"]) == len(LETTERS) - 1 and {word.strip() for word in words["fork"]} < set(LETTERS)
        assert len(words["pivot"]) == len(lines) - 2 and set(words["pivot"]) <= {*CONNECTIVES, "Check"}


def test_a_broken_plan_has_no_more_forks_than_letters():
    tokenizer = tiny.build_tokenizer(0, "forks")
    kinds = kinds_of(tokenizer, tokenizer.encode("Plan: A B\nThen, A C7: 9. Plan: A B"), Forks.CHOICES)
    assert Counter(kinds)["fork"] == 2 and Counter(kinds)["pivot"] == 1


# ---------------------------------------------------------------- train.sh


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """(train.sh, algorithm) -> the words that it starts verl with."""
    python = tmp_path_factory.mktemp("examples") / "python"  # runs a file, and writes down what it starts as a module
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] || exec \'{sys.executable}\' "$@"\nprintf \'%s\\0\' "$@"\n')
    python.chmod(0o755)
    settings = {"MODEL": "model", "DATA": "data", "OUTPUT": "output", "PYTHON": str(python)}

    def start(script: Path, algorithm: str) -> list[str]:
        environment = {**os.environ, **settings, "ALGORITHM": algorithm}
        recorded = subprocess.check_output(["bash", str(script)], env=environment, text=True).split("\0")
        assert recorded[:2] == ["-m", "verl.trainer.main_ppo"]
        return recorded[2:-1]

    return start


@pytest.fixture(scope="module")
def composed(words) -> dict:
    """What verl would be given, by algorithm."""
    cases = {name: ("ppo_trainer", words(TRAIN_SCRIPT, name)) for name in ALGORITHMS}
    process = subprocess.run(
        [sys.executable, "-c", COMPOSE], env={**os.environ, "VERL_PLATFORM": "cpu"}, input=json.dumps(cases),
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    configs = json.loads(process.stdout)
    return {name: OmegaConf.create(configs[name]) for name in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_gets_the_same_rollouts_and_optimiser(composed, algorithm):
    config, demo = composed[algorithm], composed["cl_egrsd"]
    validate(config)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert config.data.train_batch_size * rollout.n == 32
    assert actor.ppo_mini_batch_size == config.data.train_batch_size and actor.ppo_epochs == 1
    assert actor.optim == demo.actor_rollout_ref.actor.optim
    assert (rollout.temperature, rollout.seed) == (demo.actor_rollout_ref.rollout.temperature, 0)
    assert os.path.exists(config.algorithm.egrsd.teacher.template)


def test_the_demo_is_the_run_that_is_documented(composed):
    config = composed["cl_egrsd"]
    assert (config.data.train_batch_size, config.actor_rollout_ref.rollout.n) == (32, 1)
    assert (config.algorithm.egrsd.gamma, config.algorithm.egrsd.window) == (0.3, 3)


def test_grpo_has_no_trace_of_a_teacher(composed):
    egrsd = composed["grpo"].algorithm.egrsd
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


# ---------------------------------------------------------------- compare


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
