"""Loaded by verl in every Ray process of an EGRSD run, and only there: egrsd.yaml names it in
VERL_USE_EXTERNAL_MODULES.

It stays cheap by waiting: trainer and engine are registered when the process imports verl's, which only some do.
"""

import wrapt

import recipe.egrsd.config.resolvers  # that egrsd.yaml and cpu/config.yaml name
from recipe.egrsd import cpu


@wrapt.when_imported("verl.trainer.ppo.v1")
def _register_trainers(module) -> None:
    import recipe.egrsd.trainer  # noqa: F401  registers itself


@wrapt.when_imported("verl.workers.rollout.base")
def _register_rollout(module) -> None:
    module._ROLLOUT_REGISTRY[("vllm", "async")] = "recipe.egrsd.rollout.weight_sync.WatchedServerAdapter"


@wrapt.when_imported("verl.workers.rollout.vllm_rollout.utils")
def _watch_receiver(module) -> None:
    from recipe.egrsd.rollout.receiver import saying_why

    receiver = module.vLLMColocateWorkerExtension
    receiver.update_weights_from_ipc = saying_why(receiver.update_weights_from_ipc)


@wrapt.when_imported("verl.workers.rollout.replica")
def _register_server(module) -> None:
    def load() -> type:
        from recipe.egrsd.rollout.server import OwnSocketReplica

        return OwnSocketReplica

    module.RolloutReplicaRegistry.register("vllm", load)


@wrapt.when_imported("verl.workers.engine_workers")
def _register_engine(module) -> None:
    import recipe.egrsd.engine.fsdp

    if cpu.enabled():
        import recipe.egrsd.cpu.engine  # noqa: F401  registers itself


if cpu.enabled():
    import recipe.egrsd.cpu.platform
    import recipe.egrsd.cpu.vllm  # noqa: F401  waits for the import of vLLM
