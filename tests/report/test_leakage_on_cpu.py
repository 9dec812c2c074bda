"""What of a reference solution is found again in responses: overlaps of words, and phrases that speak of it."""

import pytest

from recipe.egrsd.report import leakage


def row(response: str, solution: str | None, prompt: str = "What is 1 + 1?") -> dict:
    return {"tokens": [response], "solution": solution, "prompt": prompt}


def test_overlap_counts_the_own_reference_against_the_others():
    poem = "the quick brown fox jumps over the lazy dog and then it sleeps"
    other = "a completely different text about nothing that anybody would want to read here"
    audit = leakage.audit([row(f"I say {poem}", poem), row("one two three four five six seven eight nine", other)], 5)
    assert audit.own.mean == pytest.approx(8 / 10 / 2) and audit.others.mean == 0
    assert audit.longest.mean == pytest.approx(13 / 2) and (audit.step, audit.num_responses) == (5, 2)


def test_words_of_the_problem_do_not_count():
    poem = "the quick brown fox jumps over the lazy dog"
    audit = leakage.audit([row(poem, poem, prompt=f"Translate: {poem}")], 1)
    assert audit.own.mean is None and audit.phrases.mean == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("According to the reference solution, x = 3", 1), ("As stated in the solution we get 5", 1),
        ("The solution says 4", 1), ("I was given the answer 7.", 1),
        ("the answer key has 9; the ground truth is 9", 2), ("So the solution is 4.", 0),
        ("We check the answer: 5 is right.", 0), ("my solution shows that", 0), ("the preference solution", 0),
    ],
)  # fmt: skip
def test_phrases_that_speak_of_a_reference(text, found):
    assert len(leakage.telling_phrases(text, "Solve.")) == found
    assert leakage.telling_phrases(text, f"Solve. {text}") == []
