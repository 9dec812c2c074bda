"""A worker of the answer checker: a real process with its child."""

import pytest

from recipe.egrsd.reward import pool


@pytest.fixture
def worker():
    worker = pool._Worker()
    worker.renew_child()
    yield worker
    worker.stop()
