"""bfloat16 on a CPU that has no instructions for it: said where it is asked for, and not chosen by the demo."""

import argparse
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from composing import composed
from transformers import LlamaConfig, LlamaForCausalLM

from examples.smollm2 import demo, quality, warm_start
from recipe.egrsd.cpu import precision
from recipe.egrsd.doctor import checks
from recipe.egrsd.doctor.case import Level
from recipe.egrsd.evaluate import __main__ as evaluate
from recipe.egrsd.evaluate.model import ModelFiles

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
    assert (named in said and said.endswith("; use float32.")) != instructions
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


def test_evaluate_says_it(monkeypatch, capsys):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    args = argparse.Namespace(dtype="auto", seed=0, tensor_parallel=1)
    assert evaluate._loading(args, ModelFiles("model")).dtype == "auto"
    assert capsys.readouterr().err == f"evaluate: {precision.dtype_remark('auto')}\n"


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
    run = demo.Demo(Path("folder"), algorithm="cl_egrsd", seed=0, steps=1, num_problems=8)
    assert run.training.variables["DTYPE"] == run.settings["dtype"] == precision.fastest()


def test_so_do_start_and_quality(instructions, tmp_path):
    """A start's loss in float32 is that of plain torch to the last digits, and in bfloat16 it is not."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    model.save_pretrained(tmp_path)
    assert quality.load(tmp_path).dtype == (torch.bfloat16 if instructions else torch.float32)
    loss = warm_start.response_loss(model, [([3, 4], [5, 6, 7])], smoothing=0.0)
    logits = model(torch.tensor([[3, 4, 5, 6]])).logits[0, 1:]
    plain = F.cross_entropy(logits, torch.tensor([5, 6, 7]), reduction="sum")
    assert (abs(loss - plain).item() > 1e-4) == instructions


def test_what_torch_says_of_this_cpu():
    """oneDNN has products in bfloat16 from AVX-512 on; the flags are the kernel's own."""
    if platform.machine() == "x86_64" and (known := Path("/proc/cpuinfo")).exists():
        assert precision.multiplies_bfloat16() == ("avx512bw" in known.read_text())
