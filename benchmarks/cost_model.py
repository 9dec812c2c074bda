"""What a step costs on paper: FLOPs and memory of each stage for Qwen3-4B and 8B. Everything here is computed, nothing
measured.

    python benchmarks/cost_model.py [--tflops 400] [--rows 32] [--response 1024]

Matrix products cost 2 FLOPs a weight and token; causal attention 2 * context * heads * head_dim FLOPs a token and layer
(scores and values, half of the square). A backward pass costs two forward passes, gradient checkpointing one more.
"""

import argparse
from dataclasses import dataclass
from itertools import product
from math import ceil


@dataclass(frozen=True)
class Model:
    """Shapes as in the models' config.json."""

    name: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def body_weights(self) -> int:
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def head_weights(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        return self.body_weights + self.head_weights * (1 if self.tied else 2)

    def body_flops(self, length: int) -> float:
        """Forward pass of one row, without the head."""
        attention = 2 * length * self.heads * self.head_dim * self.layers
        return length * (2 * self.body_weights + attention)

    def head_flops(self, tokens: int) -> float:
        return 2.0 * tokens * self.head_weights


MODELS = [
    Model("Qwen3-4B", 36, 2560, 9728, 32, 8, 128, 151_936, tied=True),
    Model("Qwen3-8B", 36, 4096, 12_288, 32, 8, 128, 151_936, tied=False),
]
CONTEXTS, GROUPS, GPUS = (
    (4096, 8192, 20_000),
    (1, 8),
    (1, 8, 32, 64),
)  # privileged prompt + response; rollouts of a prompt


@dataclass(frozen=True)
class Passes:
    """Forward passes that an update is worth."""

    body: int
    """Forward, backward (one for the inputs, one for the weights if they are trained), recomputation of the layers."""
    head: int
    """Ours makes the logits of a trained head again (engine/head.py)."""
    verls_head: int
    """Its logits stay in memory."""


PASSES = {"all": Passes(4, 4, 3), "adapter": Passes(3, 2, 2)}
"""By what is trained; an adapter's own products are left out."""


def teacher_tokens(*, privileged: int, response: int, group: int) -> tuple[float, int]:
    """Tokens that the teacher computes for a row, and passes through its weights: scoring_order shares a prompt
    where it pays."""
    shared = (privileged + group * response) / group
    return (shared, 2) if 2 * shared <= privileged + response else (privileged + response, 1)


def stages(
    model: Model, *, rows: int, prompt: int, privileged: int, response: int, group: int, trained: str = "all"
) -> dict[str, float]:
    """FLOPs of a batch. verl's passes run the head on the prompt, too; the recipe's on the response alone."""
    length, tokens = prompt + response, teacher_tokens(privileged=privileged, response=response, group=group)[0]
    forward, passes = model.body_flops(length) + model.head_flops(length), PASSES[trained]
    # The attention of a shared prompt is counted as for a row that has it: an upper bound.
    teacher = model.body_flops(privileged + response) * tokens / (privileged + response) + model.head_flops(response)
    return {
        "old_log_prob": rows * forward,
        "update, verl": rows * (passes.body * model.body_flops(length) + passes.verls_head * model.head_flops(length)),
        "teacher": rows * teacher,
        "update": rows * (passes.body * model.body_flops(length) + passes.head * model.head_flops(response)),
    }


def gathered_bytes(model: Model, *, rows: int, gpus: int, tokens: float, limit: int, passes: int) -> float:
    """What FSDP sends to a GPU in bf16 while its share of the rows goes through the model, a micro-batch at a time."""
    micro_batches = ceil(rows / gpus * tokens / limit)
    return 2.0 * model.weights * micro_batches * passes * (gpus - 1) / gpus


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tflops", type=float, default=400.0, help="what a GPU reaches in bf16, not its peak")
    parser.add_argument("--link", type=float, default=200.0, help="GB/s at which a GPU receives gathered weights")
    parser.add_argument("--limit", type=int, default=20_480, help="tokens of a scoring micro-batch")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--response", type=int, default=1024)
    args = parser.parse_args()
    shape = {"rows": args.rows, "prompt": args.prompt, "response": args.response}
    print(
        f"computed, not measured: {args.rows} rows, prompt {args.prompt}, response {args.response} tokens; PFLOP of a "
        "batch"
    )
    print("| model | context | n | old_log_prob | teacher | update, verl | update | EGRSD / GRPO | logits verl keeps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model, context, group in product(MODELS, CONTEXTS, GROUPS):
        flops = stages(model, **shape, privileged=context - args.response, group=group)
        ratio = (flops["teacher"] + flops["update"]) / (flops["old_log_prob"] + flops["update, verl"])
        shown = " | ".join(
            f"{flops[name] / 1e15:.1f}" for name in ("old_log_prob", "teacher", "update, verl", "update")
        )
        logits = context * model.vocabulary * 4 / 2**30
        print(f"| {model.name} | {context:,} | {group} | {shown} | {ratio:.2f} | {logits:.1f} GiB a row |")
    print(
        f"\nteacher, n = 1: seconds at {args.tflops:g} TFLOP/s a GPU + seconds to gather weights at {args.link:g} GB/s"
    )
    print(
        "| model | context | " + " | ".join(f"{gpus} GPUs" for gpus in GPUS) + " |\n|---|---" + "|---" * len(GPUS) + "|"
    )
    for model, context in product(MODELS, CONTEXTS):
        cells = []
        for gpus in GPUS:
            # A GPU scores whole rows: more GPUs than rows help no further.
            rows = ceil(args.rows / gpus) * gpus
            flops = stages(model, **shape | {"rows": rows}, privileged=context - args.response, group=1)["teacher"]
            size = gathered_bytes(model, rows=rows, gpus=gpus, tokens=context, limit=args.limit, passes=1)
            cells.append(f"{flops / gpus / args.tflops / 1e12:.2f} + {size / args.link / 1e9:.2f}")
        print(f"| {model.name} | {context:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
