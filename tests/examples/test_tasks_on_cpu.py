"""The tiny tasks, additions and forks: right by the reward, short enough for the run, in one split each."""

import hashlib
import json
import random
from collections import Counter
from itertools import permutations
from statistics import mean

import pytest

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.forks import CONNECTIVES, LEAN, LETTERS, Forks, order_of
from examples.tiny_cpu.positions import kinds_of
from examples.tiny_cpu.task import SPLITS, TASKS, make_problems, reference_solution, verl_row
from recipe.egrsd.reward import compute_score


def test_the_additions_of_the_documented_runs_are_still_the_same():
    rng, text = random.Random(0), ""
    for index, problem in enumerate(make_problems("train", 50, seed=0)):
        text += json.dumps([verl_row(problem, index), problem.student(rng), problem.teacher(rng)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "9cff575669dfdf1f"


@pytest.fixture(scope="module", params=TASKS)
def problems(request):
    return make_problems("train", 200, seed=0, task=request.param)


def right(problem, text: str) -> float:
    return compute_score(problem.data_source, text, problem.answer)["score"]


def test_references_and_teachers_are_right_by_the_reward(problems):
    rng = random.Random(0)
    assert all(
        right(problem, reference_solution(problem)) and right(problem, problem.teacher(rng)) for problem in problems
    )


def test_students_are_right_about_half_of_the_time_and_wordier(problems):
    rng = random.Random(0)
    texts = [problem.student(rng) for problem in problems]
    assert 0.3 < mean(right(*pair) for pair in zip(problems, texts, strict=True)) < 0.7
    assert mean(map(len, texts)) > 1.1 * mean(len(reference_solution(problem)) for problem in problems)


def test_no_text_is_too_long_for_the_run(problems):
    tokenizer = tiny.build_tokenizer(0, next(name for name, kind in TASKS.items() if isinstance(problems[0], kind)))
    for problem in problems:
        longest = problem.solve(random.Random(0), check=1.0) + tiny.END_OF_TURN
        assert len(tokenizer.encode(longest)) <= problem.MAX_RESPONSE
        assert len(tiny.student_prompt(tokenizer, problem)) <= problem.MAX_PROMPT
        assert len(tiny.teacher_prompt(tokenizer, problem)) <= problem.MAX_TEACHER_PROMPT


@pytest.mark.parametrize("task", TASKS)
def test_no_problem_is_in_two_splits_whatever_the_seed(task):
    keys = {
        split: {TASKS[task].key(p.numbers) for seed in (0, 1) for p in make_problems(split, 300, seed=seed, task=task)}
        for split in SPLITS
    }
    assert all(not keys[a] & keys[b] for a in SPLITS for b in SPLITS if a < b)


# ---------------------------------------------------------------- forks


def test_every_order_is_right_and_has_the_same_carries():
    problem = make_problems("train", 1, seed=0, task="forks")[0]
    for plan in list(permutations(problem.numbers))[::997]:
        shuffled = Forks(plan, problem.wording)
        assert right(problem, shuffled.solve(random.Random(0)))
        assert sum(sum(plan[:i]) % 10 + plan[i] >= 10 for i in range(1, len(plan))) == sum(plan) // 10


def test_a_teacher_leans_to_the_order_it_has_seen_and_a_student_does_not():
    """The first letter is the reference's with probability LEAN + (1 - LEAN) / 8, and 1 / 8 without having seen it."""
    rng, problems = random.Random(0), make_problems("train", 1500, seed=0, task="forks")
    for role, expected in (("teacher", LEAN + (1 - LEAN) / len(LETTERS)), ("student", 1 / len(LETTERS))):
        same = mean(
            order_of(getattr(problem, role)(rng))[0] == order_of(reference_solution(problem))[0] for problem in problems
        )
        assert abs(same - expected) < 4 * (expected * (1 - expected) / 1500) ** 0.5


def test_forks_pivots_and_locks_are_told_apart():
    tokenizer = tiny.build_tokenizer(0, "forks")
    for problem in make_problems("train", 20, seed=0, task="forks"):
        tokens = tokenizer.encode(problem.student(random.Random(1)) + tiny.END_OF_TURN)
        kinds = kinds_of(tokenizer, tokens, problem.CHOICES)
        words = {
            kind: [tokenizer.decode([token]) for token, k in zip(tokens, kinds, strict=True) if k == kind]
            for kind in kinds
        }
        lines = tokenizer.decode(tokens).split("\n")
        assert len(words["fork"]) == len(LETTERS) - 1 and {word.strip() for word in words["fork"]} < set(LETTERS)
        assert len(words["pivot"]) == len(lines) - 2 and set(words["pivot"]) <= {*CONNECTIVES, "Check"}


def test_a_broken_plan_has_no_more_forks_than_letters():
    tokenizer = tiny.build_tokenizer(0, "forks")
    kinds = kinds_of(tokenizer, tokenizer.encode("Plan: A B\nThen, A C7: 9. Plan: A B"), Forks.CHOICES)
    assert Counter(kinds)["fork"] == 2 and Counter(kinds)["pivot"] == 1
