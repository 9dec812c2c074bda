"""How far two bfloat16 passes over the same tokens differ, which is what |log p_T - log p_S| cannot fall below on a
GPU.

    python benchmarks/noise_floor.py --model FOLDER [--text FILE ...] [--tokens 8192]

A pretrained model reads text in verl's GPU precision (bfloat16 weights, autocast), each row once alone and once packed
behind others, as teacher and student read the same response. The two passes are compared with each other, and one of
them with a float32 pass of the same weights; with the head's product rounded to bfloat16, as its layer returns it, and
in float32. Lines: how certain the model is, by its entropy.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipe.egrsd.engine.head import head_scores
from recipe.egrsd.method.vocabulary import Entropy

TEMPERATURE = 1.1
BINS = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 20.0)
ROOT = Path(__file__).resolve().parents[1]


def hidden_states(model, rows: Tensor, *, packed: bool, autocast: bool) -> Tensor:
    """(rows, tokens, H): what the head is given, of rows alone or of all of them in one packed row."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if not packed:
            return torch.cat([model.model(row[None], use_cache=False).last_hidden_state for row in rows])
        positions = torch.arange(rows.size(1)).repeat(len(rows))[None]
        return model.model(rows.view(1, -1), position_ids=positions, use_cache=False).last_hidden_state.view(
            *rows.shape, -1
        )


def scores(hidden: Tensor, weight: Tensor, rows: Tensor, *, float32_product: bool) -> tuple[Tensor, Tensor]:
    """Log-prob of each next token, and entropy, nats."""
    parts = []
    for row, ids in zip(hidden, rows, strict=True):
        states = row[:-1].float() if float32_product else row[:-1]
        weights = weight.to(states.dtype)
        parts.append(head_scores(states, weights, None, ids[1:], temperature=TEMPERATURE, also=Entropy()))
    return torch.cat(parts).unbind(1)


def differences(model, exact, groups: Tensor) -> dict[str, Tensor]:
    """Of every token: the exact model's entropy and, by name, |difference of log p|; both in nats.

    Args:
        exact: the model's weights in float32.
        groups: (groups, 4, tokens) ids; the rows of a group are packed.
    """
    weight, found = model.lm_head.weight.detach(), {}
    for rows in groups:
        alone, packed = (hidden_states(model, rows, packed=packed, autocast=True) for packed in (False, True))
        precisely = hidden_states(exact, rows, packed=False, autocast=False)
        reference, entropy = scores(precisely, weight, rows, float32_product=True)
        found.setdefault("entropy", []).append(entropy)
        for name, float32_product in (("bfloat16 head", False), ("float32 head", True)):
            knobs = {"float32_product": float32_product}
            one, other = (scores(hidden.bfloat16(), weight, rows, **knobs)[0] for hidden in (alone, packed))
            found.setdefault(f"two passes, {name}", []).append((one - other).abs())
            found.setdefault(f"pass against float32, {name}", []).append((one - reference).abs())
    return {name: torch.cat(parts) for name, parts in found.items()}


def lines(values: Tensor, entropy: Tensor) -> Iterator[str]:
    """Mean, quantiles and largest of all values, then of those in each bin of the entropy."""
    for low, high in [(BINS[0], BINS[-1]), *itertools.pairwise(BINS)]:
        chosen = values[(entropy >= low) & (entropy < high)]
        if len(chosen):
            quantiles = [torch.quantile(chosen, q).item() for q in (0.9, 0.99)]
            numbers = " ".join(f"{number:.4f}" for number in (chosen.mean().item(), *quantiles, chosen.max().item()))
            yield f"  {low:4.1f} to {high:4.1f} nats, {len(chosen):6,} tokens: {numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--text", type=Path, nargs="*", default=[ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    )
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--row", type=int, default=512, help="tokens of a row; four rows are packed")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ids = tokenizer("\n".join(path.read_text() for path in args.text), return_tensors="pt").input_ids[0][: args.tokens]
    groups = ids[: len(ids) // (4 * args.row) * 4 * args.row].view(-1, 4, args.row)
    model, exact = (
        AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
        for _ in range(2)
    )
    columns = differences(model, exact.float(), groups)
    entropy = columns.pop("entropy")
    print(
        f"{args.model}: {len(entropy):,} tokens, T = {TEMPERATURE}; |difference of log p|, nats: mean, 90 %, 99 %, "
        "largest"
    )
    for name, values in columns.items():
        print(f"\n{name}", *lines(values, entropy), sep="\n")


if __name__ == "__main__":
    main()
