"""An update of SSOPD by verl's real FSDP2 engine on gloo ranks, of which some responses are pulled, and its gradients.

    python tests/support/pulled_outputs.py MODEL_FOLDER OUT.pt RANKS

One response is pulled whole, one in part, the others not at all; a micro-batch of one rank has none that is.
"""

import os
import sys
from dataclasses import replace
from functools import partial

import engine_outputs  # sets the platform
import torch
from composing import settings
from micro_batches import actor_config
from torch import Tensor
from transformers import AutoModelForCausalLM
from verl.utils import tensordict_utils as tu

from recipe.egrsd.engine import fsdp
from recipe.egrsd.loss import training_loss
from recipe.egrsd.method.divergence import Divergence
from recipe.egrsd.teacher.scoring import nested, scoring_batch

PROMPTS, RESPONSES, PULLED = (13, 5, 8, 2, 7, 11), (4, 9, 1, 30, 6, 17), (0, 0, 1, 12, 0, 0)
WEIGHT, CLIP, TEMPERATURE = 0.125, 0.02, 1.1


def drawn(vocabulary: int, size: int) -> dict[str, list]:
    """Prompts, responses, a group's advantages and what the teacher's head was given; the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randint(vocabulary, (length,), generator=generator)  # noqa: E731  one line each
    random = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731  one line each
    return {
        "prompts": [draw(length) for length in PROMPTS],
        "responses": [draw(length) for length in RESPONSES],
        "advantages": [(random(1) * 4 - 2).expand(length).clone() for length in RESPONSES],
        "hidden": [4 * random(length, size) - 2 for length in PULLED],
        "weights": [WEIGHT * (torch.arange(n) < pulled) for n, pulled in zip(RESPONSES, PULLED, strict=True)],
    }


def share(columns: dict[str, list], *, rank: int, ranks: int):
    mine = {name: column[rank::ranks] for name, column in columns.items()}
    masks = [torch.ones_like(response) for response in mine["responses"]]
    batch = scoring_batch([ids.tolist() for ids in mine["prompts"]], mine["responses"], masks, temperature=TEMPERATURE)
    zeros = nested([torch.zeros(len(mask)) for mask in masks])
    batch["advantages"], batch["pull_weight"] = nested(mine["advantages"]), nested(mine["weights"])
    batch["teacher_log_probs"], batch["teacher_entropy"], batch["teacher_mask"] = zeros, zeros, nested(masks)
    batch["teacher_hidden"] = nested([rows.flatten() for rows in mine["hidden"]])
    tu.assign_non_tensor(
        batch, calculate_entropy=False, use_remove_padding=True, use_dynamic_bsz=True, max_token_len_per_gpu=40,
        use_fused_kernels=False, global_batch_size=len(PROMPTS), egrsd_entropy_scale=2.5, egrsd_gate_mean=0.8,
        egrsd_mixing=1.0,
        egrsd_keeps_hidden=False,
    )  # fmt: skip
    return batch


def plain(model: str, columns: dict[str, list], head: Tensor) -> dict[str, Tensor]:
    """The same gradients by plain forward passes and torch's own differentiation."""
    network, total = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), 0.0
    for prompt, response, advantages, hidden, weights in zip(*columns.values(), strict=True):
        logits = network(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        student = (logits / TEMPERATURE).log_softmax(-1)
        of_tokens = student.gather(-1, response[:, None])[:, 0]
        total = total - (advantages * of_tokens).mean() / len(PROMPTS)
        teacher = (hidden @ head.T / TEMPERATURE).log_softmax(-1)
        student = student[: len(hidden)]
        divergence = (teacher.exp() * (teacher - student)).clamp(max=CLIP).sum(-1)
        total = total + (weights[: len(hidden)] * divergence).sum()
    total.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def main(rank: int, model: str, out: str, ranks: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}.meeting", rank=rank, world_size=ranks)
    fsdp.head_scores = partial(fsdp.head_scores, chunk_logits=1000)
    engine = engine_outputs.build_engine(model, chunking=True, compiled=False, dtype="fp32", forward_only=False)
    config = engine.model_config.hf_config
    columns = drawn(config.vocab_size, config.hidden_size)
    head = torch.rand(config.vocab_size, config.hidden_size, generator=torch.Generator().manual_seed(1)) - 0.5
    engine.divergence = partial(Divergence, weight=head, kind="forward_kl", clip=CLIP)
    batch = share(columns, rank=rank, ranks=ranks)
    actor = replace(actor_config(), loss_agg_mode="seq-mean-token-mean")
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch, partial(training_loss, actor, settings("ssopd")))
        found = {name: p.grad.full_tensor().clone() for name, p in engine.module.named_parameters()}
    if rank == 0:
        torch.save({"engine": found, "plain": plain(model, columns, head)}, out)


if __name__ == "__main__":
    folder, path, number = sys.argv[1:]
    torch.multiprocessing.spawn(main, args=(folder, path, int(number)), nprocs=int(number))
