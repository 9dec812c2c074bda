"""Supervised warm start: the model learns the task, to be careless and wordy, and to use a solution it is shown.

Three kinds of examples, all in the recipe's own prompts; the task says how many of each:

    student   the problem alone                 -> a careless and wordy solution
    teacher   the problem and a right solution  -> a right and concise solution, in words of its own
    concise   the problem and the word concise  -> a careless and concise solution (CRISP's teacher)

So the same weights are right about half the time without the solution and nearly always with it.
"""

import argparse
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from examples.tiny_cpu.model import END_OF_TURN, PROMPTS, THREADS, build_model, build_tokenizer, save
from examples.tiny_cpu.task import TASKS, Problem, make_problems

MUON_LR, ADAMW_LR = 0.02, 0.005
WARM_UP, COOL_DOWN = 10, 80  # steps of rising and of falling learning rate

Example = tuple[list[int], list[int]]  # prompt and response, token ids


def example(tokenizer: PreTrainedTokenizerBase, problem: Problem, role: str, rng: random.Random) -> Example:
    """A problem as it is put to the role, and what the role says to it."""
    response = getattr(problem, role)(rng) + END_OF_TURN
    return PROMPTS[role](tokenizer, problem), tokenizer.encode(response, add_special_tokens=False)


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


def share_of_lr(step: int, *, steps: int) -> float:
    """Learning rate of a step as a share of the largest: up, flat, down to zero."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / COOL_DOWN)


def warm_start(folder: Path, *, seed: int, task: str = "addition") -> None:
    """Builds tokenizer and model, trains, and saves a Hugging Face folder; the same folder for the same seed."""
    torch.set_num_threads(THREADS)
    tokenizer = build_tokenizer(seed, task)
    model = build_model(tokenizer, seed)
    rng = random.Random(seed)
    steps, rows = TASKS[task].WARM_START_STEPS, TASKS[task].WARM_START_ROWS
    problems = iter(make_problems("warm_start", steps * sum(rows.values()), seed=seed, task=task))
    steppers = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(stepper, partial(share_of_lr, steps=steps)) for stepper in steppers]
    for step in range(steps):
        # A pass for each role, because teacher rows are longer and would pad the others.
        examples = {role: [example(tokenizer, next(problems), role, rng) for _ in range(rows[role])] for role in rows}
        losses = {role: response_losses(model, examples[role]) for role in rows}
        torch.cat(list(losses.values())).mean().backward()
        for stepper, schedule in zip(steppers, schedules, strict=True):
            stepper.step()
            schedule.step()
            stepper.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            shown = ", ".join(f"{role} {loss.mean().item():.3f}" for role, loss in losses.items())
            print(f"      step {step:3d}: {shown} nats a token", flush=True)
    save(model, tokenizer, folder)


def warm_start_once(folder: Path, *, seed: int, task: str) -> None:
    """The same, unless the folder is there already. It appears when it is complete."""
    if folder.exists():
        print("      already there")
        return
    unfinished = folder.with_name(f"{folder.name}.partial")
    warm_start(unfinished, seed=seed, task=task)
    unfinished.rename(folder)


def main() -> None:
    """Warm-starts a model and saves it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--task", choices=TASKS, default="addition")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    warm_start(args.out, seed=args.seed, task=args.task)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
