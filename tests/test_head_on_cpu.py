"""The head on response positions only: float32 scores in chunks, no tensor as large as the prompt's logits."""

import subprocess
import sys

import pytest
import torch
from runs import ROOT, write_inputs
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from recipe.egrsd.engine import padded_positions, response_positions
from recipe.egrsd.head import require_heads_logits, score_chunk, scored_in_chunks


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("padding", [0, 9])
def test_scores_of_bf16_logits_are_those_of_float64(temperature, padding):
    torch.manual_seed(0)
    logits = (4 * torch.randn(40, 300)).bfloat16()
    logits[:, 300 - padding :] = -torch.inf
    labels = torch.randint(300 - padding, (40,))
    log_probs, entropy = score_chunk(logits, labels, temperature=temperature)
    exact = (logits.double() / temperature).log_softmax(-1)
    assert log_probs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), exact.gather(-1, labels[:, None])[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), -torch.special.xlogy(exact.exp(), exact.exp()).sum(-1), atol=1e-5, rtol=0)


QWEN3_VOCABULARY = 151_936


def test_scores_are_float32_under_verls_autocast():
    """On a GPU verl runs the whole forward pass under it. Half of the rows are nearly certain, half hesitate among hundreds."""
    torch.manual_seed(0)
    sharpness = torch.tensor([8.0, 4.0, 2.0, 1.0]).repeat(2)[:, None]
    logits = (sharpness * torch.randn(8, QWEN3_VOCABULARY)).bfloat16()
    labels = torch.randint(QWEN3_VOCABULARY, (8,))
    with torch.autocast("cpu", torch.bfloat16), LowPrecision() as seen:
        log_probs, entropy = score_chunk(logits, labels, temperature=1.1)
    exact = (logits.double() / 1.1).log_softmax(-1)
    assert log_probs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), exact.gather(-1, labels[:, None])[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), atol=1e-5, rtol=0)
    assert seen.operations == []


class LowPrecision(TorchDispatchMode):
    """Names of the operations that returned floats below float32: what autocast does behind one's back."""

    def __init__(self):
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, list | tuple) else [output]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype.itemsize < 4:
                self.operations.append(str(func))
        return output


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, list | tuple) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return output


def score(head: nn.Linear, hidden: torch.Tensor, chosen: torch.Tensor, labels: torch.Tensor, **options):
    with scored_in_chunks(head, lambda states: (states[chosen[None]], labels), temperature=1.3, **options) as scores:
        assert head(hidden).shape == (1, hidden.size(1), 0)
    return scores


@pytest.mark.parametrize("prompt", [10, 1000])
def test_no_tensor_outgrows_a_chunk_however_long_the_prompt(prompt):
    torch.manual_seed(0)
    head, response, vocabulary = nn.Linear(2, 5000, bias=False), 30, 5000
    hidden, labels = torch.randn(1, prompt + response, 2), torch.randint(vocabulary, (response,))
    chosen = torch.arange(prompt + response) >= prompt
    exact = (head(hidden)[0, prompt:].double() / 1.3).log_softmax(-1)
    for chunk_tokens in (1, 7, 30, 64):
        with torch.no_grad(), LargestTensor() as mode:
            scores = score(head, hidden, chosen, labels, chunk_tokens=chunk_tokens)
        assert mode.largest <= max(2, min(chunk_tokens, response)) * vocabulary  # 2: the weight itself
        (log_probs,), (entropy,), (kept,) = scores.log_probs, scores.entropy, scores.hidden
        torch.testing.assert_close(log_probs.double(), exact.gather(-1, labels[:, None])[:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), atol=1e-5, rtol=0)
        assert torch.equal(kept, hidden[0, prompt:])
        torch.testing.assert_close(scores.last_logits, head(hidden)[0, -1] / 1.3, atol=1e-5, rtol=0)


