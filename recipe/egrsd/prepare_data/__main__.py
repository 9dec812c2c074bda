"""Writes verl's parquet for training, validation and the benchmarks, with a report of what was kept and why.

    python -m recipe.egrsd.prepare_data --out data/egrsd

Give the same command again after an interruption: what is complete stays, the rest is made. The same input gives the
same bytes. A name can be given a file of yours, where the hub cannot be reached: --benchmarks aime24=aime24.parquet.
"""

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from tqdm import tqdm

from recipe.egrsd.prepare_data import named
from recipe.egrsd.prepare_data.overlap import Overlap
from recipe.egrsd.prepare_data.report import Tally, table
from recipe.egrsd.prepare_data.rows import Problem, Refused, answer_only, read, schema_of, ungradable
from recipe.egrsd.prepare_data.sources import BENCHMARKS, TRAINING, Source, SourceError, digest, in_language, load
from recipe.egrsd.reward import RULES

DEFAULTS = Path(__file__).parents[1] / "config" / "algorithm" / "egrsd.yaml"
FIRST_ROWS = 100  # of which one must be usable; grading takes time
MARK = "####"  # GSM8K's, between solution and answer
Files = dict[str, list[dict[str, Any]]]  # file name -> rows


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    logging.getLogger("recipe.egrsd.reward").setLevel(logging.ERROR)  # the report counts what it warns of
    try:
        _prepare(options)
    except SourceError as error:
        raise SystemExit(f"prepare_data: {error}") from None


def _parser() -> argparse.ArgumentParser:
    instruction = OmegaConf.load(DEFAULTS).algorithm.egrsd.teacher.instruction
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the parquet files and their reports")
    names = ", ".join(source.name for source in TRAINING)
    add(
        "--train",
        default=TRAINING[0].name,
        help=f"{names}, a name=file, a hub id, a file, or none (default: %(default)s)",
    )
    names = [source.name for source in BENCHMARKS]
    help_ = f"of {', '.join(names)}, each also as name=file; none: no benchmark"
    add("--benchmarks", nargs="*", default=names, metavar="NAME", help=help_)
    add(
        "--test",
        metavar="FILE",
        help="a test set of your own, as hub id or file; written whole, as FILE's name .parquet",
    )
    for column in ("problem", "solution", "answer"):
        help_ = f"of --train and --test; none: they have none; {column} of a hub id or file by default"
        add(f"--{column}-column", help=help_)
    add("--mark", help="of --train and --test: the answer's cell holds solution, mark, answer, as GSM8K's do with ####")
    add("--config", help="of --train and --test on the hub")
    add("--split", help="of --train on the hub")
    add("--language", help="of --train, which holds several: the one to train on, as its column names it")
    add("--validation", type=int, default=256, metavar="ROWS", help="held out of --train (default: %(default)s)")
    add("--keep-overlap", action="store_true", help="train also on benchmark problems, as published data sets do")
    add("--instruction", default=instruction, help="last words of every prompt: algorithm.egrsd.teacher.instruction")
    return parser


def _prepare(options: argparse.Namespace) -> None:
    tests = named.benchmarks(options.benchmarks)
    if options.test:
        tests.append(named.test_set(options, taken=["train", "validation", *(source.name for source in tests)]))
    problems: dict[str, list[str]] = {}  # of each benchmark
    contents: dict[str, str] = {}  # their hashes
    for source in tests:
        data = load(source)
        usable = _read_benchmark(source, data, options.instruction)
        problems[source.name], contents[source.name] = [problem.text for problem in usable], digest(data)
        request = _request(source, contents[source.name], options)
        _make(options.out, source.name, schema_of(source), request, partial(_benchmark_files, source, usable, options))
    if options.train != "none":
        source = named.training_set(options)
        data = in_language(source, load(source), options.language)
        request = _request(source, digest(data), options)
        request |= {"validation": options.validation, "keep_overlap": options.keep_overlap, "benchmarks": contents}
        _make(
            options.out, "train", schema_of(source), request, partial(_training_files, source, data, problems, options)
        )


def _read_benchmark(source: Source, data: datasets.Dataset, instruction: str) -> list[Problem]:
    """Every row: a benchmark from which rows were dropped would be another one."""
    usable = []
    for index, row in enumerate(data):
        try:
            usable.append(read(source, index, row, instruction=instruction))
        except Refused as reason:
            raise SourceError(f"{source.name}: row {index} of {source.path}: {reason}.") from None
    return usable


def _benchmark_files(source: Source, usable: list[Problem], options: argparse.Namespace) -> tuple[Files, dict]:
    tally = Tally()
    for problem in tqdm(usable, desc=source.name):
        tally.rows_in += 1
        if ungradable(problem.answer):
            tally.unreadable.append(problem.index)
        tally.judge(problem)
    rows = [problem.row(source, split="test", instruction=options.instruction) for problem in usable]
    return {f"{source.name}.parquet": rows}, tally.summary(source, usable, benchmarks=None)


