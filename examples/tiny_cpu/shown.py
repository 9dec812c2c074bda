"""How often a start model is right beside what the teachers of the methods are shown, when it answers there itself.

    python -m examples.tiny_cpu.shown outputs/tiny_cpu/compare/forks/seed_0/model --task forks --seed 0

A method can only be as good as its teacher, and the warm start has taught the model a single one of these prompts, the
problem with its reference solution. Peers are the model's own responses, as in a step.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tiny_cpu.evaluate import Evaluation, evaluate, respond
from examples.tiny_cpu.model import TEACHER_TEMPLATE, TEACHER_THINKING
from examples.tiny_cpu.task import INSTRUCTION, TASKS, Problem, make_problems, reference_solution
from recipe.egrsd.privilege.prompts import prompt_ids, teacher_messages
from recipe.egrsd.privilege.texts import another_row
from recipe.egrsd.reward import compute_score

OTHER_TEMPLATE = TEACHER_TEMPLATE.with_name("other_problem.jinja")
GROUP = 8  # responses to a problem, of which peers are chosen


def shortest(group: Sequence[tuple[str, int]], *, right: bool) -> str | None:
    """The shortest right or wrong one of (text, 1 if right) pairs, the first of equal ones."""
    return min((text for text, correct in group if correct == right), key=len, default=None)


def prompts(
    problems: Sequence[Problem], groups: Sequence[Sequence[tuple[str, int]]]
) -> Iterator[tuple[str, list[tuple[Problem, list[dict]]]]]:
    """Each privilege with the problems that it can be had for, and what the teacher is then asked."""
    texts: dict[str, list[str | None]] = {
        "solution": [reference_solution(problem) for problem in problems],
        "answer_only": [problem.answer for problem in problems],
        "peer_correct": [shortest(group, right=True) for group in groups],
        "peer_wrong": [shortest(group, right=False) for group in groups],
    }
    pairs = zip(texts["answer_only"], texts["peer_correct"], strict=True)
    texts["answer_and_peer"] = [f"{answer}\n\n{peer or ''}" for answer, peer in pairs]
    for privilege, shown in texts.items():
        yield (
            privilege,
            [
                (problem, teacher_messages(problem.messages, text, instruction=INSTRUCTION, template=TEACHER_TEMPLATE))
                for problem, text in zip(problems, shown, strict=True)
                if text
            ],
        )
    others = [problems[another_row([one.question for one in problems], row)] for row in range(len(problems))]
    yield "other_problem", [
        (
            problem,
            teacher_messages(
                problem.messages, reference_solution(other), instruction=INSTRUCTION, template=OTHER_TEMPLATE,
                other_problem=other.question,
            ),
        )
        for problem, other in zip(problems, others, strict=True)
    ]  # fmt: skip


def sampled_groups(model: Path, problems: Sequence[Problem], *, seed: int) -> list[list[tuple[str, int]]]:
    """For each problem GROUP responses of the student, each with 1 if it is right, else 0."""
    runs = [evaluate(model, problems, seed=seed * GROUP + number) for number in range(GROUP)]
    pairs = [zip(run.responses, run.correct, strict=True) for run in runs]
    return [list(group) for group in zip(*pairs, strict=True)]


def answered(model: Path, asked: Sequence[tuple[Problem, list[dict]]], *, seed: int) -> Evaluation:
    """One response to each of these chats, sampled at temperature 1."""
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    network = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
    ids = [prompt_ids(tokenizer, chat, enable_thinking=TEACHER_THINKING) for _, chat in asked]
    tokens = respond(network, tokenizer, ids, max_tokens=asked[0][0].MAX_RESPONSE, greedy=False, seed=seed)
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    scores = [
        compute_score(problem.data_source, text, problem.answer)
        for (problem, _), text in zip(asked, texts, strict=True)
    ]
    return Evaluation([int(score["score"]) for score in scores], [*map(len, tokens)], texts, tokens)


def main() -> None:
    """Prints, for each privilege, how many problems it can be had for, and accuracy and length beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", choices=TASKS, default="forks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=200)
    args = parser.parse_args()
    problems = make_problems("validation", args.size, seed=args.seed, task=args.task)
    groups = sampled_groups(args.model, problems, seed=args.seed)
    alone = [correct for group in groups for _, correct in group]
    print(f"{'nothing':16s} n {len(problems)}: right {mean(alone):.3f}, {GROUP} responses each")
    for privilege, asked in prompts(problems, groups):
        if asked:
            found = answered(args.model, asked, seed=args.seed)
            print(
                f"{privilege:16s} n {len(asked)}: right {mean(found.correct):.3f}, {mean(found.lengths):.1f} tokens",
                flush=True,
            )


if __name__ == "__main__":
    main()
