"""One evaluation: what is missing, generated, graded and stored; then the figures."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pandas as pd
from tqdm import tqdm

from recipe.egrsd.evaluate import Refused, store, summary
from recipe.egrsd.evaluate.engine import Loading, Request, Sampling, generate
from recipe.egrsd.evaluate.problems import Problem
from recipe.egrsd.evaluate.responses import Recorder

PART_SECONDS = 60  # a part is written at least so often while responses come in: what a kill can cost
STORED = ("benchmark", "index", "sample", "fingerprint")


def missing(folder: Path, problems: Sequence[Problem], samples: Mapping[str, int]) -> list[tuple[Problem, int]]:
    """Every (problem, sample) that the folder does not hold yet.

    Raises:
        Refused: if it holds answers to another text under the name of one of these problems.
    """
    fingerprints = {problem.key: problem.fingerprint for problem in problems}
    done = set()
    for row in store.read(folder, STORED):
        key = row["benchmark"], row["index"]
        if fingerprints.get(key, row["fingerprint"]) != row["fingerprint"]:
            raise Refused(
                f"{folder} holds answers to another text of {key[0]}, problem {key[1]}: the benchmark file has changed "
                "since. Name another folder, or the file of that time."
            )
        done.add((key, row["sample"]))
    wanted = [(problem, sample) for problem in problems for sample in range(samples[problem.benchmark])]
    return [(problem, sample) for problem, sample in wanted if (problem.key, sample) not in done]


def complete(
    folder: Path,
    work: Sequence[tuple[Problem, int]],
    recorder: Recorder,
    loading: Loading,
    sampling: Sampling,
    *,
    part_size: int,
) -> None:
    """Generates, grades and stores that work, one part file for ``part_size`` responses."""
    prompts = {problem.key: recorder.prompt(problem) for problem, _ in work}
    requests = [
        Request(number, prompts[problem.key], problem.seed(sample, run_seed=loading.seed))
        for number, (problem, sample) in enumerate(work)
    ]
    rows, correct, tokens, written = [], 0.0, 0, monotonic()
    with closing(generate(requests, loading, sampling)) as responses:  # whatever happens here, the engines end
        bar = tqdm(responses, total=len(work), unit="response", desc="generating")
        try:
            for count, response in enumerate(bar, 1):
                problem, sample = work[response.number]
                row = recorder.row(problem, sample, response.tokens, truncated=response.finish_reason == "length")
                rows.append(row)
                correct, tokens = correct + row["score"], tokens + row["tokens"]
                bar.set_postfix(correct=f"{correct / count:.1%}", tokens=f"{tokens / count:,.0f}")
                if len(rows) >= part_size or monotonic() - written > PART_SECONDS:
                    store.append(folder, rows)
                    rows, written = [], monotonic()
        finally:
            if rows:
                store.append(folder, rows)


def conclude(
    folder: Path, problems: Iterable[Problem], samples: Mapping[str, int], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes problems.parquet and results.json about exactly these problems and numbers of samples, and returns the
    results."""
    keys = {problem.key for problem in problems}
    rows = pd.DataFrame(
        row
        for row in store.read(folder, summary.COLUMNS)
        if (row["benchmark"], row["index"]) in keys and row["sample"] < samples[row["benchmark"]]
    )
    benchmarks = {name: summary.figures(rows[rows["benchmark"] == name]) for name in samples}
    results = {**settings, "benchmarks": benchmarks, "macro": summary.macro(benchmarks)}
    store.write_table(folder / store.PROBLEMS, summary.by_problem(rows))
    store.write_json(folder / store.RESULTS, results)
    return results
