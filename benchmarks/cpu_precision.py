"""bfloat16 against float32 on this CPU: a linear layer of SmolLM2-135M, forward, and with its backward pass.

    python benchmarks/cpu_precision.py [--tokens 1024] [--turns 5]

One thread. The two precisions take turns; a ratio is that of one turn, in the processor's seconds, the median is shown.
In bfloat16 the layer runs under autocast, as in a run.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from recipe.egrsd.cpu import precision

HIDDEN, INTERMEDIATE = 576, 1536


def seconds(work: Callable[[bool], object], *, low: bool) -> float:
    began = time.process_time()
    work(low)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    weight = torch.randn(INTERMEDIATE, HIDDEN, requires_grad=True)
    hidden = torch.randn(args.tokens, HIDDEN, requires_grad=True)

    def forward(low: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return F.linear(hidden, weight)

    passes = {"forward": forward, "forward and backward": lambda low: forward(low).float().sum().backward()}
    print(f"instructions for bfloat16: {precision.multiplies_bfloat16()}")
    for name, run in passes.items():
        pairs = [(seconds(run, low=True), seconds(run, low=False)) for _ in range(args.turns + 1)]
        ratios = [slow / fast for slow, fast in pairs[1:]]  # the first call prepares kernels
        print(f"{name}: bfloat16 takes {median(ratios):.2f} times as long as float32")


if __name__ == "__main__":
    main()
