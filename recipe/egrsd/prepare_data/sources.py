"""Where each data set lies, and which of its columns hold problem, solution and answer."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

NAME_THEM = "name the right ones with --problem-column, --solution-column and --answer-column."
READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}


class SourceError(ValueError):
    """A data set that cannot be used as it is."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set. A dot in a column's name steps into a struct."""

    name: str
    """Becomes the rows' data_source and the benchmark's file name."""
    path: str
    """Hub id, or a .parquet, .json, .jsonl or .csv file."""
    config: str | None = None
    """The hub's name for a part of the data set."""
    split: str = "train"
    """Split on the hub; a file is read whole."""
    problem: str = "problem"
    """Column of the problem: a text, or a chat whose last turn holds it."""
    solution: str | None = None
    """Column of the reference solution."""
    answer: str | None = None
    """Column of the final answer; where it is None or a cell is empty, the last box of the solution."""
    english: str | None = None
    """Column of the problem in English, where ``problem`` is in another language."""
    language: str | None = None
    """Column of the language of ``problem``."""
    wrapping: tuple[str, str] = ("", "")
    """What the source writes before and behind each problem."""
    mark: str = ""
    """The answer's cell holds solution, mark, answer."""
    rows: int | None = None
    """Published number of rows, for benchmarks: with another number it is another benchmark."""


TRAINING = (
    Source(name="openthoughts", path="siyanzhao/Openthoughts_math_30k_opsd", solution="solution", answer="Answer"),
    Source(  # 1.8 million rows, each problem about a hundred times, and no solutions
        name="dapo",
        path="BytedTsinghua-SIA/DAPO-Math-17k",
        problem="prompt",
        answer="reward_model.ground_truth",
        wrapping=(
            (
                "Solve the following math problem step by step. The last line of your response should be of the form "
                "Answer: $Answer (without quotes) where $Answer is the answer to the problem."
            ),
            'Remember to put your answer on its own line after "Answer:".',
        ),
    ),
    *(  # OpenThoughts problems, the problem alone translated; 17 and 10 languages
        Source(
            name=f"copsd_{name.lower()}",
            path=f"yihongLiu/COPSD-{name}-TrainDataset",
            problem="problem_translated",
            solution="solution",
            answer="Answer",
            english="problem",
            language="language_short",
        )
        for name in ("AfriMGSM", "PolyMath")
    ),
)
BENCHMARKS = (
    Source(name="aime24", path="HuggingFaceH4/aime_2024", solution="solution", answer="answer", rows=30),
    Source(name="aime25", path="yentinglin/aime_2025", answer="answer", rows=30),
    Source(name="hmmt25", path="MathArena/hmmt_feb_2025", answer="answer", rows=30),
    Source(name="math500", path="HuggingFaceH4/MATH-500", split="test", solution="solution", answer="answer", rows=500),
    Source(name="minerva", path="math-ai/minervamath", split="test", problem="question", answer="answer", rows=272),
    Source(
        name="gsm8k",
        path="openai/gsm8k",
        config="main",
        split="test",
        problem="question",
        answer="answer",
        mark="####",
        rows=1319,
    ),
)


def load(source: Source) -> datasets.Dataset:
    """The columns that the source names, and no others.

    Raises:
        SourceError: it cannot be reached or read, is empty, or lacks one of the columns.
    """
    suffix = Path(source.path).suffix
    if Path(source.path).is_file() and suffix != ".csv" and suffix not in READERS:
        kinds = ", ".join([*READERS, ".csv"])
        raise SourceError(f"{source.name}: {source.path} is a file of a kind that is not read; give one of {kinds}.")
    try:
        if suffix == ".csv":  # a cell stays the text that it is: 033 is no 33, NA no missing value
            data = datasets.Dataset.from_pandas(pd.read_csv(source.path, dtype=str, keep_default_na=False))
        elif suffix in READERS:
            data = datasets.load_dataset(READERS[suffix], data_files=source.path, split="train")
        else:
            data = datasets.load_dataset(source.path, source.config, split=source.split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, StopIteration) as error:
        if isinstance(error, StopIteration) or "corresponds to no data" in str(error):  # a json or jsonl without a row
            raise SourceError(f"{source.name}: {source.path} has no rows.") from error
        is_file = suffix == ".csv" or suffix in READERS
        without = ", or leave the benchmarks out with --benchmarks none" if source.rows else ""
        out_of_reach = f" Where the hub is out of reach, name a file instead (docs/reproduce.md){without}."
        way_out = "" if is_file else out_of_reach
        said = f"{type(error).__name__}: {error}"
        raise SourceError(f"{source.name}: {source.path} cannot be read: {said}{way_out}") from error
    named = (source.problem, source.solution, source.answer, source.english, source.language)
    columns = dict.fromkeys(name.split(".")[0] for name in named if name)
    if missing := [name for name in columns if name not in data.column_names]:
        raise SourceError(
            f"{source.name}: {source.path} has no column {missing}, only {data.column_names}; "
            + (
                NAME_THEM
                if source.rows is None
                else "a benchmark's file has the published columns: rename them in yours."
            )
        )
    if len(data) == 0:
        raise SourceError(f"{source.name}: {source.path} has no rows.")
    return data.select_columns(list(columns))


def in_language(source: Source, data: datasets.Dataset, language: str | None) -> datasets.Dataset:
    """The rows of one language, of a source that says which it is; SourceError if it is not named, or not there."""
    if source.language is None and language is None:
        return data
    if source.language is None:
        raise SourceError(f"{source.name}: --language {language} needs a source with a column of languages.")
    there = sorted(map(str, data.unique(source.language)))
    if language is None and len(there) > 1:
        raise SourceError(
            f"{source.name}: name one of its languages with --language, one run each: {', '.join(there)}."
        )
    if language not in (None, *there):
        raise SourceError(f"{source.name}: --language {language} is none of its languages: {', '.join(there)}.")
    return data.filter(lambda value: language in (None, value), input_columns=source.language)


def cell(row: dict[str, Any], name: str | None) -> Any:
    """The value of a column, or None."""
    value: Any = row
    for key in name.split(".") if name else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value if name else None


def digest(data: datasets.Dataset) -> str:
    """SHA-256 of the rows: of what was read, whatever file or cache it came from."""
    content = hashlib.sha256()
    for batch in data.iter(batch_size=1000):
        content.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return content.hexdigest()
