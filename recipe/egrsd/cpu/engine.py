"""verl's FSDP2 engine and worker on gloo ranks: the two places where they insist on an accelerator."""

# verl names modes of dispatch at run time; what is replaced here for a moment is its import of torch's.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import torch.distributed
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl

from recipe.egrsd.engine.fsdp import VENDOR, EgrsdEngine
from recipe.egrsd.teacher.worker import EgrsdWorker


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device=["cpu"], vendor=VENDOR)
class CpuEgrsdEngine(EgrsdEngine):
    """Keeps a forward-only model (the reference worker) in ordinary memory.

    verl streams it to the device with CPUOffloadPolicy(pin_memory=True) (transformer_impl.py:462), which refuses to run
    without one; on a CPU there is nothing to stream to, so the policy becomes none.
    """

    def _build_fsdp_module(self, module):
        policy, transformer_impl.CPUOffloadPolicy = transformer_impl.CPUOffloadPolicy, lambda **_: None
        try:
            return super()._build_fsdp_module(module)
        finally:
            transformer_impl.CPUOffloadPolicy = policy
            self._uses_fsdp2_cpu_offload_policy = False


class CpuEgrsdWorker(EgrsdWorker):
    """Opens the process group itself: verl asks for "cpu:gloo,cpu:gloo", which torch refuses
    (utils/distributed.py:89)."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self):
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", rank=self.rank, world_size=self.world_size)
        super().init_model()