def test_the_head_is_itself_again_also_after_an_error():
    head, hidden = nn.Linear(2, 5), torch.randn(1, 3, 2)
    with pytest.raises(ZeroDivisionError), scored_in_chunks(head, lambda _: 1 / 0, temperature=1.0):
        head(hidden)
    assert head(hidden).shape == (1, 3, 5) and "forward" not in vars(head)


TINY = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_whose_logits_are_its_heads_is_taken(tied):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**TINY, tie_word_embeddings=tied)).bfloat16()
    require_heads_logits(model, torch.arange(8)[None])


@pytest.mark.parametrize(
    "model",
    [
        Gemma2ForCausalLM(Gemma2Config(**TINY, final_logit_softcapping=1.0)),
        CohereForCausalLM(CohereConfig(**TINY, logit_scale=0.5)),
        GraniteForCausalLM(GraniteConfig(**TINY, logits_scaling=2.0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_that_changes_its_heads_logits_is_refused(model):
    """A softcap, a scale: the head alone would give the teacher another distribution than the model's, without a word."""
    with pytest.raises(TypeError, match=f"{type(model).__name__} changes the logits of its head"):
        require_heads_logits(model, torch.arange(8)[None])


def test_a_model_that_is_broken_is_not_called_softcapped():
    """NaN is NaN in both; the first scores name it (scoring.checked)."""
    model = Qwen3ForCausalLM(Qwen3Config(**TINY))
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    require_heads_logits(model, torch.arange(8)[None])


def test_what_is_kept_is_what_the_head_multiplied():
    """A LayerNorm under CUDA's autocast returns float32, which the head's product rounds; so must whoever repeats it."""
    head, hidden = nn.Linear(16, 50, bias=False), torch.randn(1, 3, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = score(head, hidden, torch.ones(3, dtype=torch.bool), torch.arange(3))
    (kept,) = scores.hidden
    assert kept.dtype == torch.bfloat16 and torch.equal(kept, hidden[0].bfloat16())


def test_nothing_to_score():
    scores = score(nn.Linear(2, 5), torch.randn(1, 3, 2), torch.zeros(3, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    assert scores.log_probs[0].shape == scores.entropy[0].shape == (0,)


def test_a_position_predicts_the_token_behind_it():
    """Prompts of 2, 1, 3 tokens with responses of 1, 3, 2: P P R | P R R R | P P P R R."""
    nested = lambda lengths: torch.nested.as_nested_tensor(  # noqa: E731
        [torch.ones(n, dtype=torch.int64) for n in lengths], layout=torch.jagged
    )
    batch = TensorDict({"input_ids": nested([3, 4, 5]), "responses": nested([1, 3, 2])}, batch_size=3)
    positions = response_positions(batch)
    assert positions.int().tolist() == [0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0]
    padded = [[0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert padded_positions(positions, batch["input_ids"]).int().tolist() == padded


@pytest.mark.long
def test_ranks_that_split_a_row_say_what_one_says(tmp_path):
    """Ulysses: scores, the log-probs that are trained, and the head's gradient, of rows that two ranks share.

    verl gathers the heads of flash attention alone, which needs a GPU, so that this model's attention is switched off: its
    output projections are 0. What is left is where positions lie, and who computes them.
    """
    write_inputs(tmp_path, train=1)
    path = tmp_path / "model" / "model.safetensors"
    weights = {name: tensor * ("o_proj" not in name) for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    results = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        command = [sys.executable, ROOT / "tests" / "sequence_parallel_outputs.py", tmp_path / "model", out, str(ranks)]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stderr[-4000:]
        results.append(torch.load(out))
    one, two = results
    assert all(values.numel() == 14 for values in (*one["scored"], *one["trained"]))
    for ours, expected in zip([*two["scored"], *two["trained"]], [*one["scored"], *one["trained"]], strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(one["trained"][0], one["scored"][0], atol=2e-5, rtol=0)
    assert one["gradient"].abs().max() > 0.1
    torch.testing.assert_close(two["gradient"], one["gradient"], atol=1e-4, rtol=0)
