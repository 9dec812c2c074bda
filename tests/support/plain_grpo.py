"""verl's own GRPO on this machine's CPU: verl's trainer, engine and loss, with only what a CPU forces on them."""

import ray
import wrapt
from omegaconf import open_dict


@wrapt.when_imported("verl.trainer.ppo.v1")
def _register_trainer(module) -> None:
    from recipe.egrsd.cpu.engine import CpuEgrsdWorker

    @module.register_trainer("plain_sync")
    class PlainSync(module.PPOTrainerSync):
        def __init__(self, config):
            with open_dict(config):
                config.trainer.v1.trainer_mode = "sync"
            super().__init__(config)

        def _init_resource_pool_mgr(self):
            super()._init_resource_pool_mgr()
            for role in self.role_worker_mapping:
                if "Actor" in role.name:
                    self.role_worker_mapping[role] = ray.remote(CpuEgrsdWorker)


@wrapt.when_imported("recipe.egrsd.cpu.engine")
def _register_engine(module) -> None:
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    @EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device=["cpu"])
    class PlainEngine(module.CpuEgrsdEngine):
        prepare_model_outputs = FSDPEngineWithLMHead.prepare_model_outputs
