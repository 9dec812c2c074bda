"""Two made-up runs, the second with a hostile name."""

from pathlib import Path

import pytest
from made_up_runs import write_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "cl_egrsd"), write_run(folder / "b $x_1$ <b>&", shift=0.02)]
