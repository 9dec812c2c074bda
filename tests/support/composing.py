"""A command's config as hydra composes it, a preset's settings, and what is refused."""

import os
import pickle
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from runs import ROOT

from recipe.egrsd.config import schema
from recipe.egrsd.hydra_plugin import Validation

PRESETS = ROOT / "recipe" / "egrsd" / "config" / "algorithm"
LORA = "actor_rollout_ref.model.lora_rank=8"

# Composes many command lines in one process: JSON, name -> (primary config, overrides), to JSON, name -> config or
# refusal.
COMPOSE = """
import json, sys
import verl
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

result = {"modules": [name for name in sys.modules if name.split(".")[0] == "recipe"]}
with initialize_config_module("verl.trainer.config", version_base=None):
    for case, (name, overrides) in json.load(sys.stdin).items():
        try:
            result[case] = OmegaConf.to_container(compose(name, overrides))
        except Exception as error:
            result[case] = f"{error}\\n{error.__cause__}"
json.dump(result, sys.stdout)
"""


def settings(preset: str = "egrsd", **keys) -> schema.EgrsdConfig:
    return schema.read({**OmegaConf.to_container(_egrsd_of(preset)), **keys})


def _egrsd_of(preset: str) -> DictConfig:
    """A preset's ``algorithm.egrsd`` over those that its defaults name."""
    node = OmegaConf.load(PRESETS / f"{preset}.yaml")
    bases = [_egrsd_of(name) for name in node.get("defaults", []) if name != "_self_"]
    return OmegaConf.merge(*bases, node.algorithm.egrsd)


def composed(*overrides: str, algorithm: str = "egrsd") -> DictConfig:
    """Hydra's own two steps, files and then values; the first, which takes seconds, once for all equal choices. Hydra's
    own node, whose run.dir differs from test to test, is in no job's config."""
    values = OverridesParser.create().parse_overrides([word for word in overrides if not word.startswith("hydra.")])
    chosen = [given.input_line for given in values if _chooses_a_file(given.key_or_group)]
    shell = [(name, os.environ.get(name)) for name in READ_FROM_THE_SHELL]
    config = pickle.loads(_files_composed(f"algorithm={algorithm}", *chosen, shell=tuple(shell)))
    ConfigLoaderImpl._apply_overrides_to_config([given for given in values if given.input_line not in chosen], config)
    return config


READ_FROM_THE_SHELL = ("VERL_PLATFORM", "EGRSD_ALLOW_UNTESTED_VERL", "VERL_USE_EXTERNAL_MODULES")


@cache
def _files_composed(*choices: str, shell: tuple) -> bytes:
    """A config, pickled: it is read in a sixth of the time of a deep copy."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return pickle.dumps(compose("ppo_trainer", overrides=[*choices]))


@cache
def _chooses_a_file(key: str) -> bool:
    with initialize_config_module("verl.trainer.config", version_base=None):
        loader = GlobalHydra.instance().config_loader()
        return loader.repository.group_exists(key)


def refusal_of(*overrides: str, algorithm: str = "egrsd") -> str:
    """What hydra's callback says, which main_ppo calls: in a twentieth of the time that main_ppo takes to compose."""
    config = composed(*overrides, algorithm=algorithm)
    Validation().on_run_start(config)
    with pytest.raises(SystemExit) as stopped:
        Validation().on_job_start(config)
    assert str(stopped.value).startswith("EGRSD: ")
    return str(stopped.value)


def refusal(monkeypatch, folder: Path, *overrides: str, algorithm: str = "egrsd") -> str:
    """What ``python -m`` says before it ends, in this process, so that verl is imported once for all; Ray is never
    reached."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["main_ppo", f"algorithm={algorithm}", f"hydra.run.dir={folder}", *overrides])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("verl.trainer.main_ppo", run_name="__main__", alter_sys=True)
    assert str(stopped.value).startswith("EGRSD: ")
    return str(stopped.value)
