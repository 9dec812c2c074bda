"""The extra egrsd-verl[kernels]: transformers' flash attention from the hub, with a kernel of our own in the hub's
cache.

Neither GPU nor hub is needed: the kernel is PyTorch's attention, row by row, under flash-attn's names, so that the
whole way of a run with flash attention is walked, packed rows included, and its numbers can be checked.
"""

import os
import subprocess
import sys

import pytest
import torch
from inputs import write_inputs
from packages import project
from plain import plain_forward
from runs import COIN_REWARD, ROOT, TEMPERATURE, good, run
from transformers import AutoModelForCausalLM

from recipe.egrsd.machines.attention import KEY

pytestmark = [pytest.mark.slow, pytest.mark.long]

KERNEL = '''
import torch
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                           softmax_scale=None, causal=False, window_size=(-1, -1), deterministic=False):
    """(tokens, heads, width) of rows one behind the other."""
    bounds = zip(cu_seqlens_q[:-1], cu_seqlens_q[1:], cu_seqlens_k[:-1], cu_seqlens_k[1:], strict=True)
    rows = [flash_attn_func(q[None, a:b], k[None, c:d], v[None, c:d], softmax_scale=softmax_scale, causal=causal)
            for a, b, c, d in bounds]
    return torch.cat([row[0] for row in rows])


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
                    deterministic=False):
    """(rows, tokens, heads, width); the last query sees the last key, as in flash-attn."""
    mask = torch.ones(q.size(1), k.size(1), dtype=torch.bool).tril(k.size(1) - q.size(1)) if causal else None
    heads = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    return scaled_dot_product_attention(*heads, attn_mask=mask, scale=softmax_scale, enable_gqa=True).transpose(1, 2)
'''


@pytest.fixture(scope="module")
def with_kernels(tmp_path_factory) -> dict[str, str]:
    """Variables of a shell in which the extra is installed and the hub's cache holds the kernel."""
    folder = tmp_path_factory.mktemp("kernels")
    (extra,) = project()["optional-dependencies"]["kernels"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "packages", extra]
    subprocess.run(pip, check=True, timeout=300)
    repository, commit = folder / "cache" / "models--kernels-community--flash-attn2", "0" * 40
    build = repository / "snapshots" / commit / "build" / "torch-universal"
    build.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (build / "__init__.py").write_text(KERNEL)
    path = os.pathsep.join([str(folder / "packages"), str(ROOT / "tests" / "support")])
    return {"HF_HUB_OFFLINE": "1", "KERNELS_CACHE": str(folder / "cache"), "PYTHONPATH": path}


def fault(variables: dict[str, str]) -> str:
    code = "from recipe.egrsd.machines import attention; print(attention.attention_fault('flash_attention_2'))"
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | variables, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_kernel_counts_as_flash_attention(with_kernels, tmp_path):
    assert fault(with_kernels) == ""
    empty = fault(with_kernels | {"KERNELS_CACHE": str(tmp_path)})  # as on a machine that does not reach the hub
    assert (
        "FlashAttention2" in empty
        and "An error occurred while trying to load from 'kernels-community/flash-attn2'" in empty
    )


def test_a_run_on_it_scores_as_a_plain_forward(with_kernels, tmp_path):
    """At most 1e-4 nat from a float32 forward with sdpa, for the teacher's packed rows and the student's."""
    write_inputs(tmp_path)
    flash = [f"{KEY}=flash_attention_2", "algorithm.egrsd.teacher.kind=live"]
    result = good(
        run(tmp_path, tmp_path / "run", [*flash, *COIN_REWARD, "trainer.total_training_steps=1"], **with_kernels)
    )
    assert "EGRSD: attn_implementation=flash_attention_2." in result.log
    assert "using `kernels-community/flash-attn2` from the `kernels` library" in result.log
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    batch = result.probe(1)
    rows = [row for row, padding in enumerate(batch["is_padding"]) if not padding]
    assert len(rows) == 8
    for row in rows:
        response = batch["responses"][row]
        for prompt, log_probs in (("teacher_prompt_ids", "teacher_log_probs"), ("prompts", "old_log_probs")):
            expected, _ = plain_forward(model, list(batch[prompt][row]), response, temperature=TEMPERATURE)
            torch.testing.assert_close(batch[log_probs][row], expected, atol=1e-4, rtol=0)
