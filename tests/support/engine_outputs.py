"""Runs verl's real FSDP2 engine, as EGRSD registers it, on one gloo rank in bfloat16, and keeps logits and results.

    python tests/support/engine_outputs.py MODEL_FOLDER OUT.pt [verl]

Each entry of OUT.pt is one configuration: the bfloat16 logits that the model produced, packed to (tokens, vocabulary),
the input ids, and the log-probs and entropies that the engine made of them. With ``verl`` the engine computes them as
verl does.
"""

import itertools
import os
import shutil
import sys

import torch
from tensordict import TensorDict

os.environ |= {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "recipe.egrsd.register",
    "VERL_ENGINE_VENDOR": "egrsd",
}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
import verl  # noqa: F401  loads register
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine_workers import TrainingWorkerConfig  # noqa: F401  triggers the registration

HAS_COMPILER = any(map(shutil.which, ("g++", "clang++")))
LENGTHS = (40, 7, 23, 2, 31, 12)


def build_engine(
    model: str,
    *,
    chunking: bool,
    compiled: bool,
    dtype: str = "bf16",
    forward_only: bool = True,
    checkpointing: bool = True,
    lora_rank: int = 0,
    optimizer: FSDPOptimizerConfig | None = None,
    **options,
):
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(
            path=model,
            override_config={"attn_implementation": "sdpa"},
            use_remove_padding=True,
            enable_gradient_checkpointing=checkpointing,
            lora_rank=lora_rank,
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            mixed_precision={"param_dtype": dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            use_torch_compile=compiled,
            entropy_from_logits_with_chunking=chunking,
            forward_only=forward_only,
            **options,
        ),
        optimizer_config=optimizer or FSDPOptimizerConfig(lr=0.0),
        checkpoint_config=None,
    )
    engine.initialize()
    return engine


def make_batch(vocabulary: int, *, packed: bool, dynamic: bool, temperature: float) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocabulary, (length,), generator=generator) for length in LENGTHS]
    nested = lambda columns: torch.nested.as_nested_tensor(columns, layout=torch.jagged)  # noqa: E731  one line
    mask = nested([torch.ones_like(row) for row in rows])
    columns = {
        "input_ids": nested(rows),
        "position_ids": nested([torch.arange(len(row)) for row in rows]),
        "loss_mask": mask,
    }
    batch = TensorDict(columns, batch_size=len(rows))
    tu.assign_non_tensor(
        batch, calculate_entropy=True, compute_loss=False, temperature=temperature, use_remove_padding=packed,
        use_dynamic_bsz=dynamic, max_token_len_per_gpu=64, micro_batch_size_per_gpu=2, use_fused_kernels=False,
    )  # fmt: skip
    return batch


def run(engine, batch: TensorDict, *, padded_vocabulary: int) -> dict[str, torch.Tensor]:
    """One inference pass; the last ``padded_vocabulary`` logits are -inf, as in a model whose vocabulary was padded."""
    rows = []

    def keep(module, args, kwargs, output):
        if padded_vocabulary:
            output.logits[..., -padded_vocabulary:] = -torch.inf
        for ids, logits in unpack(kwargs, output.logits):
            rows.append((tuple(ids.tolist()), logits.clone()))

    handle = engine.module.register_forward_hook(keep, with_kwargs=True)
    with engine.eval_mode():
        output = engine.infer_batch(batch)["model_output"]
    handle.remove()
    logits = dict(rows)
    return {
        "input_ids": list(batch["input_ids"].unbind()),
        "logits": [logits[tuple(row.tolist())] for row in batch["input_ids"].unbind()],
        "log_probs": list(output["log_probs"].unbind()),
        "entropy": list(output["entropy"].unbind()),
    }


def unpack(kwargs: dict, logits: torch.Tensor):
    """(ids, logits) of every row of a micro-batch, packed or padded."""
    ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
    if mask is not None:
        yield from (
            (row[keep.bool()], row_logits[keep.bool()]) for row, row_logits, keep in zip(ids, logits, mask, strict=True)
        )
        return
    starts = [*(kwargs["position_ids"][0] == 0).nonzero()[:, 0].tolist(), ids.shape[1]]
    yield from ((ids[0, a:b], logits[0, a:b]) for a, b in itertools.pairwise(starts))


def main(model: str, out: str, as_verl: str = "") -> None:
    if as_verl:
        from recipe.egrsd.engine.fsdp import EgrsdEngine

        EgrsdEngine.prepare_model_outputs = FSDPEngineWithLMHead.prepare_model_outputs
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    results = {}
    for chunking, compiled in ((True, False), (False, False), (True, True)):
        if compiled and not HAS_COMPILER:
            continue
        engine = build_engine(model, chunking=chunking, compiled=compiled)
        vocabulary = engine.model_config.hf_config.vocab_size
        for packed, dynamic, temperature, padding in itertools.product(
            (True, False), (True, False), (1.0, 1.1), (0, 9)
        ):
            batch = make_batch(vocabulary, packed=packed, dynamic=dynamic, temperature=temperature)
            name = f"{chunking=} {compiled=} {packed=} {dynamic=} {temperature=} {padding=}"
            results[name] = {"temperature": temperature, **run(engine, batch, padded_vocabulary=padding)}
    torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
