"""Scores and trains on rows with verl's real engine on gloo ranks that split each row (Ulysses), and keeps the results.

    python tests/support/sequence_parallel_outputs.py MODEL_FOLDER OUT.pt RANKS

OUT.pt: what a scoring pass and a training pass on the responses' head say of the response tokens, and the gradient of
the head.
"""

import os
import sys

import engine_outputs
import torch
import torch.multiprocessing
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested

from recipe.egrsd.engine.packing import require_rows_apart
from recipe.egrsd.teacher.scoring import checked, scoring_batch

PROMPTS, RESPONSES = (13, 5, 8), (4, 9, 1)  # 40 tokens
KNOBS = {"use_remove_padding": True, "use_dynamic_bsz": True, "max_token_len_per_gpu": 64, "use_fused_kernels": False}


def surprise(model_output, data, dp_group=None) -> tuple[torch.Tensor, dict]:
    return -response_from_nested(model_output["log_probs"], data["response_mask"]).values().sum(), {}


def main(rank: int, model: str, out: str, ranks: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}.meeting", rank=rank, world_size=ranks)
    options = {"chunking": True, "compiled": False, "dtype": "fp32", "ulysses_sequence_parallel_size": ranks}
    engine = engine_outputs.build_engine(model, forward_only=False, **options)
    engine.require_right_scores()
    with engine.eval_mode():
        require_rows_apart(engine)  # which a model of attention alone passes
    generator = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randint(engine.model_config.hf_config.vocab_size, (length,), generator=generator)  # noqa: E731  one line
    prompts, responses = [draw(n).tolist() for n in PROMPTS], [draw(n) for n in RESPONSES]
    masks = [torch.ones_like(response) for response in responses]
    batch = scoring_batch(prompts, responses, masks, temperature=1.1)
    tu.assign_non_tensor(batch, **KNOBS)
    with engine.eval_mode():
        scores = checked(engine.infer_batch(batch)["model_output"], batch["response_mask"], names=range(3))
    tu.assign_non_tensor(batch, return_model_output=True)
    with engine.train_mode():
        output = engine.forward_backward_batch(batch, surprise)["model_output"]
        gradient = engine.module.lm_head.weight.grad.full_tensor()
    trained = checked(output, batch["response_mask"], names=range(3))
    if rank == 0:
        torch.save(
            {"scored": [s.values() for s in scores], "trained": [t.values() for t in trained], "gradient": gradient},
            out,
        )


if __name__ == "__main__":
    folder, path, number = sys.argv[1:]
    torch.multiprocessing.spawn(main, args=(folder, path, int(number)), nprocs=int(number))
