"""verl's vLLM adapter with a weight sync that fails instead of hanging, over a socket that no other run on the machine
has.

The trainer's worker sends weights over a socket and waits for the engine's answer without a time limit. If the engine
raised or died meanwhile, no answer comes, and the exception rests in a future that nobody reads
(workers/rollout/vllm_rollout/vllm_rollout.py:186). Here somebody does.

verl names that socket after Ray's job id, which is 01000000 for the first run of every cluster. Two runs side by side
on a machine, each with a Ray of its own, would take each other's socket away and wait for ever, or load the other's
weights. The other end is server.py.
"""

import threading
from collections.abc import Generator

import ray
import zmq
from torch import Tensor
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from recipe.egrsd.machines.models import is_tied


def run_id() -> str:
    """Job and Ray node: the same in every process that one run has on this node, and in no other run's."""
    context = ray.get_runtime_context()
    return f"{context.get_job_id()}-{context.get_node_id()[:8]}"


class WatchedServerAdapter(ServerAdapter):
    """Raises the engine's own error out of update_weights."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self._pd_role is None:  # verl's disaggregated servers keep verl's name
            self.zmq_handle = self.zmq_handle.replace(ray.get_runtime_context().get_job_id(), run_id(), 1)

    async def update_weights(self, weights: Generator[tuple[str, Tensor], None, None], *args, **kwargs):
        self._receiver_error: Exception | None = None
        if is_tied(self.model_config.hf_config):
            # verl sends both names of a tied weight, and vLLM refuses the head in a message without the embedding.
            weights = ((name, weight) for name, weight in weights if name != "lm_head.weight")
        try:
            await super().update_weights(weights, *args, **kwargs)
        except zmq.ContextTerminated:
            reason = str(self._receiver_error).strip().splitlines()[-1:]
            raise RuntimeError(
                f"the rollout engine could not take the new weights: {''.join(reason)}"
            ) from self._receiver_error

    async def _execute_method(self, method: str, *args, **kwargs):
        future = await super()._execute_method(method, *args, **kwargs)
        if method == "update_weights_from_ipc" and future is not None:
            threading.Thread(target=self._release_sender_on_error, args=(future,), daemon=True).start()
        return future

    def _release_sender_on_error(self, future: ray.ObjectRef) -> None:
        try:
            ray.get(future)
        except Exception as error:  # noqa: BLE001  raised where the sender waits
            self._receiver_error = error
            zmq.Context.instance().term()  # the one call on a blocked socket's context that other threads may make
