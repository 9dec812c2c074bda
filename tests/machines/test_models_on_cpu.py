"""A model's name becomes a folder before any process reads it: absolute, pinned to its commit, or refused in a line."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from inputs import COMMIT, on_the_hub, write_inputs
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from runs import ROOT
from transformers import AutoModelForCausalLM

import recipe.egrsd.hydra_plugin  # noqa: F401  opens the config group
from recipe.egrsd.evaluate import Refused
from recipe.egrsd.evaluate.model import locate
from recipe.egrsd.machines import models

PATH = "actor_rollout_ref.model.path"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, tied=True)
    return folder / "model"


def config(model: str | Path, *, lora_rank: int = 0, limit: int = 64, device: str = "cpu", **more):
    parts = {"model": {"path": str(model), "lora_rank": lora_rank, "lora_adapter_path": None, **more}}
    parts["rollout"] = {"checkpoint_engine": {"update_weights_bucket_megabytes": limit}}
    return OmegaConf.create({"actor_rollout_ref": parts, "trainer": {"device": device}})


@pytest.fixture
def lookups(monkeypatch) -> list[str]:
    """Hosts whose address this process asks for."""
    asked, resolve = [], socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args, **kwargs: asked.append(host) or resolve(host, *args, **kwargs)
    )
    return asked


@pytest.mark.filterwarnings(
    "ignore:Unable to fetch remote file:UserWarning", "ignore:Could not find a config file:UserWarning"
)
def test_a_sync_of_an_adapter_asks_the_hub_for_a_name_and_not_for_a_folder(model, lookups):
    """verl calls it once a decoder layer (fsdp_utils.py:698)."""
    counts = {}
    for name in (str(model), "some/tiny"):
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        base.name_or_path = base.config._name_or_path = name
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        lookups.clear()
        get_peft_model_state_dict(adapted)
        counts[name] = len(lookups)
    assert counts[str(model)] == 0
    assert counts["some/tiny"] >= 1


def test_a_relative_folder_becomes_absolute(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    given = config("model", tokenizer_path="model", hf_config_path=None)
    models.absolute_folders(given)
    assert given.actor_rollout_ref.model.path == given.actor_rollout_ref.model.tokenizer_path == str(model)
    assert given.actor_rollout_ref.model.hf_config_path is None


@pytest.fixture
def snapshot(model, tmp_path, monkeypatch) -> Path:
    """some/tiny as the hub's client caches it; there is no hub beside the cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return on_the_hub(tmp_path, "some/tiny", model)


def test_a_name_on_the_hub_becomes_its_snapshot(snapshot):
    given = config("some/tiny")
    (named,) = models.located(given)
    assert str(named) == f"{PATH}=some/tiny from {snapshot} (commit {COMMIT})"
    models.use_folders(given, [named])
    assert given.actor_rollout_ref.model.path == str(snapshot)
    (folder,) = models.located(given)  # like any other from then on
    assert (folder.folder, folder.commit) == (snapshot, None)
    assert named.found_here() == folder.found_here()
    assert re.fullmatch(rf"{snapshot} with \d+ files \([0-9a-f]{{12}}\)", named.found_here())


def test_a_resumed_run_keeps_its_commit(snapshot):
    """The name means what the hub says today; the frozen teacher is what it meant when the run began."""
    (named,) = models.located(config("some/tiny"))
    models.refuse_other_commits({}, [named])
    models.refuse_other_commits({PATH: COMMIT}, [named])
    other = "f" * 40
    kept = snapshot.with_name(other)
    fetch = f" after hf download some/tiny --revision {other}"
    said = rf"is not the commit {other} that this run began with; resume with {PATH}={kept}{fetch}\.$"
    with pytest.raises(ValueError, match=said):
        models.refuse_other_commits({PATH: other}, [named])


def test_other_files_of_the_same_name_are_noticed(snapshot):
    """What one node answers to another's question."""
    (named,) = models.located(config("some/tiny"))
    before = named.found_here()
    (snapshot / "model.safetensors").resolve().write_bytes(b"another")
    assert named.found_here() != before


