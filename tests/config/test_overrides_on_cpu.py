"""Whatever is typed behind a key: it composes and validates, or it is refused in one line that names the key. Never
a warning."""

import pickle
import random
import re
from dataclasses import fields

import pytest
from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from recipe.egrsd import checkpoint
from recipe.egrsd.config import validation
from recipe.egrsd.config.contrast import ContrastConfig
from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.config.schema import EgrsdConfig, TeacherConfig
from recipe.egrsd.config.steering import SteeringConfig
from recipe.egrsd.config.verl_keys import KEYS
from recipe.egrsd.hydra_plugin import Validation

OURS = [f"algorithm.egrsd.{field.name}" for field in fields(EgrsdConfig)]
TEACHERS = [f"algorithm.egrsd.teacher.{field.name}" for field in fields(TeacherConfig)]
VALUES = [
    "null", "None", "true", "false", "yes", "0", "1", "-1", "2", "3.0", "2.5", "-0.0", "1e-300", "1e300", "1e400",
    "nan", "inf", "1" + "0" * 30, "1" + "0" * 400, "-" + "9" * 20, "abc", "''", '""', "'0.2'", '"3"', "' '", "0x10",
    "1_000", "٣", "½", "数学", "'a b'", r"'a\nb'", "x" * 5000, "a/b/../c", "[]", "[1,2]", "[[1],[a,{b:2}]]", "{}",
    "{a:1}", "{a:{b:[1,2]}}", "???", "'???'", "${nowhere}", "${.floor}", "${algorithm.egrsd.gamma}",
    "${algorithm.egrsd.teacher}", "${oc.env:NO_SUCH_VARIABLE}", "${oc.env:HOME}", "${oc.select:nowhere,5}",
    "${no_such_resolver:1}", "'${nowhere}'", "'${'", "'${a'", "x_${trainer.nnodes}", "1,2", "choice(1,2)", "range(1,3)",
    "float(1)", "int(2.7)", "str(3)", "a=b", "'a=b'", "@", "\\", "*", "~", "-", "+1", "1e", "[1", "{a", "", "running",
    "grpo", "frozen", "ema", "snapshot", "live", "forward_kl", "answer_only", "auto", "always",
]  # fmt: skip
REFUSED = {
    "algorithm.egrsd.gamma=null": "algorithm.egrsd.gamma=null is NoneType; it should be a valid number.",
    "algorithm.egrsd.gamma=abc": "algorithm.egrsd.gamma=abc is str; it should be a valid number.",
    "algorithm.egrsd.gamma=nan": "algorithm.egrsd.gamma=nan is float; it should be a finite number.",
    "algorithm.egrsd.gamma=1e300": "algorithm.egrsd.gamma=1e+300 is float; it should fit into a float32",
    "algorithm.egrsd.min_entropy_scale=1e-300": "it should fit into a float32",
    "algorithm.egrsd.length_bonus=inf": "algorithm.egrsd.length_bonus=inf is float; it should be a finite number.",
    "algorithm.egrsd.window=2.5": "algorithm.egrsd.window=2.5 is float; it should be a valid integer.",
    "algorithm.egrsd.window=true": "algorithm.egrsd.window=true is bool; it should be a valid integer.",
    "algorithm.egrsd.warmup_steps=2.5": "algorithm.egrsd.warmup_steps=2.5 is float; it should be a valid integer.",
    "algorithm.egrsd.mixing_decay_steps=None": (
        "algorithm.egrsd.mixing_decay_steps=None is str; it should be a valid integer."
    ),
    "algorithm.egrsd.save_tokens_every=None": (
        "algorithm.egrsd.save_tokens_every=None is str; it should be a valid integer."
    ),
    "algorithm.egrsd.clip_range='0.2'": "algorithm.egrsd.clip_range=0.2 is str; it should be a valid number.",
    "algorithm.egrsd.teacher.instruction=null": (
        "algorithm.egrsd.teacher.instruction=null is NoneType; it should be a valid str"
    ),
    "algorithm.egrsd.teacher.solution_key=null": "teacher.solution_key=null is NoneType; it should be a valid str",
    "algorithm.egrsd.teacher.enable_thinking=1": "teacher.enable_thinking=1 is int; it should be a valid boolean.",
    "algorithm.egrsd.floor=[0.1]": "algorithm.egrsd.floor=[0.1] is list; it should be a valid number.",
    "algorithm.egrsd.floor=???": "algorithm.egrsd.floor: Missing mandatory value",
    "algorithm.egrsd.floor=${nowhere}": "algorithm.egrsd.floor: Interpolation key 'nowhere' not found.",
    "algorithm.egrsd=null": "algorithm.egrsd=null is NoneType; it holds the keys ['gamma', ",
    "algorithm.egrsd.teacher=frozen": "algorithm.egrsd.teacher=frozen is str; it holds the keys ['kind', ",
    "trainer.resume_mode=resume_path": (
        "resume_from_path=null names no checkpoint, which trainer.resume_mode=resume_path"
    ),
    "trainer.resume_mode=resume_path trainer.resume_from_path=runs/1": "give the path of a folder global_step_N",
    "trainer.resume_mode=never": "trainer.resume_mode=never is str; it should be 'auto', 'disable' or 'resume_path'.",
    "data.max_response_length=null": "data.max_response_length=null is NoneType; it should be a valid integer.",
    "data.seed=${nowhere}": "data.seed: Interpolation key 'nowhere' not found.",
    "data.train_files=???": "data.train_files=??? has no value; give it one.",
    "actor_rollout_ref.rollout.temperature=0": "rollout.temperature=0 is int; it should be greater than 0.",
    "actor_rollout_ref.rollout.n=0": "actor_rollout_ref.rollout.n=0 is int; it should be greater than 0.",
}


