"""prepare_data as a function, and a cache of its own for every test."""

import json
from collections.abc import Callable
from typing import Any

import datasets
import pytest
from source_rows import write

from recipe.egrsd.prepare_data import __main__ as prepare_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def prepare(tmp_path) -> Callable[..., dict[str, Any]]:
    """(rows, *words) -> the report on the training rows; the files lie in tmp_path/out."""

    def run(rows: list[dict[str, Any]], *words: str, train: str = "openthoughts", out: str = "out") -> dict[str, Any]:
        path = write(tmp_path / f"{train}.parquet", rows)
        benchmarks = [] if "--benchmarks" in words else ["--benchmarks"]
        validation = [] if "--validation" in words else ["--validation", "0"]
        prepare_data.main(
            ["--out", str(tmp_path / out), "--train", f"{train}={path}", *benchmarks, *validation, *words]
        )
        return json.loads((tmp_path / out / "train.report.json").read_text())

    return run
