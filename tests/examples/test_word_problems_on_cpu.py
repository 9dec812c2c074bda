"""The word problems of the demo on SmolLM2, with reasoning-gym's own templates."""

from collections import Counter
from importlib.util import find_spec

import pyarrow.parquet as pq
import pytest

from examples.smollm2 import problems

pytestmark = pytest.mark.skipif(
    find_spec("reasoning_gym") is None, reason="pip install --no-deps -r requirements/smollm2.txt"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Rows of each file, as the demo writes them."""
    folder = tmp_path_factory.mktemp("data")
    problems.write_data(folder, seed=0)
    return {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in problems.SIZES}


def test_as_many_problems_are_written_as_are_asked_for(written):
    """Problems of one template share wording, which is no overlap: 679 of 1,608 were taken for test problems."""
    assert {name: len(rows) for name, rows in written.items()} == problems.SIZES


def test_training_and_test_problems_have_the_same_templates(written):
    """Two standard errors of a share are 4 points."""
    asked = {"train": problems.SIZES["train"] + problems.SIZES["validation"], "test": problems.SIZES["test"]}
    made = [row for split, size in asked.items() for row in problems.make_problems(split, size, seed=0)]
    templates = {problems.messages(row["problem"])[0]["content"]: row["template"] for row in made}
    counts = {
        name: Counter(templates[row["prompt"][0]["content"]] for row in written[name]) for name in ("train", "test")
    }
    for template in problems.TEMPLATES:
        shares = [count[template] / count.total() for count in counts.values()]
        assert shares[0] == pytest.approx(shares[1], abs=0.05), template