@pytest.fixture(scope="module")
def base() -> bytes:
    """A composed config, pickled."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return pickle.dumps(compose("ppo_trainer", overrides=["algorithm=egrsd", "trainer.default_local_dir=/nowhere"]))


def outcome(base: bytes, *overrides: str) -> str:
    """ "" for a valid config, else the refusal: hydra's own, or ours as the command line prints it. Nothing else may
    be raised."""
    config = pickle.loads(base)  # a sixth of the time of a deep copy
    try:  # as hydra composes them on top of the defaults list, which no such key is in
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    except HydraException as refusal:
        return f"hydra: {refusal}"
    try:
        egrsd = validation.validate(config)
        checkpoint.folder_to_resume(config)
    except ValueError as refusal:
        return f"EGRSD: {refusal}"
    for field in (*fields(EgrsdConfig), *fields(TeacherConfig)):
        value = getattr(egrsd.teacher if field in fields(TeacherConfig) else egrsd, field.name)
        groups = (TeacherConfig, PullConfig, SteeringConfig, ContrastConfig)
        assert type(value) in (int, float, str, bool, type(None), *groups)
    return ""


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep\ndown"), ImportError("no"), AssertionError()])
def test_no_exception_lets_a_run_pass(base, monkeypatch, error):
    def fail(config):
        raise error

    monkeypatch.setattr(validation, "validate", fail)
    with pytest.raises(SystemExit, match=rf"^EGRSD: {type(error).__name__}: ") as stopped:
        Validation().on_job_start(pickle.loads(base))
    assert str(stopped.value).isprintable()


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_value_of_another_type_is_refused_by_name(base, overrides):
    assert f"{REFUSED[overrides]}" in outcome(base, *overrides.split(" "))


@pytest.mark.parametrize(
    "override", ["gamma=1", "length_bonus=0", "teacher.instruction=''", "save_tokens_every=3", "floor=1e-3"]
)
def test_what_is_meant_stays_allowed(base, override):
    assert outcome(base, f"algorithm.egrsd.{override}") == ""


def generated(number: int, *, seed: int) -> list[str]:
    """Overrides of our keys, of the nodes that hold them, and of verl's keys that are read."""
    choose = random.Random(seed)
    keys = [*OURS, *TEACHERS, *OURS, *TEACHERS, "algorithm.egrsd", "algorithm.egrsd.teacher.instruction.deeper", *KEYS]
    prefixes = ["", "", "", "+", "++"]
    return [f"{choose.choice(prefixes)}{choose.choice(keys)}={choose.choice(VALUES)}" for _ in range(number)]


@pytest.mark.parametrize("number", [200, pytest.param(500, marks=pytest.mark.long)])
def test_generated_overrides(base, number):
    outcomes = {override: outcome(base, override) for override in dict.fromkeys(generated(number, seed=0))}
    for override, said in outcomes.items():
        if not said:
            continue
        key = override.lstrip("+").split("=")[0]
        if said.startswith("hydra: "):
            assert key in said or re.match("hydra: (mismatched|extraneous|no viable|token recog|missing)", said), (
                override,
                said,
            )
            continue
        assert said.startswith("EGRSD: ") and said.isprintable() and len(said) < 1000, (override, said)
        assert key.removesuffix(".deeper") in said, (override, said)
    valid = [override for override, said in outcomes.items() if not said]
    assert 0.05 < len(valid) / number < 0.4
