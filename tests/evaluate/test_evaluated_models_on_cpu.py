"""Which files a model's name stands for: a folder, an adapter, a checkpoint of verl's, a name on the hub; or none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

from recipe.egrsd.evaluate import Refused, engine
from recipe.egrsd.evaluate.engine import free_ports
from recipe.egrsd.evaluate.model import ModelFiles, locate


@pytest.fixture
def base(tmp_path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def adapter_of(base: Path | None, folder: Path, **more) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": 4, "base_model_name_or_path": base and str(base), **more})
    )
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder


def test_a_model_and_an_adapter_are_found(base, tmp_path):
    assert locate(str(base)) == ModelFiles(str(base))
    adapter = adapter_of(base, tmp_path / "adapter")
    assert locate(str(adapter)) == ModelFiles(str(base), adapter=str(adapter))
    assert locate(str(adapter)).lora_rank == 4
    nameless = adapter_of(None, tmp_path / "nameless")
    assert locate(str(nameless), base=str(base)).model == str(base)


def test_saved_weights_of_a_checkpoint_are_used(base, tmp_path):
    actor = tmp_path / "global_step_5" / "actor"
    actor.mkdir(parents=True)
    (actor / "fsdp_config.json").write_text("{}")
    base.rename(actor / "huggingface")
    for name in (actor, actor.parent):
        assert locate(str(name)) == ModelFiles(str(actor / "huggingface"))


def test_a_merged_model_older_than_its_shards_is_refused(base, tmp_path):
    actor = tmp_path / "global_step_5" / "actor"
    actor.mkdir(parents=True)
    (actor / "fsdp_config.json").write_text("{}")
    base.rename(actor / "merged")
    shard = actor / "model_world_size_1_rank_0.pt"
    shard.touch()
    os.utime(shard, (0, 0))
    assert locate(str(actor)) == ModelFiles(str(actor / "merged"))
    later = (actor / "merged").stat().st_mtime + 10
    os.utime(shard, (later, later))
    with pytest.raises(
        Refused, match="merged is older than the shards beside it, so it may be of an earlier run; delete it"
    ):
        locate(str(actor))


def test_a_hub_name_is_pinned_to_its_commit(tmp_path, monkeypatch):
    """A cache as the hub's client leaves it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--some--model"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    locate = "from recipe.egrsd.evaluate.model import locate; files = locate('some/model')"
    code = f"{locate}; print(files.model, files.revision)"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.split() == ["some/model", commit], process.stderr
    process = subprocess.run(
        [sys.executable, "-c", code.replace("some/model", "no/such")], capture_output=True, text=True, cwd=ROOT
    )
    assert "no/such is no folder here, and the hub does not give it" in process.stderr


def test_what_cannot_be_loaded_is_refused(base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter")
    nameless = adapter_of(None, tmp_path / "nameless")
    (tmp_path / "checkpoints" / "global_step_5").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    for name, given_base, message in (
        (nameless, None, "does not name the adapter's model; name it with --base"),
        (nameless, adapter, "is an adapter itself"),
        (base, base, "means nothing to .*, which is a whole model"),
        (tmp_path / "checkpoints", None, "several checkpoints; name one of them: global_step_5"),
        (tmp_path / "nothing", None, "is no model .*, no adapter .* and no verl checkpoint"),
    ):
        with pytest.raises(Refused, match=message):
            locate(str(name), base=given_base and str(given_base))


def test_the_fingerprint_of_a_model_changes_with_weights_adapter_and_template(base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter")
    seen = {locate(str(base)).fingerprint(), locate(str(adapter)).fingerprint()}
    (base / "model.safetensors").write_bytes(b"weighty")
    seen.add(locate(str(base)).fingerprint())
    (base / "chat_template.jinja").write_text("x")
    seen.add(locate(str(base)).fingerprint())
    assert len(seen) == 4


def test_the_fingerprint_sees_both_ends_of_a_large_file(base):
    """Read are the first and the last of its 3 MiB: a changed byte at the edges of either is another model."""
    weights, mib = base / "model.safetensors", 1 << 20
    content, seen = bytearray(3 * mib), set()
    for place in (None, 0, mib - 1, 2 * mib, 3 * mib - 1):
        weights.write_bytes(content if place is None else content[:place] + b"1" + content[place + 1 :])
        assert weights.stat().st_size == 3 * mib
        seen.add(locate(str(base)).fingerprint())
    assert len(seen) == 5


def test_vllm_is_told_every_setting_of_a_response():
    found = engine._parameters(engine.Sampling(temperature=0.7, top_p=0.9, top_k=20, max_tokens=5), 3)
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens, found.seed) == (0.7, 0.9, 20, 5, 3)


def test_engines_that_start_together_look_for_ports_apart():
    code = "from vllm.utils.network_utils import get_open_port; print(get_open_port())"
    ports = free_ports(8)
    assert len(set(ports)) == 8
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"VLLM_PORT": str(ports[3])}
    )
    assert found.stdout.split()[-1] == str(ports[3])
