"""A module of a user's own, for the tests of the token weight."""

import sys
from pathlib import Path

import pytest
from user_weights import SOURCE

from recipe.egrsd import token_weight


@pytest.fixture
def my_weights(tmp_path, monkeypatch) -> Path:
    """my_weights, importable as a user's module is: from the folder in which the command is typed."""
    path = tmp_path / "my_weights.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_weights", raising=False)
    token_weight.look_up.cache_clear()
    yield path
    token_weight.look_up.cache_clear()
