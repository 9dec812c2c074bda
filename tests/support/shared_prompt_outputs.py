"""Scores groups of responses with verl's real engine on one gloo rank, each row alone or with shared prompts, keeps the
scores.

    python tests/support/shared_prompt_outputs.py MODEL_FOLDER OUT.pt

OUT.pt: name of the configuration -> rows of a micro-batch, log-probs and entropies of the responses in the order of the
batch.
"""

import sys
from itertools import product

import engine_outputs  # first: it loads register
import torch
from verl.utils import tensordict_utils as tu

from recipe.egrsd.engine.packing import require_rows_apart
from recipe.egrsd.teacher.rows import scoring_order
from recipe.egrsd.teacher.scoring import checked, scoring_batch

GROUP = 4
PROMPTS, RESPONSES = (50, 33, 61), (5, 9, 1, 12, 7, 8, 3, 4, 11, 2, 6, 10)
LIMITS = {"alone": 0, "one group": 150, "three groups": 1000}  # tokens of a micro-batch; three groups have at most 300


def main(model: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    engine = engine_outputs.build_engine(model, chunking=True, compiled=False, dtype="fp32")
    engine.require_right_scores()
    with engine.eval_mode():
        require_rows_apart(engine)  # which a model of attention alone passes
    generator, results = torch.Generator().manual_seed(0), {}
    draw = lambda length: torch.randint(engine.model_config.hf_config.vocab_size, (length,), generator=generator)  # noqa: E731  one line
    prompts = [draw(length).tolist() for length in PROMPTS]
    responses = [draw(length) for length in RESPONSES]
    of_row = [prompts[row % len(prompts)] for row in range(len(responses))]  # groups are not neighbours
    for (name, limit), packed in product(LIMITS.items(), (True, False)):
        order, sharing = scoring_order(of_row, RESPONSES, num_ranks=1, max_tokens=limit)
        rows, answers = [of_row[row] for row in order], [responses[row] for row in order]
        masks = [torch.ones_like(answer) for answer in answers]
        batch = scoring_batch(rows, answers, masks, temperature=1.1, sharing=sharing)
        limits = {} if sharing else {"use_dynamic_bsz": True, "max_token_len_per_gpu": 200}
        tu.assign_non_tensor(batch, use_remove_padding=packed, use_fused_kernels=False, **limits)
        with engine.eval_mode():
            output = engine.infer_batch(batch)["model_output"]
        scores = checked(output, batch["response_mask"], names=order)
        results[f"{name}, {packed=}"] = {
            "micro_batch": sharing.rows_of_micro_batch if sharing else None,
            "scores": [[column.unbind()[order.index(row)] for row in range(len(order))] for column in scores],
        }
    torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
