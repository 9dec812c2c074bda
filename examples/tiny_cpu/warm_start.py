"""Supervised warm start: the model learns to add, to be careless and wordy, and to use a solution it is shown.

Two kinds of examples, both in the recipe's own prompts:

    student   the problem alone                 -> a careless and wordy solution
    teacher   the problem and a right solution  -> a right and concise solution, in words of its own

So the same weights are right about half the time without the solution and nearly always with it.
"""

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from examples.tiny_cpu.model import (
    END_OF_TURN,
    THREADS,
    build_model,
    build_tokenizer,
    save,
    student_prompt,
    teacher_prompt,
)
from examples.tiny_cpu.task import CHECK, FORGET, TEACHER_CHECK, Problem, make_problems, solve

STEPS = 200
STUDENT_ROWS, TEACHER_ROWS = 24, 8  # of each step
MUON_LR, ADAMW_LR = 0.02, 0.005
WARM_UP, COOL_DOWN = 10, 80  # steps of rising and of falling learning rate

Example = tuple[list[int], list[int]]  # prompt and response, token ids


def student_example(tokenizer: PreTrainedTokenizerBase, problem: Problem, rng: random.Random) -> Example:
    """The problem alone, answered carelessly and wordily."""
    response = solve(problem, rng, forget=FORGET, check=CHECK) + END_OF_TURN
    return student_prompt(tokenizer, problem), tokenizer.encode(response, add_special_tokens=False)


def teacher_example(tokenizer: PreTrainedTokenizerBase, problem: Problem, rng: random.Random) -> Example:
    """The problem with its solution, answered rightly; the two solutions choose their words independently."""
    response = solve(problem, rng, check=TEACHER_CHECK) + END_OF_TURN
    return teacher_prompt(tokenizer, problem), tokenizer.encode(response, add_special_tokens=False)


def response_losses(model: Qwen3ForCausalLM, examples: Sequence[Example]) -> Tensor:
    """Cross-entropy of every response token, nats, in one flat tensor.

    Rows are padded at the end. Attention is causal, so no real token sees the padding and no mask is needed.
    """
    width = max(len(prompt) + len(response) for prompt, response in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    for row, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    labels = labels[:, 1:]
    chosen = labels != -100
    return F.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen], reduction="none")


def optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms; AdamW alone needs far more steps."""
    layers = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name}
    others = [weight for name, weight in model.named_parameters() if name not in layers]
    return [
        torch.optim.Muon(layers.values(), lr=MUON_LR, weight_decay=0.0),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def share_of_lr(step: int) -> float:
    """Learning rate of a step as a share of the largest: up, flat, down to zero."""
    return min(1.0, (step + 1) / WARM_UP, (STEPS - step) / COOL_DOWN)


def warm_start(folder: Path, *, seed: int) -> None:
    """Builds tokenizer and model, trains, and saves a Hugging Face folder; the same folder for the same seed."""
    torch.set_num_threads(THREADS)
    tokenizer = build_tokenizer(seed)
    model = build_model(tokenizer, seed)
    rng = random.Random(seed)
    problems = iter(make_problems("warm_start", STEPS * (STUDENT_ROWS + TEACHER_ROWS), seed=seed))
    steppers = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(stepper, share_of_lr) for stepper in steppers]
    for step in range(STEPS):
        students = [student_example(tokenizer, next(problems), rng) for _ in range(STUDENT_ROWS)]
        teachers = [teacher_example(tokenizer, next(problems), rng) for _ in range(TEACHER_ROWS)]
        # Two passes, because teacher rows are longer and would pad the others.
        losses = [response_losses(model, examples) for examples in (students, teachers)]
        torch.cat(losses).mean().backward()
        for stepper, schedule in zip(steppers, schedules, strict=True):
            stepper.step()
            schedule.step()
            stepper.zero_grad()
        if step % 50 == 0 or step == STEPS - 1:
            student, teacher = (loss.mean().item() for loss in losses)
            print(f"      step {step:3d}: student {student:.3f}, teacher {teacher:.3f} nats a token", flush=True)
    save(model, tokenizer, folder)


def main() -> None:
    """Warm-starts a model and saves it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    warm_start(args.out, seed=args.seed)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
