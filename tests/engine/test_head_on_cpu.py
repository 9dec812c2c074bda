"""The head on response positions only: float32 scores and their gradients, and no tensor larger than a chunk."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from inputs import write_inputs
from peft import LoraConfig, get_peft_model
from runs import ROOT
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from recipe.egrsd.engine.fsdp import padded_positions, response_positions
from recipe.egrsd.engine.head import head_scores, product_dtype, require_plain_head, scoring_head
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


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, list | tuple) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return output


def exact_scores(hidden, weight, bias, labels, *, temperature: float, also) -> torch.Tensor:
    """The definition, in float64, from all logits at once."""
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    log_p = (logits / temperature).log_softmax(-1)
    columns = [log_p.gather(-1, labels[:, None])[:, 0]]
    if isinstance(also, Entropy):
        columns.append(-torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1))
    elif also is not None:
        teacher = (also.hidden.double() @ also.weight.double().T / temperature).log_softmax(-1)
        left, right = (teacher, log_p) if also.knobs["kind"] == "forward_kl" else (log_p, teacher)
        of_entry = left.exp() * (left - right)
        columns.append((of_entry if also.knobs["clip"] is None else of_entry.clamp(max=also.knobs["clip"])).sum(-1))
    return torch.stack(columns, 1)


def beside(name: str | None, tokens: int, vocabulary: int):
    if name in (None, "entropy"):
        return Entropy() if name else None
    kind, _, clip = name.partition(" ")
    knobs = {"temperature": 1.3, "kind": kind, "clip": float(clip) if clip else None}
    return Divergence(torch.randn(tokens, 16), torch.randn(vocabulary, 16), **knobs)


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


TINY = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_whose_logits_are_its_heads_is_taken(tied):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**TINY, tie_word_embeddings=tied)).bfloat16()
    require_plain_head(model, torch.arange(8)[None])


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
    """A softcap, a scale: the head alone would give the teacher another distribution than the model's, without a
    word."""
    with pytest.raises(TypeError, match=f"{type(model).__name__} changes the logits of its head"):
        require_plain_head(model, torch.arange(8)[None])


def test_a_model_that_is_broken_is_not_called_softcapped():
    """NaN is NaN in both; the first scores name it (scoring.checked)."""
    model = Qwen3ForCausalLM(Qwen3Config(**TINY))
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    require_plain_head(model, torch.arange(8)[None])


class Model(nn.Module):
    """A head whose logits, on their way out of it, become others; ``hidden`` is what it is given."""

    def __init__(self, hidden: Tensor, weight: Tensor, becomes: Callable[[Tensor], Tensor]):
        super().__init__()
        self.lm_head, self.hidden = nn.Linear(*reversed(weight.shape), bias=False), hidden
        self.lm_head.weight = nn.Parameter(weight)
        self.lm_head.register_forward_hook(lambda head, given, logits: becomes(logits))

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, **_) -> SimpleNamespace:
        return SimpleNamespace(logits=self.lm_head(self.hidden))


def one_ulp_aside(logits: Tensor, share: float) -> Tensor:
    """bfloat16 logits, a share of which fell on the other side of a rounding boundary."""
    ulp = torch.nextafter(logits, torch.full_like(logits, torch.inf)) - logits
    sign = torch.where(torch.rand(logits.shape) < 0.5, -1.0, 1.0)
    return torch.where(torch.rand(logits.shape) < share, logits + sign * ulp, logits).bfloat16()


def in_four_pieces(hidden: Tensor, weight: Tensor) -> Tensor:
    """The product as a GPU sums it for a single row: partial sums, each rounded to bfloat16."""
    parts = [(h.float() @ w.float().T).bfloat16() for h, w in zip(hidden.chunk(4, 1), weight.chunk(4, 1), strict=True)]
    return sum(part.float() for part in parts).bfloat16()


HEADS = {
    "itself": (True, lambda logits, *_: logits),
    "one ulp at 1 %": (True, lambda logits, *_: one_ulp_aside(logits, 0.01)),
    "one ulp everywhere": (True, lambda logits, *_: one_ulp_aside(logits, 1.0)),
    "summed in four pieces": (True, lambda _, hidden, weight: in_four_pieces(hidden, weight)),
    "softcap 30": (False, lambda logits, *_: (30 * (logits.float() / 30).tanh()).bfloat16()),
    "scale 1.02": (False, lambda logits, *_: (1.02 * logits.float()).bfloat16()),
    "bias": (False, lambda logits, *_: (logits + 0.1 * torch.randn(logits.shape)).bfloat16()),
    "another row's": (False, lambda logits, *_: logits.flip(-1)),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_more_than_a_product_is_told_from_rounding(name):
    """At Qwen3's vocabulary in bfloat16, where single logits of two equal products differ by an ulp: 0.125 at 16."""
    plain, returned = HEADS[name]
    torch.manual_seed(0)
    hidden, weight = (
        torch.randn(2, 256).bfloat16(),
        (0.22 * torch.randn(151_936, 256)).bfloat16(),
    )  # logits of 3.5 on average
    model = Model(hidden, weight, lambda logits: returned(logits, hidden, weight))
    if plain:
        require_plain_head(model, torch.arange(2)[None])
    else:
        with pytest.raises(
            TypeError, match="the head of Model returns other logits than its weight times its hidden states"
        ):
            require_plain_head(model, torch.arange(2)[None])


def test_an_adapter_on_the_head_is_refused_though_it_starts_at_zero():
    """Its weights would train unseen: the scores are the base's."""
    config = LoraConfig(target_modules=["lm_head"], r=2)
    model = get_peft_model(Qwen3ForCausalLM(Qwen3Config(**TINY)), config)
    with pytest.raises(
        TypeError, match=r"is a Linear, .*leave lm_head out of actor_rollout_ref\.model\.target_modules"
    ):
        require_plain_head(model, torch.arange(8)[None])


def test_a_head_with_a_bias_is_scored_with_it():
    torch.manual_seed(0)
    model = PhiForCausalLM(PhiConfig(**{name: value for name, value in TINY.items() if name != "head_dim"}))
    torch.nn.init.normal_(model.lm_head.bias)
    ids = torch.arange(8)[None]
    require_plain_head(model, ids)
    expected = model(ids).logits[0].log_softmax(-1).gather(-1, ids.T)[:, 0]
    head = model.lm_head

    def score(hidden):
        return head_scores(hidden[0], head.weight, head.bias, ids[0], temperature=1.0)

    with scoring_head(head, score):
        torch.testing.assert_close(model(ids).logits[:, 0], expected, atol=1e-5, rtol=0)


def test_a_product_has_the_dtype_that_autocast_gives_it():
    """A LayerNorm under CUDA's autocast returns float32, which the head's product rounds; so must whoever repeats
    it."""
    assert product_dtype(torch.randn(2)) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(torch.randn(2)) == torch.bfloat16


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
