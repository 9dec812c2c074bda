"""Which models the head may score: those whose logits are its weight times its hidden states, with a bias or without.
All others are refused."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
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

from recipe.egrsd.engine.head import head_scores, require_plain_head, scoring_head

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
