"""Trains with verl's real FSDP2 engine on gloo ranks, once from scores made in chunks and once from all logits.

    python tests/support/both_forms.py MODEL_FOLDER OUT.pt RANKS

OUT.pt: configuration -> form -> gradients of the first step of cl_egrsd, whole, and, in float32, preset -> parameters
after three steps of plain descent on the preset's own loss. A rank has its share of six rows: one has a response of one
token, one of none, one a hole in its mask. A head so small would fit into one chunk, so that chunks are smaller here.
"""

import itertools
import os
import sys
from functools import partial

import engine_outputs  # first: it loads register
import torch
import torch.multiprocessing
from composing import settings
from micro_batches import actor_config
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPOptimizerConfig

from recipe.egrsd.engine import fsdp
from recipe.egrsd.loss import egrsd_loss
from recipe.egrsd.teacher.scoring import nested, scoring_batch
from recipe.egrsd.teacher.worker import local_shards, move_towards
from recipe.egrsd.token_weight import SHARES

PRESETS = ("egrsd", "cl_egrsd", "egrsd_mean_gate", "egrsd_ungated", "rlsd", "rlcsd", "sipo")
FORMS = {"chunks": True, "all logits": False}
PROMPTS, RESPONSES = (13, 5, 8, 2, 7, 11), (4, 9, 1, 30, 0, 17)
CHUNK_LOGITS = 1000
DESCENT = FSDPOptimizerConfig(optimizer="SGD", lr=0.2, weight_decay=0.0, clip_grad=1000.0)


def rows(vocabulary: int, *, rank: int, ranks: int) -> TensorDict:
    """This rank's share of an update's rows, with a teacher's scores and advantages drawn at random."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randint(vocabulary, (length,), generator=generator)  # noqa: E731  one line each
    random = lambda length: torch.rand(length, generator=generator)  # noqa: E731  one line each
    responses = [draw(length) for length in RESPONSES]
    masks = [torch.ones_like(response) for response in responses]
    masks[3][5:9] = 0
    columns = {
        "teacher_log_probs": [-6 * random(length) for length in RESPONSES],
        "contrast_log_probs": [-6 * random(length) for length in RESPONSES],
        "teacher_entropy": [3 * random(length) for length in RESPONSES],
        "teacher_mask": masks,
        "advantages": [(random(1) * 4 - 2).expand(length).clone() for length in RESPONSES],
    }
    prompts = [draw(length).tolist() for length in PROMPTS]
    mine = slice(rank, None, ranks)
    batch = scoring_batch(prompts[mine], responses[mine], masks[mine], temperature=1.1)
    for name, column in columns.items():
        batch[name] = nested(column[mine])
    tu.assign_non_tensor(
        batch, calculate_entropy=False, use_remove_padding=True, use_dynamic_bsz=True, max_token_len_per_gpu=64,
        use_fused_kernels=False, global_batch_size=len(PROMPTS), egrsd_entropy_scale=2.5, egrsd_gate_mean=0.8,
        **{f"egrsd_{share}": 1.0 for share in SHARES},
    )  # fmt: skip
    return batch


def whole(engine, what: str) -> dict[str, Tensor]:
    """grad or data of every trained parameter."""
    return {
        name: getattr(parameter, what).full_tensor().clone()
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }


def loss_of(name: str, batch: TensorDict) -> partial:
    """The preset's loss hook, of whose step the batch is told."""
    egrsd = settings(name)
    tu.assign_non_tensor(batch, egrsd_mixing=egrsd.mixing_at(1))
    return partial(egrsd_loss, actor_config(), egrsd)


def trained(engine, batch: TensorDict, *, steps: bool) -> dict:
    """See above."""
    start = [shard.clone() for shard in local_shards(engine.module, trainable_only=False)]
    results = {}
    for form, chunks in FORMS.items():
        tu.assign_non_tensor(batch, egrsd_in_chunks=chunks)
        with engine.train_mode():
            engine.optimizer_zero_grad()
            engine.forward_backward_batch(batch, loss_of("cl_egrsd", batch))
            results[form] = {"gradients": whole(engine, "grad")}
            for name in PRESETS if steps else ():
                for _ in range(3):
                    engine.train_batch(batch, loss_of(name, batch))
                results[form][name] = whole(engine, "data")
                move_towards(local_shards(engine.module, trainable_only=False), start, decay=0.0)
    return results


def main(rank: int, model: str, out: str, ranks: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}.meeting", rank=rank, world_size=ranks)
    fsdp.head_scores = partial(fsdp.head_scores, chunk_logits=CHUNK_LOGITS)
    results = {}
    for dtype, checkpointing in itertools.product(("fp32", "bf16"), (True, False)):
        options = {"chunking": True, "compiled": False, "forward_only": False, "optimizer": DESCENT}
        engine = engine_outputs.build_engine(model, dtype=dtype, checkpointing=checkpointing, **options)
        batch = rows(engine.model_config.hf_config.vocab_size, rank=rank, ranks=ranks)
        results[f"{dtype} {checkpointing=}"] = trained(engine, batch, steps=dtype == "fp32")
    engine = engine_outputs.build_engine(model, dtype="fp32", lora_rank=4, **options)
    results["adapter"] = trained(engine, batch, steps=True)
    if rank == 0:
        torch.save(results, out)


if __name__ == "__main__":
    folder, path, number = sys.argv[1:]
    torch.multiprocessing.spawn(main, args=(folder, path, int(number)), nprocs=int(number))
