"""What happened to the rows of a source: counted while they pass, written beside the parquet and printed."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from recipe.egrsd.prepare_data.overlap import NGRAM, SHARE
from recipe.egrsd.prepare_data.rows import Problem
from recipe.egrsd.prepare_data.sources import Source

SHOWN = 10  # row numbers that are named where rows are counted
BINS = [0, *(250 * 2**i for i in range(9))]  # characters: 0, 250, 500, ..., 64,000


class Tally:
    """Counts the rows of one source; numbers of rows are those of the source."""

    def __init__(self) -> None:
        self.rows_in = 0
        self.dropped: dict[str, list[int]] = defaultdict(list)
        self.overlap: dict[str, dict[str, set[int]]] = defaultdict(lambda: {"rows": set(), "problems": set()})
        self.verdicts: dict[str, list[int]] = {"accepted": [], "rejected": [], "no box": []}
        self.unreadable: list[int] = []

    def drop(self, index: int, reason: str) -> None:
        self.dropped[reason].append(index)

    def overlaps(self, index: int, benchmarks: Sequence[tuple[str, int]]) -> None:
        for name, problem in benchmarks:
            self.overlap[name]["rows"].add(index)
            self.overlap[name]["problems"].add(problem)

    def judge(self, problem: Problem) -> None:
        """Tries the answer checker on a solution whose answer stands elsewhere, too."""
        if verdict := problem.verdict():
            self.verdicts[verdict].append(problem.index)

    def summary(self, source: Source, kept: Sequence[Problem], *, benchmarks: Sequence[str] | None) -> dict[str, Any]:
        """As JSON.

        Args:
            source: where the rows come from.
            kept: what was written.
            benchmarks: what the rows were compared with; None if they are a benchmark themselves.
        """
        report: dict[str, Any] = {
            "rows_in": self.rows_in,
            "rows_expected": source.rows,
            "kept": len(kept),
            "dropped": {reason: _named(rows) for reason, rows in sorted(self.dropped.items())},
            "graded_as_text_only": _named(self.unreadable),
            "answers": {
                "from_the_answer_column": sum(not problem.from_box for problem in kept),
                "from_the_solutions_box": sum(problem.from_box for problem in kept),
            },
            "solutions_boxes": {verdict: _named(rows) for verdict, rows in self.verdicts.items()},
            "solution_chars": _lengths([len(problem.solution) for problem in kept if problem.solution]),
        }
        if benchmarks is not None:
            found = {name: self.overlap.get(name, {"rows": (), "problems": ()}) for name in benchmarks}
            by = {name: {key: _named(sorted(rows)) for key, rows in both.items()} for name, both in found.items()}
            report["overlap"] = {"ngram_words": NGRAM, "share": SHARE, "benchmarks": by}
        return report


def table(name: str, report: dict[str, Any]) -> str:
    """The report on the screen: one fact a line."""
    boxes = {verdict: rows["count"] for verdict, rows in report["solutions_boxes"].items()}
    lengths = report["solution_chars"]
    lines = [("rows in", report["rows_in"]), ("kept", report["kept"])]
    lines += [(f"dropped: {reason}", rows["count"]) for reason, rows in report["dropped"].items()]
    lines += [(f"  {file}", facts["rows"]) for file, facts in report["files"].items()]
    if report["answers"]["from_the_solutions_box"]:
        lines.append(("answers taken from the solution's box", report["answers"]["from_the_solutions_box"]))
    if boxed := boxes["accepted"] + boxes["rejected"]:
        lines.append((f"solutions whose box math-verify accepts, of {boxed:,}", f"{boxes['accepted'] / boxed:.1%}"))
    if boxes["no box"]:
        lines.append(("solutions without a box; their answer stands in a column", boxes["no box"]))
    if report["graded_as_text_only"]["count"]:
        lines.append(
            ("answers that math-verify cannot read: right only verbatim", report["graded_as_text_only"]["count"])
        )
    for benchmark, both in report.get("overlap", {}).get("benchmarks", {}).items():
        lines.append(
            (f"rows that hold one of {both['problems']['count']} problems of {benchmark}", both["rows"]["count"])
        )
    if lengths:
        lines.append(("solution, characters: median, 90th percentile", f"{lengths['median']:,}  {lengths['p90']:,}"))
        tallest = max(lengths["histogram"].values())
        for span, count in lengths["histogram"].items():
            lines.append((f"  {span:>15} {'#' * round(40 * count / tallest)}", count))
    if report["rows_expected"] not in (None, report["rows_in"]):
        lines.append(
            (f"WARNING: published with {report['rows_expected']:,} rows; this is another benchmark", report["rows_in"])
        )
    return "\n".join([f"\n{name}", *(f"  {text:<66} {_number(value):>12}" for text, value in lines)])


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _named(rows: Sequence[int]) -> dict[str, Any]:
    return {"count": len(rows), "first": list(rows[:SHOWN])}


def _lengths(chars: list[int]) -> dict[str, Any] | None:
    if not chars:
        return None
    bins = Counter(max(start for start in BINS if start <= length) for length in chars)
    ends = dict(zip(BINS, [*(f"{end - 1:,}" for end in BINS[1:]), ""], strict=True))
    return {
        "median": round(statistics.median(chars)),
        "p90": sorted(chars)[int(0.9 * (len(chars) - 1))],
        "max": max(chars),
        "histogram": {f"{start:,}-{ends[start]}": bins[start] for start in BINS if start <= max(chars)},
    }
