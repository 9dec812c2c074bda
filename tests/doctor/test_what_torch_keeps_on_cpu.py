"""The bytes and parameters that the doctor's estimates count with, against what torch really keeps and peft
really adds."""

from types import SimpleNamespace

import pytest
import torch
from findings import GREEN, said
from memory_estimates import verls_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from benchmarks import logit_memory
from recipe.egrsd.doctor import host, memory
from recipe.egrsd.doctor.shapes import shapes

TOKENS = 64  # of a measured pass: the head's weight then adds up to 0.2 byte a logit
SMALL = {
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_a_logit_of_the_head_however_many_chunks():
    """Forward and backward: what exists does not grow with the tokens."""
    for chunks in (2, 6):
        assert logit_memory.in_chunks(TOKENS, chunks=chunks) == pytest.approx(memory.CHUNK_LOGIT, abs=0.4)
    scored = logit_memory.in_chunks(TOKENS, also="entropy", backward=False)
    assert scored == pytest.approx(memory.CHUNK_LOGIT, abs=0.4)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_a_logit_of_a_divergence(kind):
    assert logit_memory.in_chunks(TOKENS, also=kind) == pytest.approx(memory.DIVERGENCE_LOGIT, abs=0.4)


def test_a_logit_by_verls_functions():
    with logit_memory.flash_attention():
        assert logit_memory.trained_by_verl(TOKENS) == pytest.approx(memory.TRAINED_LOGIT[True], abs=0.3)
    assert logit_memory.trained_by_verl(TOKENS) == pytest.approx(memory.TRAINED_LOGIT[False], abs=0.4)
    assert logit_memory.trained_by_verl(TOKENS, torch.float32) == pytest.approx(memory.TRAINED_LOGIT[False], abs=0.5)
    chunk_of_entropy = memory.VERL_SCORED_LOGIT + memory.VERL_ENTROPY_LOGIT
    assert logit_memory.scored_by_verl(TOKENS) == pytest.approx(chunk_of_entropy, abs=0.3)


def saved_bytes(config, dtype: torch.dtype, *, lora_rank: int = 0) -> float:
    """What a layer keeps for the backward pass, a token: two layers less one, each storage once, parameters not
    counted."""
    totals = []
    for layers in (1, 2):
        config.num_hidden_layers, config._attn_implementation = layers, "sdpa"
        config.layer_types = ["full_attention"] * layers
        model = AutoModelForCausalLM.from_config(config).to(dtype)
        if lora_rank:
            model = get_peft_model(model, LoraConfig(r=lora_rank, target_modules="all-linear")).to(dtype)
        parameters, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

        def keep(tensor, parameters=parameters, kept=kept):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor, so that no other takes its place
            return tensor

        ids = torch.arange(96)[None]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(input_ids=ids, position_ids=ids, use_cache=False, logits_to_keep=1)
        totals.append(sum(size for size, _ in kept.values()))
        del output
    return (totals[1] - totals[0]) / 96


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("config", [Qwen3Config(**SMALL, head_dim=48), LlamaConfig(**SMALL), Qwen2Config(**SMALL)])
def test_the_activations_of_a_layer(config, dtype):
    estimate = shapes(verls_model(config)).widths.activations(dtype.itemsize)
    assert estimate == pytest.approx(saved_bytes(config, dtype), rel=0.01)


def test_the_activations_of_a_layer_under_an_adapter():
    config = Qwen3Config(**SMALL, head_dim=48)
    estimate = shapes(verls_model(config, lora_rank=4)).widths.activations(2)
    assert estimate == pytest.approx(saved_bytes(config, torch.bfloat16, lora_rank=4), rel=0.03)


def test_the_adapter_is_pefts(case):
    built = case(
        "actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.target_modules=[q_proj,v_proj]", rows=True
    )
    model = AutoModelForCausalLM.from_pretrained(built.config.actor_rollout_ref.model.path)
    trained, _ = get_peft_model(
        model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    ).get_nb_trainable_parameters()
    assert memory.shapes(built.model).trained == trained
    assert "frozen teacher: the student with its adapter off, no weights of its own" in said(
        list(host.memory(built)), GREEN
    )


def test_shapes_of_qwen3_8b():
    """Its published sizes; 8.19 billion parameters, and the paper's adapter of rank 64 on seven projections by hand."""
    sizes = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "head_dim": 128,
    }
    config = Qwen3Config(**sizes, num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False)
    adapter = {"lora_rank": 64, "lora_adapter_path": None, "target_modules": "all-linear", "exclude_modules": None}
    size = memory.shapes(SimpleNamespace(hf_config=config, trust_remote_code=False, **adapter))
    in_and_out = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288)  # q, o; k, v; gate, up, down
    assert size.trained == 64 * in_and_out * 36
    assert size.parameters - size.trained == 8_190_735_360
    assert (size.ends, size.layers) == (2 * 151936 * 4096, 36)
