"""Peak memory and time of the divergence over a real vocabulary: in chunks as the recipe computes it, and all at once.

Each form runs in a process of its own, forward and backward; what is measured is the growth of the process's peak resident
memory over the student's logits and the teacher's hidden states, which both forms need.

    python benchmarks/divergence_memory.py
"""

import argparse
import multiprocessing
import resource
import time

import torch

from recipe.egrsd.divergence import chunked_divergence

VOCABULARY, HIDDEN = 151_936, 256  # Qwen3's vocabulary; a small head, so that its product is not what takes the time
MIB = 2**20


def peak() -> int:
    """Peak resident memory of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(tokens: int, chunk_tokens: int, kind: str, results: multiprocessing.Queue) -> None:
    torch.manual_seed(0)
    logits = torch.randn(tokens, VOCABULARY).requires_grad_()
    hidden, head = torch.randn(tokens, HIDDEN), torch.randn(VOCABULARY, HIDDEN) / HIDDEN**0.5
    before, started = peak(), time.perf_counter()
    value = chunked_divergence(
        logits, hidden, head, temperature=1.0, kind=kind, clip=0.05, chunk_tokens=chunk_tokens
    ).mean()
    value.backward()
    results.put((peak() - before, time.perf_counter() - started, value.item()))


def main() -> None:
    """Prints one line for each number of tokens."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--kind", default="forward_kl", choices=("forward_kl", "reverse_kl"))
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{args.kind}, vocabulary {VOCABULARY:,}; MiB beyond inputs; one float32 tensor of logits has 594 MiB at 1,024 tokens")
    for tokens in args.tokens:
        row = []
        for chunk in (args.chunk, tokens):
            results = context.Queue()
            process = context.Process(target=measure, args=(tokens, chunk, args.kind, results))
            process.start()
            row.append(results.get())
            process.join()
        (chunked, chunked_s, value), (whole, whole_s, same) = row
        print(
            f"{tokens:5d} tokens: {chunked / MIB:7.0f} in chunks of {args.chunk}, {whole / MIB:7.0f} at once "
            f"({whole / chunked:.1f} x); time {chunked_s:.1f} s, {whole_s:.1f} s; means {value:.6f}, {same:.6f}"
        )


if __name__ == "__main__":
    main()
