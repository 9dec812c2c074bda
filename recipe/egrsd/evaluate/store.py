"""A run's folder. Files appear whole or not at all, so that a killed run leaves nothing that a later one could misread.

settings.json               what every response of the folder has in common
generations/part-*.parquet  the responses, one row each
problems.parquet            one row for each problem of the last finished call
results.json                its figures
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.egrsd.evaluate import Refused

SETTINGS, GENERATIONS, PROBLEMS, RESULTS = "settings.json", "generations", "problems.parquet", "results.json"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("benchmark", "index")),
        ("sample", pa.int32()),
        *((name, pa.string()) for name in ("fingerprint", "prompt", "ground_truth", "response", "pred")),
        ("score", pa.float64()),
        ("tokens", pa.int32()),
        *((name, pa.bool_()) for name in ("truncated", "has_answer")),
        *((name, pa.bool_()) for name in ("answer_too_long", "timed_out", "crashed", "bad_ground_truth")),
        *((name, pa.bool_()) for name in ("think_opened", "think_closed")),
        ("think_tokens", pa.int32()),
    ]
)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the folder; the system lifts it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"another process is evaluating into {folder}; wait for it, or name another folder."
            ) from None
        yield


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings, or makes sure that an earlier call had the same: responses of two settings must not mix."""
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, settings)
        return
    stored = json.loads(path.read_text())
    differing = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
    if differing:
        lines = [f"  {key}: {stored.get(key)!r} there, {settings.get(key)!r} now" for key in differing]
        raise Refused(f"{folder} was begun with other settings; name another folder.\n" + "\n".join(lines))


def append(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds one part file."""
    parts = folder / GENERATIONS
    parts.mkdir(exist_ok=True)
    number = 1 + max((int(path.stem.split("-")[1]) for path in parts.glob("part-*.parquet")), default=-1)
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    _replace(parts / f"part-{number:05d}.parquet", lambda partial: pq.write_table(table, partial, compression="zstd"))


def read(folder: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Those columns of every stored response."""
    rows = []
    for path in sorted((folder / GENERATIONS).glob("part-*.parquet")):
        rows += pq.read_table(path, columns=list(columns)).to_pylist()
    return rows


def write_json(path: Path, value: Any) -> None:
    """As ``append``, for JSON."""
    _replace(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """As ``append``, for a table of its own."""
    _replace(path, lambda partial: pq.write_table(pa.Table.from_pylist(list(rows)), partial))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
