"""Scores and trains with verl's real FSDP2 engine on one gloo rank in verl's GPU precision: parameters and autocast in
bfloat16.

    python tests/support/bf16_engine_outputs.py MODEL_FOLDER OUT.pt

OUT.pt: packed or padded -> what the teacher's scoring pass made of the logits that its head gave it, and what the
student's loss was handed beside the logits it comes from. The engine test's other configurations score whole rows,
which no teacher does.
"""

import sys
from contextlib import contextmanager

import engine_outputs  # first: it loads register
import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested

from recipe.egrsd.engine import head
from recipe.egrsd.teacher.scoring import scoring_batch

PROMPTS, RESPONSES = (13, 5, 8, 2), (4, 9, 1, 30)
TEMPERATURE = 1.1


def main(model: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    engine, results = engine_outputs.build_engine(model, chunking=True, compiled=False, forward_only=False), {}
    for packed in (True, False):
        batch = rows(engine.model_config.hf_config.vocab_size)
        tu.assign_non_tensor(
            batch, use_remove_padding=packed, use_dynamic_bsz=True, max_token_len_per_gpu=4096, use_fused_kernels=False
        )
        results[f"{packed=}"] = {"scored": scored(engine, batch), "trained": trained(engine, batch)}
    torch.save(results, out)


def rows(vocabulary: int) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randint(vocabulary, (length,), generator=generator)  # noqa: E731  one line
    responses = [draw(length) for length in RESPONSES]
    masks = [torch.ones_like(response) for response in responses]
    return scoring_batch([draw(length).tolist() for length in PROMPTS], responses, masks, temperature=TEMPERATURE)


@contextmanager
def recorded_logits():
    """What the head's product gives in a forward pass."""
    given, scaled_log_probs = [], head.scaled_log_probs

    def recording(logits, **knobs):
        if "normaliser" not in knobs:  # which the backward pass has
            given.append(logits.detach().clone())
        return scaled_log_probs(logits, **knobs)

    head.scaled_log_probs = recording
    try:
        yield given
    finally:
        head.scaled_log_probs = scaled_log_probs


def scored(engine, batch: TensorDict) -> dict[str, Tensor]:
    with recorded_logits() as logits, engine.eval_mode():
        output = engine.infer_batch(batch)["model_output"]
    values = {
        name: response_from_nested(output[name], batch["response_mask"]).values() for name in ("log_probs", "entropy")
    }
    return {"logits": torch.cat(logits), "labels": batch["responses"].values(), **values}


def trained(engine, batch: TensorDict) -> dict:
    """What a loss gets, and whether autocast is on while it computes."""
    seen = {}

    def loss(model_output, data, dp_group=None):
        log_probs = response_from_nested(model_output["log_probs"], data["response_mask"]).values()
        seen.update(log_probs=log_probs.detach(), autocast=torch.is_autocast_enabled("cpu"))
        return -log_probs.sum(), {}

    tu.assign_non_tensor(batch, calculate_entropy=False)
    with recorded_logits() as logits, engine.train_mode():
        engine.forward_backward_batch(batch, loss)
    return {"logits": torch.cat(logits), "labels": batch["responses"].values(), **seen}


if __name__ == "__main__":
    main(*sys.argv[1:])
