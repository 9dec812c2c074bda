"""Time and peak memory of scoring one teacher row at Qwen3's vocabulary, five ways, and how the time grows with length
and rows.

    python benchmarks/teacher_scoring.py [--prompts 1024 4096 19000] [--layers 2]

The model has the shapes of Qwen3-0.6B, so many of its layers, and random float32 weights. Each way runs in a process of
its own: its time is the shorter of two passes, its memory the growth of the process's peak resident memory over the
same pass without a head.

    no head     the body alone, and the head's matrix product on the response alone, timed apart: what cannot be avoided
    recipe      head.head_scores: response rows, float32, in chunks
    all logits  logits of all rows in float32, log_softmax, entropy
    verl        verl's torch functions on all rows' logits: logprobs_from_logits, entropy_from_logits_with_chunking
    trl         TRL's selective_log_softmax_and_entropy on the response's logits; if trl is installed

Liger's kernels need a GPU and are not here.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from recipe.egrsd.engine.head import head_scores, scoring_head
from recipe.egrsd.method.vocabulary import Entropy

SHAPES = {
    "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32_768, "tie_word_embeddings": True,
}  # fmt: skip
TEMPERATURE = 1.1
GIB = 2**30
MEMORY = 16 * GIB  # what a way may take here; one that needs more is computed, not run


def no_head(model: Qwen3ForCausalLM, ids: torch.Tensor, response: int) -> None:
    model.model(input_ids=ids, use_cache=False)


def product(model: Qwen3ForCausalLM, ids: torch.Tensor, response: int) -> None:
    hidden = torch.randn(response * len(ids), SHAPES["hidden_size"])
    for chunk in hidden.split(512):
        model.lm_head(chunk)


def recipe(model: Qwen3ForCausalLM, ids: torch.Tensor, response: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels, weight = ids[:, -response:].flatten(), model.lm_head.weight

    def score(hidden: torch.Tensor) -> torch.Tensor:
        chosen = hidden[:, -response - 1 : -1].flatten(0, 1)
        return head_scores(chosen, weight, None, labels, temperature=TEMPERATURE, also=Entropy())

    with scoring_head(model.lm_head, score):
        return model(input_ids=ids, use_cache=False).logits.unbind(-1)


def all_logits(model: Qwen3ForCausalLM, ids: torch.Tensor, response: int) -> tuple[torch.Tensor, torch.Tensor]:
    log_p = (model(input_ids=ids, use_cache=False).logits.float() / TEMPERATURE).log_softmax(-1)
    log_probs, entropy = log_p[:, :-1].gather(-1, ids[:, 1:, None])[..., 0], -(log_p.exp() * log_p).sum(-1)[:, :-1]
    return log_probs[:, -response:].flatten(), entropy[:, -response:].flatten()


def verl(model: Qwen3ForCausalLM, ids: torch.Tensor, response: int) -> tuple[torch.Tensor, torch.Tensor]:
    from verl.utils.torch_functional import entropy_from_logits_with_chunking, logprobs_from_logits

    logits = model(input_ids=ids, use_cache=False).logits.flatten(0, 1).div_(TEMPERATURE)
    log_probs, entropy = logprobs_from_logits(logits, ids.flatten().roll(-1)), entropy_from_logits_with_chunking(logits)
    return tuple(values.view_as(ids)[:, -response - 1 : -1].flatten() for values in (log_probs, entropy))


def trl(model: Qwen3ForCausalLM, ids: torch.Tensor, response: int) -> tuple[torch.Tensor, torch.Tensor]:
    from trl.trainer.utils import selective_log_softmax_and_entropy

    logits = model(input_ids=ids, use_cache=False, logits_to_keep=response + 1).logits[:, :-1]
    found = selective_log_softmax_and_entropy(
        logits, ids[:, -response:], entropy_requires_grad=False, temperature=TEMPERATURE
    )
    return tuple(values.flatten() for values in found)


WAYS = {"recipe": recipe, "all logits": all_logits, "verl": verl, "trl": trl}
# Float32 tensors of the logits' size that a way holds at its peak, and whether they span the prompt.
COPIES = {"recipe": (0, False), "all logits": (4, True), "verl": (2, True), "trl": (3, False)}


def peak() -> int:
    """Peak resident memory of this process, bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure(way: Callable, rows: int, length: int, response: int, layers: int, results: multiprocessing.Queue) -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPES, num_hidden_layers=layers)).eval()
    ids, times = torch.randint(SHAPES["vocab_size"], (rows, length)), []
    with torch.inference_mode():
        way(model, ids[:, :16], 8)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = peak()
        for _ in range(2):
            started = time.perf_counter()
            values = way(model, ids, response)
            times.append(time.perf_counter() - started)
    sums = [value.double().sum().item() for value in values] if values else None
    results.put((min(times), peak() - before, sums))


