"""SECURITY.md's facts about verl and what it stands on, on real processes: if one changes, so must the page."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import transfer_queue as tq
import verl
import zmq
from composing import refusal
from omegaconf import OmegaConf
from runs import ROOT
from transfer_queue.utils.serial_utils import encode


class Touch:
    """Unpickled, it writes a file: what any code could do."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.long
def test_transfer_queue_unpickles_what_reaches_it(tmp_path):
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
        info = ray.get(
            ray.get_actor("TransferQueueController", namespace="transfer_queue").get_zmq_server_info.remote()
        )
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.connect(f"tcp://{info.ip}:{info.ports['request_handle_socket']}")
            stranger.send_multipart(encode(Touch(tmp_path / "touched")))
            stranger.setsockopt(zmq.LINGER, 5000)
        for _ in range(100):
            if (tmp_path / "touched").exists():
                break
            ray.get(ray.remote(num_cpus=0)(lambda: None).remote())
        assert (tmp_path / "touched").exists()
        tq.close()
    finally:
        ray.shutdown()


VLLM_SERVER = """
import json
import recipe.egrsd.cpu.platform, recipe.egrsd.cpu.vllm
from starlette.testclient import TestClient
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

settings = make_arg_parser(FlexibleArgumentParser()).parse_args([])
stranger = TestClient(build_app(settings, ("generate",)), raise_server_exceptions=False)
adapter = {"lora_name": "theirs", "lora_path": "/nowhere"}
codes = [stranger.get("/v1/models").status_code, stranger.post("/v1/load_lora_adapter", json=adapter).status_code]
print(json.dumps([path for path in stranger.get("/openapi.json").json()["paths"] if "lora" in path]))
print(json.dumps(codes))
"""


@pytest.mark.long
@pytest.mark.parametrize(("key", "codes"), [("", [500, 500]), ("a-key", [401, 401])])
def test_vllms_server_asks_for_a_key_only_if_one_is_exported(key, codes):
    """vLLM's app without an engine: 500 is the handler that looks for it, 401 is nobody let in."""
    asked = {"VERL_PLATFORM": "cpu", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true", "VLLM_API_KEY": key}
    words = [sys.executable, "-W", "ignore", "-c", VLLM_SERVER]
    result = subprocess.run(words, cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-3000:]
    routes, answered = map(json.loads, result.stdout.splitlines()[-2:])
    assert routes == ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
    assert answered == codes


def test_verl_gives_its_servers_no_key():
    for path in (Path(verl.__file__).parent / "workers" / "rollout" / "vllm_rollout").rglob("*.py"):
        assert "api_key" not in path.read_text().replace("-", "_"), path


def test_a_token_on_the_command_line_stays_on_disk(monkeypatch, tmp_path):
    """Even of a run that is refused in its first second."""
    token = "+ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY=not-a-real-token"
    refusal(monkeypatch, tmp_path, token, "trainer.use_v1=false")
    for name in ("overrides.yaml", "config.yaml"):
        assert "not-a-real-token" in (tmp_path / ".hydra" / name).read_text()


LINES = {
    "verl/workers/rollout/utils.py:69": "host=server_address",
    "verl/trainer/constants_ppo.py:90": "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "verl/trainer/main_ppo.py:73": "print(",
    "verl/trainer/main_ppo.py:144": "pprint(",
    "transfer_queue/utils/serial_utils.py:349": "pickle.loads",
    "transfer_queue/utils/serial_utils.py:420": "pickle.loads",
}


def test_the_page_names_lines_that_say_so():
    """Of the packages that are installed here, which are those that the page was written for."""
    named = re.findall(r"`((?:verl|transfer_queue)/\S+\.py:\d+)`", (ROOT / "SECURITY.md").read_text())
    assert set(named) == set(LINES)
    packages = Path(tq.__file__).parents[1]
    for place, words in LINES.items():
        path, line = place.split(":")
        assert words in (packages / path).read_text().splitlines()[int(line) - 1], place
