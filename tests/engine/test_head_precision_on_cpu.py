"""The head in bfloat16 and under verl's autocast: its scores are float32, and its gradients no further off than by a
rounding."""

import pytest
import torch
from exact_head import beside, exact_scores
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from recipe.egrsd.engine.head import head_scores, product_dtype
from recipe.egrsd.method.divergence import Divergence
from recipe.egrsd.method.vocabulary import Entropy, scaled_log_probs


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("padding", [0, 9])
def test_scores_of_bf16_logits_are_those_of_float64(temperature, padding):
    torch.manual_seed(0)
    logits = (4 * torch.randn(40, 300)).bfloat16()
    logits[:, 300 - padding :] = -torch.inf
    log_p, normaliser = scaled_log_probs(logits, temperature=temperature)
    entropy, slope_sum = Entropy().sums(log_p, slice(None))
    exact = (logits.double() / temperature).log_softmax(-1)
    assert log_p.dtype == normaliser.dtype == entropy.dtype == torch.float32
    real = slice(300 - padding)
    torch.testing.assert_close(log_p[:, real].double(), exact[:, real], atol=1e-5, rtol=0)
    assert log_p.isfinite().all() and not log_p[:, 300 - padding :].exp().any()
    expected = -torch.special.xlogy(exact.exp(), exact.exp()).sum(-1)
    torch.testing.assert_close(entropy.double(), expected, atol=1e-5, rtol=0)
    slopes = Entropy().slopes(log_p, slice(None)).sum(-1)
    torch.testing.assert_close(slope_sum, slopes, atol=1e-5, rtol=0)


class Sums(TorchDispatchMode):
    """Whether cuBLAS might round the parts of a sum, at each product."""

    def __init__(self):
        super().__init__()
        self.allowed = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "mm" in str(func):
            self.allowed.append(torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("also", [None, Entropy()])
def test_no_product_of_the_head_may_round_parts_of_its_sum(also):
    """torch's default on CUDA is that it may; what others multiply stays as it was."""
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    hidden, weight = (torch.randn(rows, 4, dtype=torch.bfloat16, requires_grad=True) for rows in (5, 9))
    with Sums() as seen:
        head_scores(hidden, weight, None, torch.arange(5), temperature=1.0, also=also).sum().backward()
    assert seen.allowed == [False] * 4
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


QWEN3_VOCABULARY = 151_936
VIEWS = {f"aten.{name}.default" for name in ("t", "permute", "detach", "_to_copy", "empty_like")} | {
    "aten.slice.Tensor"
}
PRODUCTS = VIEWS | {"aten.mm.default", "aten.mm.out"}
"""What may return bfloat16: the head's three products, and views and copies of what goes into them."""


def test_scores_are_float32_under_verls_autocast():
    """On a GPU verl runs the whole forward pass under it. Half of the rows are nearly certain, half hesitate among
    hundreds."""
    torch.manual_seed(0)
    sharpness = torch.tensor([8.0, 4.0, 2.0, 1.0]).repeat(2)[:, None]
    logits = (sharpness * torch.randn(8, QWEN3_VOCABULARY)).bfloat16()
    labels = torch.randint(QWEN3_VOCABULARY, (8,))
    hidden, weight = (
        torch.eye(8).requires_grad_(),
        logits.T.contiguous().requires_grad_(),
    )  # whose product is these logits
    with torch.autocast("cpu", torch.bfloat16), LowPrecision() as seen:
        scores = head_scores(
            hidden, weight, None, labels, temperature=1.1, also=Entropy(), chunk_logits=3 * QWEN3_VOCABULARY
        )
        scores.sum().backward()
    exact = (logits.double() / 1.1).requires_grad_()
    log_p = exact.log_softmax(-1)
    expected = torch.stack([log_p.gather(-1, labels[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)], 1)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)
    assert set(seen.operations) <= PRODUCTS
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    # d / d logits, which are hidden @ weight.T: once rounded to bfloat16, on its way into the products.
    torch.testing.assert_close(weight.grad.double(), (gradient / 1.1).T, atol=1e-6, rtol=2**-8)


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


@pytest.mark.parametrize(
    "name", [None, "entropy", "forward_kl", "reverse_kl"]
)  # a rounding may lift a share over its clip
def test_gradients_in_bfloat16_are_off_by_its_rounding_alone(name):
    """Against float64 of the same bfloat16 inputs: 0.4 % of the largest entry, a rounding of d / d logits and one of
    the sum."""
    torch.manual_seed(0)
    tokens, vocabulary, also = 200, 500, beside(name, 200, 500)
    hidden, weight = (torch.randn(size, 16).bfloat16().requires_grad_() for size in (tokens, vocabulary))
    if isinstance(also, Divergence):
        also.hidden, also.weight = also.hidden.bfloat16(), also.weight.bfloat16()
    labels, each = torch.randint(vocabulary, (tokens,)), torch.randn(tokens, 1)
    scores = head_scores(hidden, weight, None, labels, temperature=1.3, also=also, chunk_logits=3000)
    ours = torch.autograd.grad((each * scores).sum(), [hidden, weight])
    rounded = [part.detach().requires_grad_() for part in (hidden, weight)]
    expected = exact_scores(*rounded, None, labels, temperature=1.3, also=also)
    for gradient, exact in zip(ours, torch.autograd.grad((each * expected).sum(), rounded), strict=True):
        assert (gradient.double() - exact.double()).abs().max() <= 0.012 * exact.abs().max()


def test_the_gradient_of_hidden_states_is_no_further_off_than_from_logits_that_are_kept():
    """One product over the whole vocabulary, in bfloat16. Partial ones, each rounded, would be off by 1.5 times as
    much where the weight's rows have a common part, as a model's have: their pulls cancel."""
    torch.manual_seed(0)
    hidden, weight = (0.45 * torch.randn(40, 64)).bfloat16().requires_grad_(), 0.45 * torch.randn(20_000, 64)
    weight = (weight + 3 * torch.randn(64)).bfloat16().requires_grad_()
    labels, each = torch.randint(20_000, (40,)), torch.rand(40)
    exact = exact_scores(hidden, weight, None, labels, temperature=1.3, also=None)
    kept = (nn.functional.linear(hidden, weight).float() / 1.3).log_softmax(-1).gather(-1, labels[:, None])
    ours = head_scores(hidden, weight, None, labels, temperature=1.3, chunk_logits=40_000)
    exact, kept, ours = (
        torch.autograd.grad((each * scores[:, 0]).sum(), hidden)[0].double() for scores in (exact, kept, ours)
    )
    assert (ours - exact).norm() <= 1.1 * (kept - exact).norm()


def test_a_product_has_the_dtype_that_autocast_gives_it():
    """A LayerNorm under CUDA's autocast returns float32, which the head's product rounds; so must whoever repeats
    it."""
    assert product_dtype(torch.randn(2)) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(torch.randn(2)) == torch.bfloat16