def measured(
    way: Callable, rows: int, length: int, response: int, layers: int
) -> tuple[float, int, list[float] | None]:
    """Seconds, bytes, sums of log-probs and entropies."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=measure, args=(way, rows, length, response, layers, results))
    process.start()
    found = results.get()
    process.join()
    return found


def flops_per_token(length: int, response: int, layers: int) -> float:
    """Of one row by the cost model's rules: 2 a weight, attention over half of the square, the head on the response."""
    s = SHAPES
    attention = s["hidden_size"] * s["head_dim"] * (2 * s["num_attention_heads"] + 2 * s["num_key_value_heads"])
    body = layers * (attention + 3 * s["hidden_size"] * s["intermediate_size"])
    square = 2 * length * s["num_attention_heads"] * s["head_dim"] * layers
    return 2 * body + square + 2 * s["hidden_size"] * s["vocab_size"] * response / length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1024, 4096, 19_000])
    parser.add_argument("--response", type=int, default=1024)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[2, 4], help="rows of the shortest length, for the growth"
    )
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    response, growth = args.response, []
    print("| prompt | way | time | of what cannot be avoided | memory beyond no head |\n|---|---|---|---|---|")
    for prompt in args.prompts:
        length, shape = prompt + response, (1, prompt + response, response, args.layers)
        body, floor, _ = measured(no_head, *shape)
        head, *_ = measured(product, *shape)
        print(f"| {prompt:,} | no head, and its product | {body:.1f} + {head:.1f} s | 1 | |", flush=True)
        agreed = None
        for name, way in WAYS.items():
            copies, spans = COPIES[name]
            needed = copies * (length if spans else response) * SHAPES["vocab_size"] * 4
            if needed > MEMORY or (name == "trl" and not find_spec("trl")):
                reason = f"not run: {needed / GIB:.0f} GiB computed" if needed > MEMORY else "not installed"
                print(f"| {prompt:,} | {name} | {reason} | | |")
                continue
            seconds, size, sums = measured(way, *shape)
            agreed = agreed or sums
            assert all(abs(a - b) < 1e-4 * response for a, b in zip(agreed, sums, strict=True)), (name, agreed, sums)
            shown = f"{seconds:.1f} s | {seconds / (body + head):.2f} | {(size - floor) / GIB:+.2f} GiB"
            print(f"| {prompt:,} | {name} | {shown} |", flush=True)
            if name == "recipe":
                growth.append((1, length, seconds))
    shortest = min(args.prompts) + response
    growth += [(rows, shortest, measured(recipe, rows, shortest, response, args.layers)[0]) for rows in args.rows]
    print("\n| rows | tokens of a row | ms a token | of the first | on paper |\n|---|---|---|---|---|")
    _, first_length, first = growth[0]
    for rows, length, seconds in growth:
        share = seconds / (rows * length) / (first / first_length)
        paper = flops_per_token(length, response, args.layers) / flops_per_token(first_length, response, args.layers)
        print(f"| {rows} | {length:,} | {1e3 * seconds / (rows * length):.3f} | {share:.2f} | {paper:.2f} |")


if __name__ == "__main__":
    main()
