"""A short supervised start on worked solutions of other problems: form, style and some of the task.

    python -m examples.smollm2.warm_start --model model --out start [--solutions 768 --smoothing 0.01 …]

A quarter of the rows is put with the recipe's privileged prompt, so that the model also learns what a shown solution is
for. What is looked for is no good model but a good start: right about half of the time, and still undecided
(quality.py).
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from examples.smollm2.problems import INSTRUCTION, make_problems, messages
from recipe.egrsd.cpu import precision
from recipe.egrsd.privilege.prompts import prompt_ids, teacher_messages

ROLES = ("student", "teacher")
IGNORED = -100  # a label that counts for nothing
MULTIPLE = 16  # of which every width is one: few shapes, for each of which bfloat16 kernels are prepared

Example = tuple[list[int], list[int]]  # prompt and response, token ids


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a start is made."""

    solutions: int
    lr: float = 2e-4
    batch: int = 16
    teacher_share: float = 0.25
    smoothing: float = 0.0
    """Of labels: so much probability goes to all other tokens alike."""
    mix: float = 1.0
    """Share of the trained weights in the start; the rest are the model's as it was."""
    seed: int = 0


def prompt_of(tokenizer: Any, problem: dict[str, Any], role: str) -> list[int]:
    """The problem as it is put to the student, or with the solution to the teacher."""
    chat: Sequence[Any] = messages(problem["problem"])
    if role == "teacher":
        chat = teacher_messages(chat, problem["solution"], instruction=INSTRUCTION)
    return prompt_ids(tokenizer, chat)


def response_loss(model: PreTrainedModel, examples: Sequence[Example], *, smoothing: float) -> Tensor:
    """Sum of the cross-entropy of the response tokens, nats. Rows are padded at the end, which no real token sees."""
    width = -(-max(len(prompt) + len(response) for prompt, response in examples) // MULTIPLE) * MULTIPLE
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) - 1 : end - 1] = torch.tensor(response)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision.multiplies_bfloat16()):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        chosen = labels != IGNORED
        logits = model.lm_head(hidden[chosen])
    return F.cross_entropy(logits.float(), labels[chosen], reduction="sum", label_smoothing=smoothing)


def share_of_lr(step: int, *, steps: int) -> float:
    """Learning rate of a step as a share of the largest: a tenth of the steps up, then down to zero."""
    rising = max(1, steps // 10)
    return min((step + 1) / rising, (steps - step) / (steps - rising + 1))


def batches(tokenizer: Any, start: Start) -> Iterator[dict[str, list[Example]]]:
    """For each step the examples of each role, which are padded apart: the teacher's are longer."""
    problems = make_problems("warm_start", start.solutions, seed=start.seed)
    for first in range(0, len(problems), start.batch):
        rows: dict[str, list[Example]] = {role: [] for role in ROLES}
        for number, problem in enumerate(problems[first : first + start.batch], first):
            turn = math.floor((number + 1) * start.teacher_share) > math.floor(number * start.teacher_share)
            role = "teacher" if turn else "student"
            response = [*tokenizer.encode(problem["solution"], add_special_tokens=False), tokenizer.eos_token_id]
            rows[role].append((prompt_of(tokenizer, problem, role), response))
        yield {role: examples for role, examples in rows.items() if examples}


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, start: Start) -> None:
    """One pass over the solutions, in place."""
    torch.manual_seed(start.seed)
    steps, began, seen = -(-start.solutions // start.batch), time.perf_counter(), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=start.lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_lr(step, steps=steps))
    for step, rows in enumerate(batches(tokenizer, start)):
        count, losses = sum(len(response) for examples in rows.values() for _, response in examples), 0.0
        for examples in rows.values():
            loss = response_loss(model, examples, smoothing=start.smoothing) / count
            loss.backward()
            losses += loss.item()
            seen += sum(len(prompt) + len(response) for prompt, response in examples)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            rate = seen / (time.perf_counter() - began)
            print(f"      step {step + 1:3d} of {steps}: {losses:.3f} nats a token, {rate:.0f} tokens/s", flush=True)


def mixed(trained: dict[str, Tensor], before: dict[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """share · trained + (1 − share) · before, weight by weight."""
    return {name: torch.lerp(before[name], weight, share) for name, weight in trained.items()}


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """As a Hugging Face folder, which appears when it is complete."""
    unfinished = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)


def warm_start(base: Path, folder: Path, start: Start) -> None:
    """Trains the model in ``base`` and saves it with what it knew before, in the share of ``start.mix``."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train(model, tokenizer, start)
    if start.mix != 1:
        model.load_state_dict(mixed(model.state_dict(), before, share=start.mix))
    save(model, tokenizer, folder)


def main() -> None:
    """Makes a start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--solutions", type=int, required=True)
    for name, field in Start.__dataclass_fields__.items():
        if name != "solutions":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    model, out = args.pop("model"), args.pop("out")
    warm_start(model, out, Start(**args))


if __name__ == "__main__":
    main()
