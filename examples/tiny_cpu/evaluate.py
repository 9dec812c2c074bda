"""Accuracy and length of a model on held-out problems, with or without the reference solution in the prompt.

Plain transformers: for a model this small that takes less time than starting an inference engine.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from examples.answers import Answers
from examples.tiny_cpu.model import PROMPTS, THREADS
from examples.tiny_cpu.task import TASKS, Problem, make_problems
from recipe.egrsd.reward import compute_score

BATCH = 125  # problems; larger batches are slower, because generate copies the whole cache for every token


@dataclass(frozen=True)
class Evaluation(Answers):
    """The same with the texts."""

    responses: list[str]
    tokens: list[list[int]]
    """Token ids of the responses."""


def evaluate(
    model_dir: str | Path, problems: Sequence[Problem], *, greedy: bool = False, role: str = "student", seed: int = 0
) -> Evaluation:
    """Answers every problem once.

    Args:
        model_dir: a Hugging Face folder with model and tokenizer.
        problems: what to answer.
        greedy: take the most likely token; otherwise sample at temperature 1 from the whole vocabulary.
        role: whose prompt: the student's, or the teacher's with the reference solution.
        seed: of the samples; the caller's random state is left alone.
    """
    torch.set_num_threads(THREADS)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    prompts = [PROMPTS[role](tokenizer, problem) for problem in problems]
    responses = respond(model, tokenizer, prompts, max_tokens=problems[0].MAX_RESPONSE, greedy=greedy, seed=seed)
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    scores = [
        compute_score(problem.data_source, text, problem.answer) for text, problem in zip(texts, problems, strict=True)
    ]
    return Evaluation(
        correct=[int(score["score"]) for score in scores],
        lengths=[len(response) for response in responses],
        responses=texts,
        tokens=responses,
    )


def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    *,
    max_tokens: int,
    greedy: bool,
    seed: int,
    batch_size: int = BATCH,
) -> list[list[int]]:
    """Token ids of one response to each prompt, up to and with the end-of-turn token."""
    # top_k and top_p are spelt out: generate would otherwise cut the distribution to its 50 likeliest tokens.
    choice = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    end = tokenizer.eos_token_id
    responses = []
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            batch = tokenizer.pad({"input_ids": prompts[start : start + batch_size]}, return_tensors="pt")
            output = model.generate(**batch, **choice, max_new_tokens=max_tokens)
            rows = output[:, batch["input_ids"].size(1) :].tolist()
            responses.extend(row[: row.index(end) + 1] if end in row else row for row in rows)
    return responses


def main() -> None:
    """Prints accuracy and length of a model: sampled, greedy, and sampled with the solution in the prompt."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--task", choices=TASKS, default="addition")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--size", type=int, default=500)
    args = parser.parse_args()
    problems = make_problems(args.split, args.size, seed=args.seed, task=args.task)
    for name, options in (("sampled", {}), ("greedy", {"greedy": True}), ("teacher", {"role": "teacher"})):
        start = time.perf_counter()
        result = evaluate(args.model_dir, problems, seed=args.seed, **options)
        seconds = time.perf_counter() - start
        print(f"{name:8s} accuracy {mean(result.correct):.3f}, {mean(result.lengths):.1f} tokens ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