def test_what_is_not_cached_is_refused_without_a_hub(snapshot):
    said = f"{PATH}=some/other is no folder here, and the hub does not give it (OfflineModeIsEnabled: "
    with pytest.raises(ValueError, match=rf"^{re.escape(said)}"):
        models.located(config("some/other"))


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "outputs/run/model", "~/models/qwen"])
def test_what_can_be_no_name_on_the_hub_is_refused_at_once(name, lookups):
    began = time.monotonic()
    with pytest.raises(ValueError, match=rf"^{PATH}={name} is no folder here, and cannot be a name on the hub"):
        models.located(config(name))
    assert time.monotonic() - began < 1 and not lookups


SILENT_HUB = """
import os, socket, time
server = socket.create_server(("127.0.0.1", 0))  # takes every connection and says nothing
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.getsockname()[1]}"
from recipe.egrsd.machines import models
began = time.monotonic()
try:
    models.locate("some/typo", key="--model")
except ValueError as error:
    print(f"{time.monotonic() - began:.0f} {error}")
"""


def test_a_hub_that_does_not_answer_is_waited_for_seconds(tmp_path):
    """As behind a firewall that drops packets; the hub's client alone waits more than five minutes."""
    variables = {**os.environ, "HF_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", SILENT_HUB], env=variables, cwd=ROOT, capture_output=True, text=True)
    seconds, line = said.stdout.split(" ", 1)
    assert int(seconds) <= 3 * models.HUB_SECONDS, said.stdout  # with the client's import
    assert line.startswith("--model=some/typo is no folder here, and the hub does not give it (ReadTimeout: ")
    assert line.count("\n") == 1


def test_what_the_hub_does_not_give_is_refused_in_one_line(lookups):
    """Here there is no hub; it is asked once, not for half a minute."""
    began = time.monotonic()
    with pytest.raises(
        ValueError, match=rf"^{PATH}=models/smoll is no folder here, and the hub does not give it"
    ) as said:
        models.located(config("models/smoll"))
    assert time.monotonic() - began < 5 and "\n" not in str(said.value)


@pytest.mark.parametrize("weights", [False, True])
def test_whoever_only_looks_fetches_no_weights(monkeypatch, tmp_path, weights):
    """The doctor runs on machines that will never train."""
    asked = {}
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **knobs: asked.update(knobs) or str(tmp_path))
    models.found(config("some/tiny"), weights=weights)
    files = ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"]
    left = list(huggingface_hub.utils.filter_repo_objects(files, ignore_patterns=asked["ignore_patterns"]))
    assert left == (files if weights else files[:2])


def test_a_folder_without_weights_is_refused(model, tmp_path):
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    with pytest.raises(ValueError, match=r"holds no weights .*: the download was not finished, or it is no model's"):
        models.located(config(tmp_path))


def test_a_weight_that_no_message_can_hold_is_refused_on_a_cpu(model, tmp_path):
    """A vocabulary of 151,936 of 64 float32 numbers each is 37.1 MiB."""
    sizes = json.loads((model / "config.json").read_text()) | {
        "vocab_size": 151_936,
        "hidden_size": 64,
        "intermediate_size": 128,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ValueError, match=r"update_weights_bucket_megabytes=37 cannot hold .*, 38 MiB in float32, .* to 38"
    ):
        models.located(config(tmp_path, limit=37))
    for fits in (
        config(tmp_path, limit=38),
        config(tmp_path, limit=1, lora_rank=8),
        config(tmp_path, limit=1, device="cuda"),
    ):
        assert [found.folder for found in models.located(fits)] == [tmp_path]


def test_an_evaluated_model_is_a_folder_too(model, snapshot):
    """The engines read the snapshot; name and commit say which model it was."""
    files = locate("some/tiny")
    assert (files.model, files.revision, files.path) == ("some/tiny", COMMIT, str(snapshot))
    assert locate(str(model)).path == str(model)
    with pytest.raises(Refused, match=r"^--model or --base=some/other is no folder here, and the hub does not give it"):
        locate("some/other")
