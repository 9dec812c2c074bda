"""docs/authoring.md, run as it stands there: a weight of one's own, and a method of the literature."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from composing import composed, refusal
from packages import RECIPE
from runs import ROOT

from recipe.egrsd import parts, token_weight
from recipe.egrsd.config import validation

PAGE = (ROOT / "docs/authoring.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
OWN, FUNCTION, GOLDEN = (text for language, text in BLOCKS if language == "python")
(PRESET,) = (text for language, text in BLOCKS if language == "yaml")
COMMAND = next(text for language, text in BLOCKS if language == "bash")
PATHS = re.findall(r"`((?:recipe|tests)/\S+(?:bounded_evidence|sipo_one_teacher)\S+)`", PAGE)
# In the copy of the recipe: compose and check the preset, run its golden values.
TRY = """
import json, sys
import pytest
import verl
from hydra import compose, initialize_config_module

with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", ["algorithm=sipo_one_teacher"])
from recipe.egrsd import parts, token_weight
from recipe.egrsd.config import validation

egrsd = validation.validate(config)
parts.check(config, egrsd)
code = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]])
json.dump({
    "weight": token_weight.said(egrsd.token_weight),
    "file": token_weight.__file__,
    "settings": [egrsd.gamma, egrsd.clip_range, egrsd.length_bonus, egrsd.advantage],
    "verls": [config.algorithm.norm_adv_by_std_in_grpo, config.actor_rollout_ref.rollout.n],
    "golden": int(code),
}, sys.stderr)
"""


@pytest.fixture
def my_weights(tmp_path, monkeypatch) -> Path:
    (tmp_path / "my_weights.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_weights", raising=False)
    token_weight.look_up.cache_clear()
    return tmp_path


def test_a_weight_of_ones_own(my_weights):
    (override,) = re.findall(rf"{token_weight.KEY}=\S+", COMMAND)
    config = composed(override)
    parts.check(config, validation.validate(config))
    assert f"EGRSD {token_weight.said(override.partition('=')[2])}." in PAGE


def test_its_refusal_is_the_one_that_is_shown(my_weights, monkeypatch):
    message = refusal(monkeypatch, my_weights / "run", f"{token_weight.KEY}=my_weights:typo")
    assert message.removeprefix("EGRSD: ") in PAGE


def test_the_arguments_are_those_of_the_page():
    rows = re.findall(r"^\| ([^|]*) \| [^|]*(?:float|bool)", PAGE, re.M)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == [*token_weight.INPUTS, *token_weight.SETTINGS]


def test_a_method_of_the_literature(tmp_path):
    """In a copy of the recipe, with the files under the names that the page gives them."""
    shutil.copytree(RECIPE, tmp_path / "recipe" / "egrsd", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in zip(PATHS, (FUNCTION, PRESET, GOLDEN), strict=True):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "HYDRA_", "PYTHON"))}
    verls = str(distribution("verl").locate_file(""))
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRY, str(tmp_path / PATHS[-1])],
        cwd=tmp_path,
        env=kept | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), verls]), "VERL_PLATFORM": "cpu",
            "VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": "recipe.egrsd.hydra_plugin",
        },
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    found = json.loads(process.stderr.splitlines()[-1])
    assert Path(found.pop("file")).is_relative_to(tmp_path)
    assert "3 passed" in process.stdout
    assert found == {
        "weight": "weighs tokens by recipe.egrsd.method.bounded_evidence:bounded_evidence, which reads clip_range; "
        "entropy_scale, gate_mean, mixing, window, gamma, floor, gate mean nothing to it",
        "settings": [0.0, 0.2, 0.0, "grpo"],
        "verls": [False, 8],
        "golden": 0,
    }


def test_a_preset_in_a_folder_of_ones_own(my_weights, monkeypatch):
    """Found by hydra's own option, checked as ours are."""
    (my_weights / "my_presets" / "algorithm").mkdir(parents=True)
    own = re.sub(r"(token_weight: ).*", r"\1my_weights:only_confident", PRESET)
    (my_weights / "my_presets/algorithm/sipo_one_teacher.yaml").write_text(own)
    (words,) = re.findall(r"python -m verl.trainer.main_ppo (--config-dir my_presets) algorithm=sipo_one_teacher", PAGE)
    given, enough = words.split(), "ray_kwargs.ray_init.num_cpus=64"
    wrong = ["algorithm.egrsd.floor=2", *given]
    message = refusal(monkeypatch, my_weights / "run", *wrong, algorithm="sipo_one_teacher")
    assert message.startswith("EGRSD: algorithm.egrsd.floor=2.0 must lie in [0, 1]")
    message = refusal(monkeypatch, my_weights / "run", enough, *given, algorithm="sipo_one_teacher")
    assert "my_weights" not in message and "data.train_files" in message  # everything before the data is in order
