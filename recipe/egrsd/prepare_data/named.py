"""What the command line names -> the sources that are read."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recipe.egrsd.prepare_data.sources import BENCHMARKS, TRAINING, Source, SourceError


def benchmarks(words: Sequence[str]) -> list[Source]:
    """Of --benchmarks; SourceError for a name that is none of them."""
    words = [] if list(words) == ["none"] else words
    named = {source.name: source for source in BENCHMARKS}
    if unknown := [word for word in words if word.split("=")[0] not in named]:
        raise SourceError(f"--benchmarks names {unknown}; choose from {list(named)}, or none.")
    return [_with_file(named, word) for word in words]


def training_set(options: argparse.Namespace) -> Source:
    """Of --train; SourceError if it is told to have neither solution nor answer."""
    named = {source.name: source for source in TRAINING}
    published = options.train.split("=")[0] in named
    source = _with_file(named, options.train) if published else _own_source(options.train)
    source = _as_told(source, options, "config", "split", "mark")
    if not (source.problem and (source.solution or source.answer)):
        raise SourceError("a training set needs a problem, and a solution or an answer.")
    return source


def test_set(options: argparse.Namespace, *, taken: Sequence[str]) -> Source:
    """Of --test; SourceError if its file would be written over one of those names."""
    source = _as_told(_own_source(options.test), options, "config", "mark")
    if source.name in taken:
        raise SourceError(
            f"--test {options.test} would be written over {source.name}.parquet; give the file another name."
        )
    return replace(source, split="test")


def _own_source(word: str) -> Source:
    return Source(name=Path(word).stem, path=word, solution="solution", answer="answer")


def _as_told(source: Source, options: argparse.Namespace, *keys: str) -> Source:
    """With the columns, and the values of those options, that the command line names."""
    columns = {column: getattr(options, f"{column}_column") for column in ("problem", "solution", "answer")}
    given = {name: None if value == "none" else value for name, value in columns.items() if value}
    return replace(source, **given | {name: getattr(options, name) for name in keys if getattr(options, name)})


def _with_file(named: dict[str, Source], word: str) -> Source:
    name, _, path = word.partition("=")
    return replace(named[name], path=path) if path else named[name]