def _training_files(
    source: Source, data: datasets.Dataset, benchmarks: dict[str, list[str]], options: argparse.Namespace
) -> tuple[Files, dict]:
    """Usable, different, gradable rows that are no benchmark problems; some of them are held out for validation."""
    tally, seen, usable, overlap = Tally(), set(), [], Overlap(benchmarks)
    for index, row in enumerate(tqdm(data, desc=source.name)):
        tally.rows_in += 1
        try:
            problem = read(source, index, row, instruction=options.instruction)
            if (key := _key(problem)) in seen:
                raise Refused("the same problem stands in an earlier row")
            seen.add(key)
            if found := overlap.of(problem.english or problem.text):  # benchmarks are English
                tally.overlaps(index, found)
                if not options.keep_overlap:
                    raise Refused("the problem is one of a benchmark's")
            if reason := ungradable(problem.answer):
                raise Refused(reason)
        except Refused as reason:
            tally.drop(index, str(reason))
            if index + 1 == FIRST_ROWS and not usable:
                raise SourceError(_none_usable(source, data, tally)) from None
            continue
        tally.judge(problem)
        usable.append(replace(problem, solution=problem.solution or answer_only(problem.answer)))
    if tally.rows_in and not usable:
        raise SourceError(_none_usable(source, data, tally))
    if len(usable) <= options.validation:
        counted = {reason: len(rows) for reason, rows in tally.dropped.items()}
        raise SourceError(
            f"{source.name}: {len(usable)} of {len(data)} rows are usable (dropped: {counted}), and --validation takes "
            f"{options.validation} of them."
        )
    held_out = {problem.index for problem in sorted(usable, key=_key)[: options.validation]}  # by hash: always the same
    files: Files = {"train.parquet": [], "validation.parquet": []}
    for problem in usable:
        split = "validation" if problem.index in held_out else "train"
        files[f"{split}.parquet"].append(problem.row(source, split=split, instruction=options.instruction))
    return files, tally.summary(source, usable, benchmarks=list(benchmarks))


def _none_usable(source: Source, data: datasets.Dataset, tally: Tally) -> str:
    counted = {reason: len(rows) for reason, rows in tally.dropped.items()}
    mark = source.mark or MARK
    marked = [name for name in data.column_names if mark in str(data[0][name])]
    said = f"{source.name}: none of the first {tally.rows_in} rows is usable (dropped: {counted})"
    if source.mark and not marked:
        way_out = f"--answer-column names the column of solution, {mark} and answer"
        return f"{said}; {data.column_names} hold no {mark}: {way_out}."
    if not marked or (source.mark and source.answer in marked):
        return f"{said}; do --problem-column, --solution-column and --answer-column name the right ones?"
    return f"{said}; '{marked[0]}' holds {mark}, so --answer-column {marked[0]} --solution-column none --mark '{mark}'."


def _key(problem: Problem) -> bytes:
    return hashlib.sha256(" ".join(problem.text.lower().split()).encode(errors="surrogatepass")).digest()


def _request(source: Source, content: str, options: argparse.Namespace) -> dict[str, Any]:
    """All that the files depend on."""
    versions = {name: version(name) for name in ("pyarrow", "math-verify")} | {"answers": RULES}
    return {"source": asdict(source), "input_sha256": content, "instruction": options.instruction, "versions": versions}


def _make(out: Path, name: str, schema: pa.Schema, request: dict, build: Callable[[], tuple[Files, dict]]) -> None:
    """Writes the files unless their report says that they are there already; prints the report.

    The report names the hash of every file and is written last, so that no interruption leaves anything that would be
    taken for complete.
    """
    path = out / f"{name}.report.json"
    request = json.loads(json.dumps(request))
    report = json.loads(path.read_text()) if path.is_file() else {}
    there = {file: _sha256(out / file) == facts["sha256"] for file, facts in report.get("files", {}).items()}
    if report.get("request") == request and all(there.values()):
        print(f"{table(name, report)}\n  complete already: {path}")
        return
    files, report = build()
    out.mkdir(parents=True, exist_ok=True)
    facts = {}
    for file, rows in files.items():
        written = pa.Table.from_pylist(rows, schema=schema)
        _replace(out / file, partial(pq.write_table, written))
        facts[file] = {"rows": len(rows), "sha256": _sha256(out / file)}
    report = {"request": request, "files": facts, **report}
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    _replace(path, lambda unfinished: unfinished.write_text(text))
    print(f"{table(name, report)}\n  written: {path}")


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    unfinished = path.with_name(f"{path.name}.partial")
    write(unfinished)
    os.replace(unfinished, path)


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
