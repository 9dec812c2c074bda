"""bfloat16 on a CPU that has no instructions for it: said where it is asked for, and not chosen by the demo."""

import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from composing import composed

from examples.smollm2 import demo, quality, warm_start
from recipe.egrsd.cpu import precision
from recipe.egrsd.doctor import checks
from recipe.egrsd.doctor.case import Level
from recipe.egrsd.evaluate import __main__ as evaluate

BF16 = "actor_rollout_ref.rollout.dtype=bfloat16"


@pytest.fixture(params=[True, False], ids=["with", "without"])
def instructions(request, monkeypatch) -> bool:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((BF16,), "actor_rollout_ref.rollout.dtype=bfloat16"),
        (("actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",), "mixed_precision.param_dtype=bf16"),
        (("actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype=bf16",), "ref.fsdp_config.mixed_precision"),
    ],
)
def test_a_cpu_run_in_bfloat16_is_told(monkeypatch, instructions, words, named):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    said = precision.remark(composed(*words))
    assert (named in said and "set actor_rollout_ref.rollout.dtype=float32" in said) != instructions
    assert bool(said) != instructions and "\n" not in said
    assert not precision.remark(composed())


def test_a_gpu_run_is_not(monkeypatch, instructions):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert not precision.remark(composed(BF16))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_an_evaluation_is_told(monkeypatch, instructions, dtype):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    said = precision.dtype_remark(dtype)
    assert ("--dtype float32" in said) == (dtype != "float32" and not instructions)
    monkeypatch.delenv("VERL_PLATFORM")
    assert not precision.dtype_remark(dtype)
    assert evaluate.precision is precision


def test_the_doctor_says_it(monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    findings = list(checks.settings(cast(Any, SimpleNamespace(config=composed(BF16)))))
    assert [(found.level, found.text) for found in findings if "bfloat16" in found.text] == [
        (Level.YELLOW, precision.remark(composed(BF16)))
    ]


def test_the_pretrained_demo_takes_the_faster_one(instructions):
    assert precision.fastest() == ("bfloat16" if instructions else "float32")
    assert demo.protocol()[-1] == f"--dtype={precision.fastest()}"
    assert quality.precision is warm_start.precision is precision


def test_what_torch_says_of_this_cpu():
    """oneDNN has products in bfloat16 from AVX-512 on; the flags are the kernel's own."""
    if platform.machine() == "x86_64" and (known := Path("/proc/cpuinfo")).exists():
        assert precision.multiplies_bfloat16() == ("avx512bw" in known.read_text())
