"""verl's vLLM adapter with a weight sync that fails instead of hanging.

The trainer's worker sends weights over a socket and waits for the engine's answer without a time limit. If the engine raised or
died meanwhile, no answer comes, and the exception rests in a future that nobody reads
(workers/rollout/vllm_rollout/vllm_rollout.py:186). Here somebody does.
"""

import threading

import ray
import zmq
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter


class WatchedServerAdapter(ServerAdapter):
    """Raises the engine's own error out of update_weights."""

    async def update_weights(self, *args, **kwargs):
        self._receiver_error: Exception | None = None
        try:
            await super().update_weights(*args, **kwargs)
        except zmq.ContextTerminated:
            raise RuntimeError("the rollout engine could not take the new weights") from self._receiver_error

    async def _execute_method(self, method: str, non_block: bool = False, **kwargs):
        future = await super()._execute_method(method, non_block=non_block, **kwargs)
        if method == "update_weights_from_ipc" and future is not None:
            threading.Thread(target=self._release_sender_on_error, args=(future,), daemon=True).start()
        return future

    def _release_sender_on_error(self, future: ray.ObjectRef) -> None:
        try:
            ray.get(future)
        except Exception as error:
            self._receiver_error = error
            zmq.Context.instance().term()  # the one call on a blocked socket's context that other threads may make
