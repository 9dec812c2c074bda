"""An update from scores made in chunks is the update from all logits: verl's engine on gloo ranks, the real loss."""

import os
import subprocess
import sys

import pytest
import torch
from composing import PRESETS as FOLDER
from composing import settings
from inputs import write_inputs
from runs import ROOT

pytestmark = pytest.mark.long
PRESETS, FORMS = (
    ("egrsd", "cl_egrsd", "egrsd_mean_gate", "egrsd_ungated", "rlsd", "rlcsd", "sipo"),
    ("chunks", "all logits"),
)  # of the script, which makes its process a CPU's
SPLITS = {"tied, two ranks": (True, 2), "tied": (True, 1), "untied, two ranks": (False, 2), "untied": (False, 1)}


@pytest.fixture(scope="module", params=SPLITS)
def results(request, tmp_path_factory) -> dict[str, dict]:
    """tests/support/both_forms.py: configuration -> form -> gradients, and parameters after three steps."""
    tied, ranks = SPLITS[request.param]
    folder = tmp_path_factory.mktemp("forms")
    write_inputs(folder, train=1, tied=tied)
    script, out = ROOT / "tests" / "support" / "both_forms.py", folder / "out.pt"
    command = [sys.executable, script, folder / "model", out, str(ranks)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return torch.load(out)


def test_every_preset_without_a_divergence_is_here():
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    assert set(PRESETS) == {name for name in names if settings(name).divergence is None}


def distance(one: dict, other: dict) -> float:
    """Of the two entries that are furthest apart, as a share of the largest."""
    assert one.keys() == other.keys()
    largest = max(tensor.abs().max().item() for tensor in other.values())
    return max((one[name] - tensor).abs().max().item() for name, tensor in other.items()) / largest


def forms(results: dict, dtype: str):
    """What each configuration of that dtype found in chunks, and from all logits."""
    for name, found in results.items():
        if name.startswith(dtype):
            yield tuple(found[form] for form in FORMS)


def test_gradients_in_float32(results):
    """Of all parameters, packed, gradient checkpointing on and off; as a share of the largest entry."""
    pairs = list(forms(results, "fp32"))
    assert len(pairs) == 2
    for chunks, whole in pairs:
        assert max(tensor.abs().max() for tensor in whole["gradients"].values()) > 0.1
        assert distance(chunks["gradients"], whole["gradients"]) <= 2e-6


def test_gradients_in_bfloat16(results):
    """Each form rounds elsewhere, and by which kernels depends on the CPU: half to four fifths as far from one another
    as either is from float32, which is 2 % of the largest entry."""
    exact = results["fp32 checkpointing=True"]["all logits"]["gradients"]
    for chunks, whole in forms(results, "bf16"):
        rounding = distance(whole["gradients"], exact)
        assert distance(chunks["gradients"], whole["gradients"]) <= 0.9 * rounding
        assert distance(chunks["gradients"], exact) <= 1.1 * rounding <= 0.03


def test_an_adapter(results):
    """In front of a frozen head, whose backward pass makes no logits."""
    chunks, whole = (results["adapter"][form] for form in FORMS)
    assert all("lora_" in name for name in whole["gradients"])
    assert max(tensor.abs().max() for tensor in whole["gradients"].values()) > 0.01
    assert distance(chunks["gradients"], whole["gradients"]) <= 2e-6
    for preset in PRESETS:
        for name, tensor in whole[preset].items():
            torch.testing.assert_close(chunks[preset][name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_after_three_steps(results, preset):
    """In float32, whereas each two presets are a thousandth apart or more."""
    for chunks, whole in forms(results, "fp32"):
        for name, tensor in whole[preset].items():
            torch.testing.assert_close(chunks[preset][name], tensor, atol=1e-6, rtol=0)
        for other in PRESETS:
            assert other == preset or distance(whole[preset], whole[other]) > 0.001, other
