"""Accuracy and length of a model on held-out problems, with or without the reference solution in the prompt.

Plain transformers in one batch: for a model this small that takes less time than starting an inference engine.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tiny_cpu.model import student_prompt, teacher_prompt
from examples.tiny_cpu.task import Problem, make_problems

MAX_RESPONSE = 96  # tokens; the longest solution of the task has 81
THREADS = 2


@dataclass(frozen=True)
class Evaluation:
    """One entry for each problem, in the order of the problems."""

    correct: list[int]
    """1 where the last boxed text is the answer, else 0."""
    lengths: list[int]
    """Response tokens, the end-of-turn token included."""
    responses: list[str]


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences and its standard error."""

    mean: float
    error: float


def evaluate(
    model_dir: str | Path, problems: Sequence[Problem], *, greedy: bool = False, privileged: bool = False, seed: int = 0
) -> Evaluation:
    """Answers every problem once.

    Args:
        model_dir: a Hugging Face folder with model and tokenizer.
        problems: what to answer.
        greedy: take the most likely token; otherwise sample at temperature 1 from the whole vocabulary.
        privileged: the teacher's prompt, with the reference solution, instead of the student's.
        seed: of the samples; the caller's random state is left alone.
    """
    torch.set_num_threads(THREADS)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    prompt = teacher_prompt if privileged else student_prompt
    batch = tokenizer.pad({"input_ids": [prompt(tokenizer, problem) for problem in problems]}, return_tensors="pt")
    # top_k and top_p are spelt out: generate would otherwise cut the distribution to its 50 likeliest tokens.
    choice = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        output = model.generate(**batch, **choice, max_new_tokens=MAX_RESPONSE)
    responses = [_until_end(row, tokenizer.eos_token_id) for row in output[:, batch["input_ids"].size(1) :].tolist()]
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    return Evaluation(
        correct=[int(boxed(text) == problem.answer) for text, problem in zip(texts, problems, strict=True)],
        lengths=[len(response) for response in responses],
        responses=texts,
    )


def boxed(text: str) -> str | None:
    r"""What the last \boxed{} holds, or None; the task's answers hold no braces."""
    _, found, tail = text.rpartition(r"\boxed{")
    return tail.partition("}")[0] if found and "}" in tail else None


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """after - before on the same problems."""
    differences = [late - early for early, late in zip(before, after, strict=True)]
    return Difference(mean(differences), stdev(differences) / len(differences) ** 0.5)


def _until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def main() -> None:
    """Prints accuracy and length of a model: sampled, greedy, and sampled with the solution in the prompt."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="settings: on validation only")
    parser.add_argument("--size", type=int, default=500)
    args = parser.parse_args()
    problems = make_problems(args.split, args.size, seed=args.seed)
    for name, options in (("sampled", {}), ("greedy", {"greedy": True}), ("teacher", {"privileged": True})):
        start = time.perf_counter()
        result = evaluate(args.model_dir, problems, seed=args.seed, **options)
        seconds = time.perf_counter() - start
        print(f"{name:8s} accuracy {mean(result.correct):.3f}, {mean(result.lengths):.1f} tokens ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
