"""Time and memory of the student's head, forward and backward, at Qwen3's vocabulary: ours, verl's and others, in turn.

    PYTHONPATH=. python benchmarks/head.py [--hidden 1024] [--tokens 1024 2048] [--ways before recipe] [--frozen]
        [--chunks] [--dtype float32]

Every way is given the same hidden states, weight and labels, and returns log-probs; the gradients of a weighted sum of
them by hidden states and weight follow. One thread, seconds of its CPU time, so that other work on the machine counts
little; the ways take turns, and a ratio is that of one turn to the first way of it. Memory is the peak of what exists
beside the inputs (benchmarks/logit_memory.py), gradients and all.

    before      float32 logits of all positions, verl's function on them, torch's gradient: the update of
                score_student=always, and of this recipe before its head scored in chunks
    recipe      engine/head.py
    verl        verl's own: logits in the model's dtype, divided there, its function on them
    all logits  float32 logits, log_softmax, gather
    checkpoint  chunks of 441 positions under torch's checkpoint
    trl         TRL's ChunkedLogProbFunction, if trl is installed
    verl torch  verl's FusedLinearForPPO, always with the entropy

``+ entropy``: it is computed beside the log-probs, without a gradient, as verl does to log it.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from benchmarks.logit_memory import Peak
from recipe.egrsd.engine.fsdp import float32_logits
from recipe.egrsd.engine.head import CHUNK_LOGITS, head_scores
from recipe.egrsd.method.vocabulary import Entropy

VOCABULARY = 151_936
TEMPERATURE = 1.1
GIB = 2**30


def recipe(hidden: Tensor, weight: Tensor, labels: Tensor, *, entropy: bool = False, chunk: int = CHUNK_LOGITS):
    also = Entropy() if entropy else None
    knobs = {"temperature": TEMPERATURE, "also": also, "chunk_logits": chunk}
    return head_scores(hidden, weight, None, labels, **knobs)[:, 0]


def before(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from verl.utils.torch_functional import logprobs_from_logits

    temperatures = torch.full((len(hidden), 1), TEMPERATURE)  # as verl has them, one a token: the quotient is float32
    return logprobs_from_logits(float32_logits(linear(hidden, weight), temperatures), labels)


def verl(hidden: Tensor, weight: Tensor, labels: Tensor, *, entropy: bool = False) -> Tensor:
    from verl.utils.torch_functional import entropy_from_logits_with_chunking, logprobs_from_logits

    logits = linear(hidden, weight).div_(TEMPERATURE)
    if entropy:
        with torch.no_grad():
            entropy_from_logits_with_chunking(logits)
    return logprobs_from_logits(logits, labels)


def all_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return (linear(hidden, weight).float() / TEMPERATURE).log_softmax(-1).gather(-1, labels[:, None])[:, 0]


def checkpointed(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    rows = max(1, CHUNK_LOGITS // len(weight))
    parts = zip(hidden.split(rows), labels.split(rows), strict=True)
    return torch.cat([checkpoint(all_logits, part, weight, chosen, use_reentrant=False) for part, chosen in parts])


def trl(hidden: Tensor, weight: Tensor, labels: Tensor, *, entropy: bool = False) -> Tensor:
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    outputs = ("entropy",) if entropy else ()
    settings = TEMPERATURE, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, outputs
    return ChunkedLogProbFunction.apply(hidden, weight, None, labels, *settings)[0]


def verl_torch(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    return FusedLinearForPPO()(hidden, weight, labels, TEMPERATURE)[0]


WAYS = {
    "before": before, "recipe": recipe, "verl": verl, "all logits": all_logits, "checkpoint": checkpointed, "trl": trl,
    "recipe + entropy": partial(recipe, entropy=True), "verl + entropy": partial(verl, entropy=True),
    "trl + entropy": partial(trl, entropy=True), "verl torch": verl_torch,
}  # fmt: skip
CHUNKS = {f"2^{power}": partial(recipe, chunk=2**power) for power in (22, 24, 25, 26, 27, 28)}


def once(way: Callable, inputs: tuple[Tensor, Tensor, Tensor], each: Tensor) -> tuple[float, int, float]:
    """Seconds, bytes beside the inputs, and a number that all ways must agree on."""
    wanted = [part for part in inputs[:2] if part.requires_grad]
    started = time.process_time()
    with Peak() as peak:
        peak.known.update(part.untyped_storage()._cdata for part in inputs)
        scores = way(*inputs)
        torch.autograd.grad((each * scores.float()).sum(), wanted)
    seconds = time.process_time() - started
    return seconds, peak.reserved, (each * scores.detach().double()).mean().item()


def turns(ways: dict[str, Callable], *, tokens: int, hidden: int, vocabulary: int, args) -> Iterator[tuple]:
    """Name, median seconds, ratios to the first way, largest memory."""
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    states = torch.randn(tokens, hidden, dtype=dtype).requires_grad_()
    weight = torch.randn(vocabulary, hidden, dtype=dtype).mul_(2 / hidden**0.5).requires_grad_(not args.frozen)
    inputs, each = (states, weight, torch.randint(vocabulary, (tokens,))), torch.rand(tokens)
    found = {name: [] for name in ways}
    for _ in range(args.turns):
        for name, way in ways.items():
            found[name].append(once(way, inputs, each))
    first = next(iter(found.values()))
    for name, taken in found.items():
        # bfloat16 logits divided by the temperature in bfloat16 (verl's own) are a few hundredths of a nat away
        assert abs(taken[0][2] - first[0][2]) < 0.02, (name, taken[0][2], first[0][2])
        ratios = [mine[0] / base[0] for mine, base in zip(taken, first, strict=True)]
        yield name, median(seconds for seconds, *_ in taken), ratios, max(size for _, size, _ in taken)


def table(args, ways: dict[str, Callable], shapes: list[tuple[int, int, int]]) -> None:
    print("| hidden | vocabulary | tokens | way | seconds | of the first way's | memory, GiB |\n" + "|---" * 7 + "|")
    for hidden, vocabulary, tokens in shapes:
        for name, seconds, ratios, size in turns(ways, tokens=tokens, hidden=hidden, vocabulary=vocabulary, args=args):
            spread = f"{median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
            print(
                f"| {hidden:,} | {vocabulary:,} | {tokens:,} | {name} | {seconds:.1f} | {spread} | {size / GIB:.2f} |",
                flush=True,
            )


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1024])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[VOCABULARY])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *CHUNKS], default=list(WAYS), metavar="WAY")
    parser.add_argument("--chunks", action="store_true", help="ours with chunks of 2^22 to 2^28 logits instead")
    parser.add_argument("--frozen", action="store_true", help="as under an adapter, the head has no gradient")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".* engine is not available", UserWarning)  # verl's, of each it does not find
    torch.set_num_threads(1)
    ways = CHUNKS if args.chunks else {name: (WAYS | CHUNKS)[name] for name in args.ways}
    ways = {name: way for name, way in ways.items() if not name.startswith("trl") or find_spec("trl")}
    recipe(torch.randn(4, 8).requires_grad_(), torch.randn(9, 8).requires_grad_(), torch.arange(4)).sum().backward()
    print(f"{args.dtype}, {'frozen' if args.frozen else 'trained'} head, {args.turns} turns, one thread's CPU time")
    table(args, ways, [(h, v, t) for h in args.hidden for v in args.vocabulary for t in args.tokens])


if __name__ == "__main__":
    main()
