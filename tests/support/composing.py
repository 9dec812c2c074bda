"""A command's config as hydra composes it, a preset's settings, and what is refused."""

import runpy
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from runs import ROOT

import recipe.egrsd.hydra_plugin  # noqa: F401  opens the config group
from recipe.egrsd.config import schema

PRESETS = ROOT / "recipe" / "egrsd" / "config" / "algorithm"


def settings(preset: str = "egrsd", **keys) -> schema.EgrsdConfig:
    node = OmegaConf.merge(*(OmegaConf.load(PRESETS / f"{name}.yaml").algorithm.egrsd for name in ("egrsd", preset)))
    return schema.read({**OmegaConf.to_container(node), **keys})


def composed(*overrides: str, algorithm: str = "egrsd") -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"algorithm={algorithm}", *overrides])


def refusal(monkeypatch, folder: Path, *overrides: str, algorithm: str = "egrsd") -> str:
    """What ``python -m`` says before it ends, in this process, so that verl is imported once for all; Ray is never
    reached."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["main_ppo", f"algorithm={algorithm}", f"hydra.run.dir={folder}", *overrides])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("verl.trainer.main_ppo", run_name="__main__", alter_sys=True)
    assert str(stopped.value).startswith("EGRSD: ")
    return str(stopped.value)
