"""The verl that is imported: its version is the code's, and what its releases do not have is not asked for."""

import subprocess
import sys
from pathlib import Path

import pytest
import verl
from omegaconf import OmegaConf
from shadowed import shadow_verl

from recipe.egrsd import cpu
from recipe.egrsd.config import verl_version

DEFERS = "use_no_sync_for_gradient_accumulation"


def test_the_version_is_that_of_the_code_not_of_an_installed_package(tmp_path):
    """A checkout in the working directory beside an installed release: Python imports the checkout."""
    shadow_verl(tmp_path, version="0.10.0.dev")
    program = "from recipe.egrsd.config import verl_version as v; print(v.installed(), v.untested())"
    said = subprocess.check_output([sys.executable, "-c", f"import verl; {program}"], cwd=tmp_path, text=True)
    assert said.strip() == f"0.10.0.dev EGRSD was tested with {verl_version.required()}; this is verl 0.10.0.dev"


def test_the_installed_version_is_verls_own():
    assert verl_version.installed() == verl.__version__


def test_without_verl_that_is_said(monkeypatch):
    monkeypatch.setattr(verl_version, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"^verl is not installed here; pip install 'verl<0\.10,>=0\.9\.0'\.$"):
        verl_version.check()


@pytest.mark.parametrize("has_the_key", [True, False])
def test_a_cpu_run_asks_for_deferred_gradients_where_that_is_a_key(monkeypatch, tmp_path, has_the_key):
    """verl 0.9.0 always defers and has no key for it: its FSDPEngineConfig refuses one."""
    engine = tmp_path / "trainer" / "config" / "engine" / "fsdp.yaml"
    engine.parent.mkdir(parents=True)
    own = Path(verl.__file__).parent / engine.relative_to(tmp_path)
    lines = own.read_text().splitlines(keepends=True)
    engine.write_text("".join(line for line in lines if has_the_key or not line.startswith(DEFERS)))
    monkeypatch.setattr(verl_version, "folder", lambda: tmp_path)
    fsdp = cpu.settings().actor_rollout_ref.actor.fsdp_config
    assert fsdp.get(DEFERS) == (True if has_the_key else None)
    whole = OmegaConf.load(Path(cpu.__file__).with_name("config.yaml"))
    assert set(whole.actor_rollout_ref.actor.fsdp_config) - set(fsdp) == (set() if has_the_key else {DEFERS})
