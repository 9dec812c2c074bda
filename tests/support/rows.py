"""Rows of the small task as a parquet file, with whatever a test puts beside their solutions."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from examples.tiny_cpu.task import make_problems, verl_row

PROBLEMS = make_problems("train", 6, seed=0)


def write(path: Path, change: dict[int, dict] | None = None) -> Path:
    """Rows of the task; ``change`` updates the extra_info of single rows (None removes a key)."""
    extras = change or {}
    return write_rows(
        path, rows=len(PROBLEMS), change=lambda index, row: row["extra_info"].update(extras.get(index, {}))
    )


def write_rows(path: Path, *, rows: int = 16, change=None) -> Path:
    """Rows of the task; change(index, row) edits a row in place."""
    written = [verl_row(problem, index) for index, problem in enumerate(make_problems("train", rows, seed=0))]
    for index, row in enumerate(written):
        if change:
            change(index, row)
    pq.write_table(pa.Table.from_pylist(written), path)
    return path
