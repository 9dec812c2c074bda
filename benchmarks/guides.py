"""Tokens that the teacher reads in a step of ogls_sd, as a ratio to opsd on the same rollouts. Counted, not timed.

    python benchmarks/guides.py [--problems 32] [--group 8] [--response 2048] [--tokens 1024]

By the rows and the order that teacher/rows.py hands out: one pass a guide over the wrong responses, cut to the pulled
tokens, each pass sharing a problem's prompt where that halves its tokens. How many responses of a problem are wrong is
drawn evenly from 0 to all. opsd reads every response once, whole, behind the solution.
"""

import argparse
import random

import torch

from recipe.egrsd.teacher.rows import evened, scoring_order

PROBLEM, FRAME, SOLUTION = 200, 300, 500
"""Tokens of the student's prompt, of what stands around a guide, of a solution."""
LIMIT = 2**17
"""Tokens of a scoring micro-batch."""


def tokens_read(prompts: list[list[int]], lengths: list[int], *, shares: bool) -> int:
    """Of one pass: prompts that are shared once for each group, fillings included."""
    rows = [torch.zeros(length, dtype=torch.int64) for length in lengths]
    filled, responses, *_ = evened(prompts, rows, rows, [""] * len(rows), num_ranks=1)
    sizes = [*map(len, responses)]
    order, sharing = scoring_order(filled, sizes, num_ranks=1, max_tokens=LIMIT * shares, real=len(prompts))
    if sharing is None:
        return sum(map(len, prompts)) + sum(lengths)
    return sum(len(filled[row]) for row in order[:: sharing.group_size]) + sum(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--response", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=1024)
    args = parser.parse_args()
    rng = random.Random(0)
    wrong = [rng.randint(0, args.group) for _ in range(args.problems)]
    rows = [problem for problem, count in enumerate(wrong) for _ in range(count)]
    pulled = [min(args.tokens, args.response)] * len(rows)
    opsd = args.problems * args.group * (FRAME + SOLUTION + args.response)
    passes = [PROBLEM, FRAME + SOLUTION, *[FRAME + args.response] * args.group]
    print(f"opsd: {opsd:,} tokens in one pass; ogls_sd: {len(rows)} wrong responses, {len(passes)} passes")
    print("| ogls_sd | tokens | ratio to opsd |\n|---|---|---|")
    for name, shares in (("every prompt read alone", False), ("shared prompts", True)):
        total = sum(tokens_read([[p] * length for p in rows], pulled, shares=shares) for length in passes)
        print(f"| {name} | {total:,} | {total / opsd:.1f} |")


if __name__ == "__main__":
    main()
