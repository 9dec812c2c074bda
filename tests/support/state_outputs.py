"""Scores responses by models whose layers keep a state, with verl's real engine on one gloo rank and by plain
transformers, each row alone.

    python tests/support/state_outputs.py FOLDER OUT.pt

OUT.pt: kind of model -> log-probs and entropies of the responses "alone" (plain transformers), "padded" and "packed"
(the engine); and what the worker says of packs.
"""

import sys
from pathlib import Path

import engine_outputs  # first: it loads register
import torch
import transformers
from plain import plain_forward
from torch import Tensor
from verl.utils import tensordict_utils as tu

from examples.tiny_cpu import model as tiny
from recipe.egrsd.teacher.scoring import checked, scoring_batch

TEMPERATURE = 1.1
PROMPTS, RESPONSES = (19, 33, 26), (5, 9, 1, 12, 7, 8)  # two responses a prompt
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
IMAGES = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
    "num_position_embeddings": 16,
}  # fmt: skip


def build(kind: str, tokenizer: transformers.PreTrainedTokenizerBase) -> transformers.PreTrainedModel:
    """With a state that lasts, as in a trained model: the random one is forgotten after a token or two."""
    sizes = SIZES | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    if kind == "qwen3_5":  # verl marks its packs with the borders of their rows
        text = sizes | {"tie_word_embeddings": True}
        config = transformers.Qwen3_5Config(text_config=text, vision_config=IMAGES, tie_word_embeddings=True)
        model = transformers.Qwen3_5ForConditionalGeneration(config)
    else:
        model = transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**sizes, **EXPERTS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "visual" not in name:
                parameter.mul_(8.0 if "lm_head" in name else 4.0)
            elif "dt_bias" in name:
                parameter.fill_(-3.0)
            elif "A_log" in name:
                parameter.fill_(-2.0)
    return model.float().eval()


def scored(engine, prompts: list[list[int]], responses: list[Tensor], *, packed: bool) -> list[tuple[Tensor, Tensor]]:
    masks = [torch.ones_like(response) for response in responses]
    batch = scoring_batch(prompts, responses, masks, temperature=TEMPERATURE)
    tu.assign_non_tensor(
        batch, use_remove_padding=packed, use_fused_kernels=False, use_dynamic_bsz=True, max_token_len_per_gpu=100
    )
    with engine.eval_mode():
        output = engine.infer_batch(batch)["model_output"]
    columns = checked(output, batch["response_mask"], names=range(len(prompts)))
    return list(zip(*(column.unbind() for column in columns), strict=True))


def main(folder: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    tokenizer, results = tiny.build_tokenizer(), {}
    generator = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randint(len(tokenizer), (length,), generator=generator)  # noqa: E731  one line
    prompts = [draw(length).tolist() for length in PROMPTS for _ in range(2)]
    responses = [draw(length) for length in RESPONSES]
    for kind in ("qwen3_5", "qwen3_next"):
        model = build(kind, tokenizer)
        tiny.save(model, tokenizer, Path(folder) / kind)
        rows = zip(prompts, responses, strict=True)
        found = {"alone": [plain_forward(model, *row, temperature=TEMPERATURE) for row in rows]}
        engine = engine_outputs.build_engine(str(Path(folder) / kind), chunking=True, compiled=False, dtype="fp32")
        for packed in (False, True):
            found["packed" if packed else "padded"] = scored(engine, prompts, responses, packed=packed)
        try:
            engine.require_right_scores()
        except TypeError as error:
            found["said"] = str(error)
        engine.use_remove_padding = False
        engine.require_right_scores()
        results[kind] = found
    torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
