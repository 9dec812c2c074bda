"""What a start is worth, in two minutes: accuracy and entropy of the student, accuracy of the teacher.

    python -m examples.smollm2.quality --model start [--size 100]

On validation problems, on which settings may be chosen. A start can be improved by reinforcement where its samples
differ: the student's entropy says how undecided it is, and greedy answers that are right more often than sampled ones
say that it knows better than it acts.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from examples.smollm2.problems import make_problems
from examples.smollm2.warm_start import prompt_of
from examples.tiny_cpu.evaluate import Evaluation, respond
from recipe.egrsd.cpu import precision
from recipe.egrsd.reward import compute_score

MAX_TOKENS = 128
ROWS = 8  # scored at a time
ANSWERED = 25  # at a time: a batch goes on until its longest answer ends


@torch.inference_mode()
def entropy(model: PreTrainedModel, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> float:
    """Mean over all response tokens of the entropy of the distribution that each was drawn from, nats."""
    total, count = 0.0, 0
    for start in range(0, len(prompts), ROWS):
        rows = list(zip(prompts[start : start + ROWS], responses[start : start + ROWS], strict=True))
        ids = torch.zeros(len(rows), max(len(prompt) + len(response) for prompt, response in rows), dtype=torch.int64)
        chosen = torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, response) in enumerate(rows):
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor(prompt + response)
            chosen[row, len(prompt) - 1 : end - 1] = True
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        log_p = model.lm_head(hidden[chosen]).float().log_softmax(-1)
        total -= (log_p.exp() * log_p).sum().item()
        count += len(log_p)
    return total / count


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision.fastest())).eval()


def answers(
    folder: Path, problems: Sequence[dict[str, Any]], *, role: str, greedy: bool = False, seed: int = 0
) -> Evaluation:
    """Answers every problem once, sampled at T = 1 or greedily, by plain transformers, in the precision that is
    faster here."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = load(folder)
    prompts = [prompt_of(tokenizer, problem, role) for problem in problems]
    tokens = respond(model, tokenizer, prompts, max_tokens=MAX_TOKENS, greedy=greedy, seed=seed, batch_size=ANSWERED)
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    scores = [compute_score("", text, row["answer"])["score"] for text, row in zip(texts, problems, strict=True)]
    return Evaluation(scores, [len(row) for row in tokens], texts, tokens)


def quality(folder: Path, problems: Sequence[dict[str, Any]], *, seed: int = 0) -> dict[str, float]:
    """Shares right of student (sampled at T = 1, greedy) and teacher, tokens, and the student's entropy."""
    sampled = answers(folder, problems, role="student", seed=seed)
    greedy = answers(folder, problems, role="student", greedy=True)
    teacher = answers(folder, problems, role="teacher", seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load(folder)
    prompts = [prompt_of(tokenizer, problem, "student") for problem in problems]
    return {
        "sampled": mean(sampled.correct),
        "greedy": mean(greedy.correct),
        "teacher": mean(teacher.correct),
        "tokens": mean(sampled.lengths),
        "entropy": entropy(model, prompts, sampled.tokens),
    }


def main() -> None:
    """Measures a start and prints a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--size", type=int, default=100, help="validation problems")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    found = quality(args.model, make_problems("validation", args.size, seed=args.seed), seed=args.seed)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}), f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
