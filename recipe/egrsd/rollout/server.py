"""verl's vLLM server, whose engine looks for new weights at the socket of its own run (weight_sync.py)."""

import os

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from recipe.egrsd.rollout.weight_sync import run_id


class OwnSocketServer(vLLMHttpServer):
    """The Ray actor; vLLM's workers inherit its environment."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        os.environ["VERL_RAY_JOB_ID"] = run_id()  # verl has just set it (vllm_async_server.py:143)


class OwnSocketReplica(vLLMReplica):
    """What verl's registry holds."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(OwnSocketServer)
