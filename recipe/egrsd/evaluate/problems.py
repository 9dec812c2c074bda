"""Benchmark files -> problems. The format is verl's: data_source, prompt, reward_model.ground_truth,
extra_info.index."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.egrsd.evaluate import Refused
from recipe.egrsd.privilege.texts import RowError, user_chat
from recipe.egrsd.reward import expected_answer

COLUMNS = ("data_source", "prompt", "reward_model", "extra_info")


@dataclass(frozen=True)
class Problem:
    """One row of a benchmark."""

    benchmark: str
    """data_source"""
    index: str
    """extra_info.index, as text; unique within its benchmark."""
    messages: tuple[dict[str, str], ...]
    ground_truth: str | int

    @property
    def key(self) -> tuple[str, str]:
        return self.benchmark, self.index

    @property
    def fingerprint(self) -> str:
        """Changes with prompt and ground truth, so that answers to another text are never taken for answers to this
        one."""
        text = json.dumps([self.messages, self.ground_truth], ensure_ascii=False)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]

    def seed(self, sample: int, *, run_seed: int) -> int:
        """Of one sample; does not depend on what else is generated, so that an interrupted run draws what a whole
        one would."""
        text = json.dumps([run_seed, self.benchmark, self.index, sample])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def read_problems(paths: Sequence[Path]) -> list[Problem]:
    """Every row of every file, in order.

    Raises:
        Refused: names file, row and reason if a row cannot be asked or graded, or if two rows have the same name.
    """
    problems: dict[tuple[str, str], Problem] = {}
    for path in paths:
        for number, row in enumerate(_read_rows(path)):
            try:
                problem = _problem(row)
            except RowError as error:
                raise Refused(f"{path}, row {number}: {error}.") from error
            if problem.key in problems:
                raise Refused(
                    f"{path}, row {number}: benchmark {problem.benchmark!r} already has a problem with "
                    f"extra_info.index={problem.index}; give every row of a data_source an index of its own, and name "
                    "every file once."
                )
            problems[problem.key] = problem
    if not problems:
        raise Refused(f"{', '.join(map(str, paths))}: no rows, so there is nothing to evaluate.")
    return list(problems.values())


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise Refused(f"{path} cannot be read as parquet: {error}") from error
    missing = [column for column in COLUMNS if column not in file.schema_arrow.names]
    if missing:
        raise Refused(f"{path} has no column {', '.join(missing)}; verl's row format needs {', '.join(COLUMNS)}.")
    return file.read(columns=list(COLUMNS)).to_pylist()


def _problem(row: Mapping[str, Any]) -> Problem:
    benchmark, extra_info, reward_model = row["data_source"], row["extra_info"] or {}, row["reward_model"] or {}
    if not isinstance(benchmark, str) or not benchmark:
        raise RowError(f"data_source is {benchmark!r}, expected the name of the benchmark")
    if extra_info.get("index") is None:
        raise RowError("extra_info has no 'index', by which a stored answer finds its problem; number the rows")
    ground_truth = reward_model.get("ground_truth")
    if ground_truth is None or expected_answer(ground_truth) is None:
        raise RowError(f"reward_model.ground_truth={ground_truth!r} cannot be compared with an answer")
    messages = tuple({"role": turn["role"], "content": turn["content"]} for turn in user_chat(row["prompt"]))
    return Problem(benchmark, str(extra_info["index"]), messages, ground_truth)
