"""Problems of the small task and their tokenizer."""

import pytest

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import make_problems, write_parquet
from recipe.egrsd.evaluate.problems import Problem, read_problems


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.build_tokenizer()


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> list[Problem]:
    path = tmp_path_factory.mktemp("data") / "tiny.parquet"
    write_parquet(make_problems("test", 4, seed=0), path)
    return read_problems([path])
