"""What the engine makes of bfloat16 logits: verl's real FSDP2 engine on a gloo rank, in every configuration we
allow."""

import subprocess
import sys

import pytest
import torch
from inputs import write_inputs
from runs import ROOT, on_bfloat16_grid

from recipe.egrsd.engine.fsdp import float32_logits

MILLINAT = 1e-3


def run_engine(folder, *flags: str) -> dict[str, dict]:
    """tests/support/engine_outputs.py: configuration -> logits, ids, log-probs, entropies of its rows."""
    write_inputs(folder, train=4, body=8.0, head=20.0)  # logits up to 16
    out = folder / "outputs.pt"
    command = [sys.executable, ROOT / "tests" / "support" / "engine_outputs.py", folder / "model", out, *flags]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return torch.load(out, weights_only=False)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, dict]:
    return run_engine(tmp_path_factory.mktemp("egrsd"))


def errors(result: dict) -> tuple[float, float]:
    """Largest distance of log-probs and entropies from a float64 evaluation of the same bfloat16 logits, nats."""
    log_prob_error = entropy_error = 0.0
    for ids, logits, log_probs, entropy in zip(
        *(result[name] for name in ("input_ids", "logits", "log_probs", "entropy")), strict=True
    ):
        assert logits.dtype == torch.bfloat16
        exact = (logits.double() / result["temperature"]).log_softmax(-1)
        token = exact[:-1].gather(-1, ids[1:, None])[:, 0]
        difference = (log_probs[:-1] - token)[token.isfinite()]  # the sampled id may be one of the -inf ones
        log_prob_error = max(log_prob_error, difference.abs().max().item())
        exact_entropy = -torch.special.xlogy(exact.exp(), exact.exp()).sum(-1)
        entropy_error = max(entropy_error, (entropy - exact_entropy).abs().max().item())
    return log_prob_error, entropy_error


def test_every_configuration_was_run(outputs):
    """chunked or not, compiled or not, packed or padded, static or dynamic, T = 1 or 1.1, vocabulary padded or not."""
    compiled = 16 if any("compiled=True" in name for name in outputs) else 0
    assert len(outputs) == 32 + compiled


def test_within_a_millinat_of_float64(outputs):
    for name, result in outputs.items():
        log_prob_error, entropy_error = errors(result)
        assert log_prob_error <= MILLINAT, name
        assert entropy_error <= MILLINAT, name  # NaN fails, too: -inf logits give a finite entropy
        assert all(row.dtype == torch.float32 for row in (*result["log_probs"], *result["entropy"])), name


def test_compiled_is_covered_where_a_compiler_is_installed(outputs):
    if not any("compiled=True" in name for name in outputs):
        pytest.skip("torch.compile needs g++ or clang++, and neither is installed")


@pytest.mark.long
def test_verls_own_outputs_would_not_do(tmp_path):
    """Why engine/fsdp.py exists: the same logits through verl's own code. This is also the proof that the test above
    can fail."""
    worst = {name: errors(result) for name, result in run_engine(tmp_path, "verl").items() if "padding=0" in name}
    assert max(log_prob for log_prob, _ in worst.values()) > 10 * MILLINAT
    assert max(entropy for _, entropy in worst.values()) > 10 * MILLINAT
    print({name: f"{log_prob:.3f} {entropy:.3f}" for name, (log_prob, entropy) in worst.items()})


@pytest.fixture(scope="module")
def in_gpu_precision(tmp_path_factory) -> dict[str, dict]:
    """tests/support/bf16_engine_outputs.py: packed or padded -> scored, trained -> logits, labels and what came of
    them."""
    folder = tmp_path_factory.mktemp("bf16")
    write_inputs(folder, train=4, body=8.0, head=20.0)
    command = [
        sys.executable,
        ROOT / "tests" / "support" / "bf16_engine_outputs.py",
        folder / "model",
        folder / "outputs.pt",
    ]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return torch.load(folder / "outputs.pt")


@pytest.mark.parametrize("packed", [True, False])
def test_the_teachers_scores_are_float32_in_gpu_precision(in_gpu_precision, packed):
    """Within 1e-5 nat of float64 of the very logits that the head gave, parameters and autocast in bfloat16."""
    scored = in_gpu_precision[f"{packed=}"]["scored"]
    exact = (scored["logits"].double() / 1.1).log_softmax(-1)
    assert scored["logits"].dtype == torch.bfloat16 and len(scored["labels"]) == 44
    token = exact.gather(-1, scored["labels"][:, None])[:, 0]
    torch.testing.assert_close(scored["log_probs"].double(), token, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored["entropy"].double(), -(exact.exp() * exact).sum(-1), atol=1e-5, rtol=0)
    assert not on_bfloat16_grid(scored["entropy"]) and not on_bfloat16_grid(scored["log_probs"])


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_is_computed_in_float32_in_gpu_precision(in_gpu_precision, packed):
    trained = in_gpu_precision[f"{packed=}"]["trained"]
    exact = (trained["logits"].double() / 1.1).log_softmax(-1).gather(-1, trained["labels"][:, None])[:, 0]
    torch.testing.assert_close(trained["log_probs"].double(), exact, atol=1e-5, rtol=0)
    assert not on_bfloat16_grid(trained["log_probs"])
    assert trained["autocast"] is False


@pytest.mark.parametrize("temperature", [None, torch.full((2, 1), 1.25)])
def test_training_keeps_minus_infinity_and_the_gradient(temperature):
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, 0.25, -1.0]]).bfloat16().requires_grad_()
    scaled = float32_logits(logits, temperature)
    scaled[:, 0].sum().backward()
    assert scaled.dtype == torch.float32
    assert scaled[0, 2] == -torch.inf
    slope = 1.0 if temperature is None else 0.8  # 1 / 1.25
    torch.testing.assert_close(
        logits.grad.float(), torch.tensor([[slope, 0.0, 0.0]] * 2).bfloat16().float(), atol=0, rtol=0
    )


def test_scoring_turns_minus_infinity_into_zero_probability():
    scaled = float32_logits(torch.tensor([[1.0, -torch.inf]]).bfloat16(), None)
    assert scaled.isfinite().all()
    assert scaled.softmax(-1).tolist() == [[1.0, 0.0]]
