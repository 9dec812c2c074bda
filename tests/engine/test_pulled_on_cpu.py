"""Some responses of an update are pulled: the real engine's gradients are those of plain torch, on one or two ranks."""

import os
import subprocess
import sys

import pytest
import torch
from runs import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_only_pulled_tokens_are_pulled(ranks, inputs, tmp_path):
    """Policy gradient and divergence in one backward pass; a micro-batch of which nothing is pulled among them."""
    script, out = ROOT / "tests" / "support" / "pulled_outputs.py", tmp_path / "out.pt"
    command, env = [sys.executable, script, inputs / "model", out, str(ranks)], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(out)
    assert found["engine"].keys() == found["plain"].keys()
    for name, expected in found["plain"].items():
        torch.testing.assert_close(
            found["engine"][name], expected, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert max(gradient.abs().max() for gradient in found["plain"].values()) > 1e-2
