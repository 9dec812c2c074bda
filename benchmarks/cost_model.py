"""What a step costs on paper: FLOPs and memory of each stage for Qwen3-4B and 8B. Everything here is computed, nothing measured.

    python benchmarks/cost_model.py [--tflops 400] [--gpus 8] [--rows 32] [--response 1024]

Matrix products cost 2 FLOPs a weight and token; causal attention 2 * context * heads * head_dim FLOPs a token and layer (scores
and values, half of the square). A backward pass costs two forward passes, gradient checkpointing one more.
"""

import argparse
from dataclasses import dataclass


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
PASSES_OF_UPDATE = 4  # forward, backward (2), recomputation under gradient checkpointing


def stages(model: Model, *, rows: int, prompt: int, privileged: int, response: int) -> dict[str, float]:
    """FLOPs of a batch. verl's passes run the head on the prompt, too; the teacher's runs it on the response alone."""
    student, teacher = prompt + response, privileged + response
    forward = model.body_flops(student) + model.head_flops(student)
    return {
        "old_log_prob": rows * forward,
        "teacher": rows * (model.body_flops(teacher) + model.head_flops(response)),
        "teacher, head on all rows": rows * (model.body_flops(teacher) + model.head_flops(teacher)),
        "update": rows * PASSES_OF_UPDATE * forward,
    }


def main() -> None:
    """Prints one table a model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tflops", type=float, default=400.0, help="what a GPU reaches in bf16, not its peak")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--response", type=int, default=1024)
    args = parser.parse_args()
    shape = f"{args.rows} rows, prompt {args.prompt}, response {args.response}"
    print(f"{shape}, {args.gpus} GPUs at {args.tflops:g} TFLOP/s (computed)")
    for model in MODELS:
        print(f"\n{model.name}: {model.weights / 1e9:.2f} G weights, head {model.head_weights * 2 / 2**30:.2f} GiB in bf16")
        print("| privileged prompt | old_log_prob | teacher | with all logits | update | EGRSD / GRPO | logits of one row |")
        print("|---|---|---|---|---|---|---|")
        for privileged in (1024, 4096, 8192, 19_000):
            flops = stages(model, rows=args.rows, prompt=args.prompt, privileged=privileged, response=args.response)
            seconds = {name: value / (args.gpus * args.tflops * 1e12) for name, value in flops.items()}
            ratio = (flops["teacher"] + flops["update"]) / (flops["old_log_prob"] + flops["update"])
            logits = (privileged + args.response) * model.vocabulary * 4 / 2**30
            print(
                f"| {privileged:,} | {seconds['old_log_prob']:.2f} s | {seconds['teacher']:.2f} s | "
                f"{seconds['teacher, head on all rows']:.2f} s | {seconds['update']:.2f} s | {ratio:.2f} | {logits:.1f} GiB |"
            )


if __name__ == "__main__":
    main()
