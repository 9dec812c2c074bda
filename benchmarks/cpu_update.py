"""Why an update on a CPU takes longer than a plain training loop: verl's engine with one setting after another changed.

    PYTHONPATH=.:tests/support python benchmarks/cpu_update.py [--layers 30] [--rows 32] [--turns 2]

A Llama of SmolLM2-135M's shape with random weights, in bfloat16, prompts of about 90 and responses of about 50 tokens.
Every way makes the same update of all parameters with cl_egrsd's loss; the ways take turns in one process, and a ratio
is that of one turn to the plain loop of it: padded batches of eight rows, torch's cross entropy, no FSDP. On a machine
that does other work the processor's seconds are the ones to look at, and they say nothing about threads.

    as it was          one thread, which is what Ray gives a rank; gradients gathered for each micro-batch; layers
                       recomputed in the backward pass
    threads            a thread for each core
    + one gather       gradients gathered once an update (use_no_sync_for_gradient_accumulation)
    + kept activations no layer is recomputed (enable_gradient_checkpointing=false)
    ... packs of n     of those, the largest micro-batch (ppo_max_token_len_per_gpu)
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import engine_outputs  # first: it loads register
import torch
from composing import settings
from micro_batches import actor_config
from tensordict import TensorDict
from transformers import LlamaConfig, LlamaForCausalLM
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPOptimizerConfig

from examples.smollm2.warm_start import response_loss
from examples.tiny_cpu import model as tiny
from recipe.egrsd.loss import egrsd_loss
from recipe.egrsd.teacher.scoring import nested, scoring_batch

SHAPE = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
PROMPT, RESPONSE, SPREAD = 90, 50, 15  # tokens
PLAIN_ROWS = 8
CORES = len(os.sched_getaffinity(0))
KEPT = {"threads": CORES, "no_sync": True, "checkpointing": False}
WAYS = {
    "as it was": {"threads": 1, "no_sync": False, "checkpointing": True, "pack": 1024},
    "threads": {"threads": CORES, "no_sync": False, "checkpointing": True, "pack": 1024},
    "+ one gather": {"threads": CORES, "no_sync": True, "checkpointing": True, "pack": 1024},
    "+ kept activations": {**KEPT, "pack": 1024},
    "... packs of 320": {**KEPT, "pack": 320},
    "... packs of 640": {**KEPT, "pack": 640},
    "... packs of 2048": {**KEPT, "pack": 2048},
}


def make_batch(rows: int) -> TensorDict:
    """An update's rows, with a teacher's scores and advantages drawn at random."""
    generator = torch.Generator().manual_seed(0)

    def length(mean: int) -> int:
        return int(torch.randint(mean - SPREAD, mean + SPREAD + 1, (1,), generator=generator))

    def ids(number: int) -> torch.Tensor:
        return torch.randint(3, SHAPE["vocab_size"], (number,), generator=generator)

    prompts, responses = (
        [ids(length(PROMPT)).tolist() for _ in range(rows)],
        [ids(length(RESPONSE)) for _ in range(rows)],
    )
    masks = [torch.ones_like(response) for response in responses]
    batch = scoring_batch(prompts, responses, masks, temperature=1.0)
    random = [torch.rand(len(response), generator=generator) for response in responses]
    batch["teacher_log_probs"], batch["teacher_entropy"] = nested([-6 * each for each in random]), nested(random)
    batch["teacher_mask"] = nested(masks)
    batch["advantages"] = nested([(each[:1] * 4 - 2).expand(len(each)).clone() for each in random])
    tu.assign_non_tensor(
        batch, calculate_entropy=False, use_remove_padding=True, use_dynamic_bsz=True, use_fused_kernels=False,
        global_batch_size=rows, egrsd_entropy_scale=2.5, egrsd_gate_mean=0.8, egrsd_mixing=1.0,
        egrsd_in_chunks=True,
    )  # fmt: skip
    return batch


def update(engine, batch: TensorDict, *, threads: int, no_sync: bool, checkpointing: bool, pack: int) -> None:
    """One update under these settings."""
    torch.set_num_threads(threads)
    object.__setattr__(engine.engine_config, "use_no_sync_for_gradient_accumulation", no_sync)
    for module in engine.module.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = checkpointing
    tu.assign_non_tensor(batch, max_token_len_per_gpu=pack)
    engine.train_batch(batch, partial(egrsd_loss, actor_config(), settings("cl_egrsd")))


def plain_update(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: TensorDict) -> None:
    """The same tokens in a loop of torch's own."""
    torch.set_num_threads(CORES)
    pairs = zip(batch["input_ids"].unbind(), batch["responses"].unbind(), strict=True)
    examples = [(row[: -len(response)].tolist(), response.tolist()) for row, response in pairs]
    count = sum(len(response) for _, response in examples)
    for start in range(0, len(examples), PLAIN_ROWS):
        (response_loss(model, examples[start : start + PLAIN_ROWS], smoothing=0.0) / count).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """On the clock, and of the processor in all threads."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY")
    args = parser.parse_args()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=args.layers))
    with tempfile.TemporaryDirectory() as folder:
        tiny.save(model, tiny.build_tokenizer(), Path(folder))
        options = {"chunking": False, "compiled": False, "forward_only": False}
        engine = engine_outputs.build_engine(folder, optimizer=FSDPOptimizerConfig(lr=1e-6), **options)
    optimizer, batch = torch.optim.AdamW(model.parameters(), lr=1e-6), make_batch(args.rows)
    tokens, times = batch["input_ids"].values().numel(), {}
    for turn in range(-1, args.turns):  # the first warms up
        found = {"plain loop": seconds(partial(plain_update, model, optimizer, batch))}
        with engine.train_mode():
            found |= {name: seconds(partial(update, engine, batch, **WAYS[name])) for name in args.ways}
        for name, value in found.items() if turn >= 0 else ():
            times.setdefault(name, []).append(value)
    print(
        f"{CORES} cores, {args.layers} layers, {args.rows} rows, {tokens} tokens in all, medians of {args.turns} turns"
    )
    print("| way | seconds | tokens/s | of the plain loop | seconds of the processor | of the plain loop |")
    print("|---|---|---|---|---|---|")
    for name, turns in times.items():
        wall = median(value for value, _ in turns)
        cells = [name, f"{wall:.1f}", f"{tokens / wall:.0f}", spread(turns, times["plain loop"], clock=0)]
        used = median(value for _, value in turns)
        print(f"| {' | '.join(cells)} | {used:.1f} | {spread(turns, times['plain loop'], clock=1)} |")


def spread(turns: list[tuple[float, float]], plain: list[tuple[float, float]], *, clock: int) -> str:
    """Median and extremes of the ratios of each turn."""
    ratios = sorted(ours[clock] / theirs[clock] for ours, theirs in zip(turns, plain, strict=True))
    return f"{median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
