"""The head on response positions only: its scores and their gradients are those of all logits, and no tensor is larger
than a chunk."""

import subprocess
import sys

import pytest
import torch
from exact_head import beside, exact_scores
from inputs import write_inputs
from runs import ROOT
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from recipe.egrsd.engine.fsdp import padded_positions, response_positions
from recipe.egrsd.engine.head import head_scores, scoring_head
from recipe.egrsd.method.vocabulary import Entropy

BESIDE = [None, "entropy", "forward_kl", "forward_kl 0.05", "reverse_kl", "reverse_kl 0.05"]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 37])
@pytest.mark.parametrize("name", BESIDE)
def test_scores_and_gradients_are_those_of_all_logits_in_float64(name, tokens, biased):
    """Whatever the size of a chunk: a token, a part of the vocabulary, everything."""
    torch.manual_seed(0)
    vocabulary, also = 300, beside(name, tokens, 300)
    parts = [torch.randn(tokens, 16), torch.randn(vocabulary, 16), *([torch.randn(vocabulary)] if biased else [])]
    inputs = [part.requires_grad_() for part in parts]
    bias, labels = (inputs[2] if biased else None), torch.randint(vocabulary, (tokens,))
    expected = exact_scores(*inputs[:2], bias, labels, temperature=1.3, also=also)
    each = torch.randn(expected.shape)  # tokens that count differently
    gradients = torch.autograd.grad((each * expected).sum(), inputs)
    for chunk_logits in (1, 700, 3000, 10**6):
        scores = head_scores(*inputs[:2], bias, labels, temperature=1.3, also=also, chunk_logits=chunk_logits)
        assert scores.shape == (tokens, 1 if also is None else 2) and scores.dtype == torch.float32
        torch.testing.assert_close(scores.double(), expected, atol=2e-5, rtol=0)
        for ours, exact in zip(torch.autograd.grad((each * scores).sum(), inputs), gradients, strict=True):
            torch.testing.assert_close(ours, exact, atol=2e-5, rtol=0)


def test_a_vocabulary_padded_with_minus_infinity_counts_for_nothing():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(5, 8).requires_grad_(), torch.randn(12, 8).requires_grad_(), torch.arange(5)
    bias = torch.cat([torch.zeros(9), torch.full((3,), -torch.inf)])
    padded = head_scores(hidden, weight, bias, labels, temperature=1.3, also=Entropy(), chunk_logits=7)
    plain = head_scores(hidden, weight[:9], None, labels, temperature=1.3, also=Entropy())
    torch.testing.assert_close(padded, plain, atol=1e-6, rtol=0)
    of_padded, expected = (torch.autograd.grad(scores.sum(), [hidden, weight]) for scores in (padded, plain))
    for ours, exact in zip(of_padded, expected, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-6, rtol=0)
    assert not of_padded[1][9:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 200])
def test_the_gradient_of_hidden_states_in_front_of_a_frozen_head(tokens, biased, dtype):
    """Against float64 of the same inputs; whatever the size of a chunk."""
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(size).to(dtype) for size in ((tokens, 16), (500, 16), (500,)))
    hidden, bias = hidden.requires_grad_(), bias if biased else None
    labels, each = torch.randint(500, (tokens,)), torch.randn(tokens, 1)
    expected = exact_scores(hidden, weight, bias, labels, temperature=1.3, also=None)
    (exact,) = torch.autograd.grad((each * expected).sum(), hidden)
    largest = exact.abs().amax() if tokens else 1.0
    for chunk_logits in (1, 3000, 10**6):
        scores = head_scores(hidden, weight, bias, labels, temperature=1.3, chunk_logits=chunk_logits)
        (ours,) = torch.autograd.grad((each * scores).sum(), hidden)
        assert ours.dtype == dtype
        bound = {torch.float32: 2e-5, torch.bfloat16: 0.012 * largest}[dtype]
        assert not tokens or (ours.double() - exact.double()).abs().max() <= bound


@pytest.mark.parametrize(("trained", "products"), [(True, 4), (False, 2)])
def test_how_often_the_head_multiplies(trained, products):
    """Logits, the hidden states' gradient while they are there; the logits once more for the weight's. A head that is
    not trained needs as many as with logits that were kept."""
    tokens, vocabulary, size = 37, 300, 16
    hidden = torch.randn(tokens, size).requires_grad_()
    weight, labels = torch.randn(vocabulary, size).requires_grad_(trained), torch.randint(vocabulary, (tokens,))
    with FlopCounterMode(display=False) as counter:
        head_scores(hidden, weight, None, labels, temperature=1.3, chunk_logits=3000).sum().backward()
    assert counter.get_total_flops() == products * 2 * tokens * vocabulary * size


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, list | tuple) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return output


def test_a_frozen_head_has_no_gradient():
    """An adapter's run: the head is not trained, and nothing as large as it is made."""
    hidden, weight = torch.randn(5, 2).requires_grad_(), torch.randn(3000, 2)
    scores = head_scores(hidden, weight, None, torch.arange(5), temperature=1.0, chunk_logits=500)
    with LargestTensor() as mode:
        scores.sum().backward()
    assert mode.largest <= 500 and hidden.grad.abs().max() > 0 and weight.grad is None


@pytest.mark.parametrize("tokens", [30, 300])
@pytest.mark.parametrize("name", BESIDE)
def test_no_tensor_outgrows_a_chunk_forward_or_backward(name, tokens):
    torch.manual_seed(0)
    vocabulary, also, chunk = 2000, beside(name, tokens, 2000), 40_000
    hidden, weight = torch.randn(tokens, 16).requires_grad_(), torch.randn(vocabulary, 16).requires_grad_()
    labels = torch.randint(vocabulary, (tokens,))
    with LargestTensor() as mode:
        head_scores(hidden, weight, None, labels, temperature=1.3, also=also, chunk_logits=chunk).sum().backward()
    assert mode.largest <= chunk < tokens * vocabulary


def test_the_head_is_itself_again_also_after_an_error():
    head, hidden = nn.Linear(2, 5), torch.randn(1, 3, 2)
    with pytest.raises(ZeroDivisionError), scoring_head(head, lambda _: 1 / 0):
        head(hidden)
    with scoring_head(head, lambda states: states.sum()):
        assert head(hidden).shape == ()
    assert head(hidden).shape == (1, 3, 5) and "forward" not in vars(head)


def test_a_position_predicts_the_token_behind_it():
    """Prompts of 2, 1, 3 tokens with responses of 1, 3, 2: P P R | P R R R | P P P R R."""
    nested = lambda lengths: torch.nested.as_nested_tensor(  # noqa: E731  one line
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

    verl gathers the heads of flash attention alone, which needs a GPU, so that this model's attention is switched off:
    its output projections are 0. What is left is where positions lie, and who computes them.
    """
    write_inputs(tmp_path, train=1)
    path = tmp_path / "model" / "model.safetensors"
    weights = {name: tensor * ("o_proj" not in name) for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    results = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        command = [
            sys.executable,
            ROOT / "tests" / "support" / "sequence_parallel_outputs.py",
            tmp_path / "model",
            out,
            str(ranks),
        ]
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
