"""What a model is unsure of: entropy, disagreement with the teacher, and gate by kind of position (fork, pivot, lock).

Kinds come from the text alone: the regular expressions of the task say which words of a solution are freely chosen.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from examples.tiny_cpu.evaluate import evaluate
from examples.tiny_cpu.model import PROMPTS, THREADS
from examples.tiny_cpu.task import TASKS, Problem, make_problems
from recipe.egrsd.method.weights import entropy_gate, entropy_scale, lookahead_entropy

KINDS = ("fork", "pivot", "lock")
GATES = {"gamma 0.3": (0.3, 0), "gamma 0.3, W 3": (0.3, 3), "gamma 1.0": (1.0, 0), "gamma 1.0, W 5": (1.0, 5)}


@dataclass(frozen=True)
class Scores:
    """Of every response token of B responses, padded at the end; each (B, T), nats."""

    log_probs: Tensor
    entropy: Tensor
    mask: Tensor
    """bool; True = a token of the response."""


def kinds_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], choices: dict[str, str]) -> list[str]:
    """The kind of every token of a response: that of the choice which its first letter belongs to, else lock."""
    pieces = [tokenizer.decode([token]) for token in tokens]
    text = "".join(pieces)
    kind_at = dict.fromkeys(range(len(text)), "lock")
    for kind, pattern in choices.items():
        for match in re.finditer(pattern, text, re.MULTILINE):
            kind_at |= dict.fromkeys(range(*match.span()), kind)
    starts = [len("".join(pieces[:index])) for index in range(len(pieces))]
    return [kind_at.get(start, "lock") for start in starts]


def score(model: PreTrainedModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Scores:
    """Log-prob and entropy, over the whole vocabulary at temperature 1, of the responses after their prompts."""
    torch.set_num_threads(THREADS)
    width = max(map(len, responses))
    shape = (len(responses), width)
    log_probs, entropy, mask = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    with torch.inference_mode():
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            ids = torch.tensor([[*prompt, *response]])
            logs = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            log_probs[row, : len(response)] = logs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
            entropy[row, : len(response)] = torch.special.entr(logs.exp()).sum(-1)
            mask[row, : len(response)] = True
    return Scores(log_probs, entropy, mask)


def profile(
    student_dir: Path, teacher_dir: Path, problems: Sequence[Problem], responses: Sequence[Sequence[int]]
) -> dict[str, dict[str, float]]:
    """For each kind of position: its share of the tokens, then means over its tokens.

    Args:
        student_dir, teacher_dir: Hugging Face folders; the second model is shown the reference solutions.
        problems: what was asked.
        responses: the student's, token ids.
    """
    tokenizer = AutoTokenizer.from_pretrained(student_dir)
    student, teacher = (
        score(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
            [PROMPTS[role](tokenizer, problem) for problem in problems],
            responses,
        )
        for role, folder in (("student", student_dir), ("teacher", teacher_dir))
    )
    values = {
        "student_entropy": student.entropy,
        "teacher_entropy": teacher.entropy,
        "log_ratio_abs": (teacher.log_probs - student.log_probs).abs(),
        **_gates(teacher),
    }
    kinds = [kinds_of(tokenizer, tokens, problems[0].CHOICES) for tokens in responses]
    table = {}
    for kind in KINDS:
        chosen = torch.zeros_like(student.mask)
        for row, names in enumerate(kinds):
            chosen[row, : len(names)] = torch.tensor([name == kind for name in names])
        table[kind] = {"share": (chosen.sum() / student.mask.sum()).item()}
        table[kind] |= {name: value[chosen].mean().item() for name, value in values.items()}
    return table


def _gates(teacher: Scores) -> dict[str, Tensor]:
    """The gate under several settings, its denominator the largest entropy of all these responses."""
    scale = entropy_scale(teacher.entropy, teacher.mask)
    return {
        name: entropy_gate(lookahead_entropy(teacher.entropy, teacher.mask, window=window), scale, gamma=gamma)
        for name, (gamma, window) in GATES.items()
    }


def table_of(rows: dict[str, dict[str, float]]) -> str:
    """The profile as text."""
    names = list(next(iter(rows.values())))
    lines = [f"{'':6s}" + "".join(f"{name:>17s}" for name in names)]
    lines += [f"{kind:6s}" + "".join(f"{value:17.3f}" for value in row.values()) for kind, row in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Prints the profile of a warm-started model's own responses to held-out problems."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--task", choices=TASKS, default="forks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=200)
    args = parser.parse_args()
    problems = make_problems("validation", args.size, seed=args.seed, task=args.task)
    responses = evaluate(args.model_dir, problems, seed=args.seed).tokens
    print(table_of(profile(args.model_dir, args.model_dir, problems, responses)))


if __name__ == "__main__":
    main()
