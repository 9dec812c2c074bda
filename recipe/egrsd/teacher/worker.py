"""verl's worker plus a teacher that moves: a hard copy of the student now and then, or its exponential moving average.

Everything happens on the rank's own shards: nothing is gathered, nothing passes through vLLM. With full parameters the
teacher is verl's reference model; with LoRA it is a float32 copy of the adapter alone, swapped in for the scoring pass.
"""

# verl names modes of dispatch at run time, and says of its engines no more than that they are some; init_model looks.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import os
from collections.abc import Iterable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils.device import get_torch_device
from verl.utils.memory_utils import aggressive_empty_cache
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.egrsd.engine.fsdp import EgrsdEngine
from recipe.egrsd.method.divergence import Divergence


def local_shards(module: nn.Module, *, trainable_only: bool) -> list[Tensor]:
    """This rank's part of every parameter, sharing memory with it; FSDP2 or not sharded."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # a forward pass without a backward pass may have left it gathered
    get_torch_device().synchronize()  # verl offloads without waiting, and here the host reads (fsdp_utils.py:197)
    parameters = [p for p in module.parameters() if p.requires_grad or not trainable_only]
    return [(p.data.to_local() if isinstance(p.data, DTensor) else p.data) for p in parameters]


def move_towards(teacher: Iterable[Tensor], student: Iterable[Tensor], *, decay: float) -> None:
    """teacher = decay * teacher + (1 - decay) * student in place, in the teacher's dtype; decay 0 copies to the bit."""
    for old, new in zip(teacher, student, strict=True):
        old.lerp_(new.to(device=old.device, dtype=old.dtype), 1.0 - decay)


class EgrsdWorker(ActorRolloutRefWorker):
    """verl's worker on our engine, plus the methods that a moving teacher needs; a frozen or live one needs none of
    them."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self):
        super().init_model()
        for part in filter(None, (self.actor, self.ref)):
            if not isinstance(part.engine, EgrsdEngine):  # verl takes its own without a word if it does not find ours
                raise TypeError(
                    f"verl chose {type(part.engine).__name__}, which rounds logits to bfloat16; is VERL_ENGINE_DEVICE "
                    "or VERL_ENGINE_VENDOR set in the workers' environment? Unset it."
                )
            part.engine.require_right_scores()
        aggressive_empty_cache(force_sync=True)  # as verl ends its own part: vLLM looks for free memory next

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_teacher(self) -> int:
        """Called once, when the student still has its initial weights. Returns the number of teacher parameters on
        this rank."""
        if self.ref is None:
            student = local_shards(self.actor.engine.module, trainable_only=True)
            self.teacher_adapter = [
                shard.detach().to(device="cpu", dtype=torch.float32, copy=True) for shard in student
            ]
        return sum(shard.numel() for shard in self._teacher_shards())

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def update_teacher(self, decay: float) -> None:
        """Moves the teacher towards the student; decay 0 makes it the student."""
        student = local_shards(self.actor.engine.module, trainable_only=self.ref is None)
        move_towards(self._teacher_shards(), student, decay=decay)

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def compute_teacher_log_prob(self, data: TensorDict) -> TensorDict | None:
        """verl's compute_log_prob with the teacher's adapter in the student's place."""
        with self._teacher_adapter_in_place():
            output = self.actor.infer_batch(data)
        return output.cpu() if output is not None else None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def hold_teacher_head(self, *, part: str, **knobs) -> None:
        """Gathers the head of the part that taught, actor or ref, whole on every rank, for a divergence; knobs: its
        kind and clip."""
        engine = getattr(self, part).engine
        head, hidden = engine.module.get_output_embeddings(), engine.under_way.hidden

        def gathered(part: Tensor | None) -> Tensor | None:
            if part is None:
                return None
            part = part.detach().to(hidden.device)
            return (part.full_tensor() if isinstance(part, DTensor) else part.clone()).to(hidden.dtype)

        self.actor.engine.divergence = partial(
            Divergence, weight=gathered(head.weight), bias=gathered(head.bias), **knobs
        )

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def update_actor(self, data: TensorDict) -> TensorDict:
        """verl's, after which nothing of the teacher stays on the device while vLLM is awake."""
        output = super().update_actor(data)
        for part in filter(None, (self.actor, self.ref)):
            part.engine.divergence = part.engine.under_way = None
        return output

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_teacher(self, folder: str) -> None:
        """Writes this rank's shards, whole or not at all."""
        path = self._teacher_file(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([shard.cpu() for shard in self._teacher_shards()], f"{path}.partial")
        os.replace(f"{path}.partial", path)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_teacher(self, folder: str) -> None:
        """Restores what ``save_teacher`` wrote with the same number of ranks."""
        move_towards(self._teacher_shards(), torch.load(self._teacher_file(folder)), decay=0.0)

    def _teacher_shards(self) -> list[Tensor]:
        return self.teacher_adapter if self.ref is None else local_shards(self.ref.engine.module, trainable_only=False)

    def _teacher_file(self, folder: str) -> Path:
        return Path(folder) / f"egrsd_teacher_world_size_{self.world_size}_rank_{self.rank}.pt"

    @contextmanager
    def _teacher_adapter_in_place(self):
        def write(values: Iterable[Tensor]) -> None:
            move_towards(local_shards(self.actor.engine.module, trainable_only=True), values, decay=0.0)

        student = [shard.clone() for shard in local_shards(self.actor.engine.module, trainable_only=True)]
        write(self.teacher_adapter)
        try:
            yield
        finally:
            write(student)
