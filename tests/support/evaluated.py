"""A finished evaluation made of given texts, which no model wrote."""

from pathlib import Path

from recipe.egrsd.evaluate import run, store
from recipe.egrsd.evaluate.problems import Problem
from recipe.egrsd.evaluate.responses import Recorder

SETTINGS = {"model": "m", "temperature": 1.0, "versions": {"torch": "2"}}


def fill(folder: Path, recorder: Recorder, problems: list[Problem], answers: dict[str, list[str]], **changes) -> None:
    """A finished run whose responses to each problem (by index) are these texts."""
    with store.lock(folder):
        store.begin(folder, {**SETTINGS, **changes})
        for problem in problems:
            texts = answers[problem.index]
            ids = [recorder.tokenizer.encode(text, add_special_tokens=False) for text in texts]
            store.append(folder, [recorder.row(problem, i, ids[i], truncated=not texts[i]) for i in range(len(texts))])
        samples = {problem.benchmark: len(answers[problem.index]) for problem in problems}
        run.conclude(folder, problems, samples, SETTINGS)
