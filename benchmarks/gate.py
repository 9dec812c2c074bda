"""Ratio weight, lookahead and gate of 32 responses of 20,000 tokens, against the training step that they weight.

    python benchmarks/gate.py [--window 3]

The step is that of a model of 20 million parameters (benchmarks/step_time.py), measured on a few of its tokens; larger
models take longer for a token, the gate does not.
"""

import argparse
import time

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from recipe.egrsd.method.weights import entropy_gate, entropy_scale, lookahead_entropy, ratio_weight

ROWS, TOKENS, SAMPLE = 32, 20_000, (4, 512)


def best_of(repeats: int, work) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=3)
    window = parser.parse_args().window
    torch.manual_seed(0)
    student, teacher, entropy = -torch.rand(ROWS, TOKENS), -torch.rand(ROWS, TOKENS), 3 * torch.rand(ROWS, TOKENS)
    mask, advantages = torch.rand(ROWS, TOKENS) < 0.99, torch.randn(ROWS, 1).expand(ROWS, TOKENS)

    def weights() -> torch.Tensor:
        scale = entropy_scale(entropy, mask)
        gate = entropy_gate(lookahead_entropy(entropy, mask, window=window), scale, gamma=0.3)
        return ratio_weight(student, teacher, advantages) * gate

    config = Qwen3Config(
        vocab_size=32_000, hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    model, ids = Qwen3ForCausalLM(config), torch.randint(32_000, SAMPLE)

    def train() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()

    gate, step = best_of(5, weights), best_of(3, train) / ids.numel() * ROWS * TOKENS
    print(f"{ROWS} x {TOKENS:,} tokens, window {window}, {model.num_parameters() / 1e6:.0f} M parameters")
    print(
        f"weights {1e3 * gate:.0f} ms, forward and backward {step:.0f} s (from {ids.numel():,} tokens): "
        f"{gate / step:.4%}"
    )


if __name__ == "__main__":
    main()
