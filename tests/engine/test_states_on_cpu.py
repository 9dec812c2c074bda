"""Models whose layers hand a state from token to token: right where rows are padded, wrong in packs, and a worker sees
that."""

import os
import subprocess
import sys

import pytest
import torch
from runs import ROOT


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    """tests/support/state_outputs.py: kind of model -> scores of the responses alone, padded, packed."""
    folder = tmp_path_factory.mktemp("states")
    command = [sys.executable, ROOT / "tests" / "support" / "state_outputs.py", folder, folder / "outputs.pt"]
    finds_examples = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, cwd=ROOT, env=finds_examples, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return torch.load(folder / "outputs.pt")


def distance(found: list, expected: list) -> float:
    """Of the log-probs and entropies that are furthest apart, nats."""
    columns = zip(sum(found, ()), sum(expected, ()), strict=True)
    return max((ours - exact).abs().max().item() for ours, exact in columns)


KINDS = pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_next"])


@KINDS
def test_padded_rows_are_scored_as_each_row_alone(results, kind):
    assert distance(results[kind]["padded"], results[kind]["alone"]) <= 1e-5


@KINDS
def test_packed_rows_are_not_and_the_worker_refuses_them(results, kind):
    """Once they are, machines/architectures.py refuses what works."""
    assert distance(results[kind]["packed"], results[kind]["alone"]) > 0.1
    assert "lets a row of a pack see the row in front of it" in results[kind]["said"]
    assert "set actor_rollout_ref.model.use_remove_padding=false" in results[kind]["said"]
