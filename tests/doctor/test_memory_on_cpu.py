"""The doctor's estimate of memory against what torch really keeps, and against figures worked out by hand."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from inputs import qwen3
from peft import LoraConfig, get_peft_model
from test_doctor_on_cpu import case, given, inputs, said  # noqa: F401  fixtures
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from benchmarks import logit_memory
from recipe.egrsd.doctor import host, memory
from recipe.egrsd.doctor.case import Case, Level
from recipe.egrsd.doctor.shapes import shapes
from recipe.egrsd.machines import attention

GREEN, YELLOW, RED = Level
GIB = 2**30
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


def verls_model(config, **own) -> SimpleNamespace:
    """verl's HFModelConfig, as far as the doctor reads it."""
    plain = {"lora_rank": 0, "lora_adapter_path": None, "target_modules": "all-linear", "exclude_modules": None}
    plain |= {"trust_remote_code": False, "enable_gradient_checkpointing": True}
    return SimpleNamespace(hf_config=config, **plain | own)


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


def estimates(built: Case) -> dict[str, dict[str, float]]:
    """GiB, by phase without its tokens and by term."""
    phases = memory.phases(built, shapes(built.model)) | host.demands(built, shapes(built.model))
    return {name.split(", T")[0]: {term.name: term.size / GIB for term in terms} for name, terms in phases.items()}


@pytest.fixture
def qwen3_8b(case):  # noqa: F811  a fixture
    """8 GPUs of 80 GiB, adapters of rank 64, 4 rows of 3,072 tokens a rank, of which 8,192 fit."""

    def build(*own: str, **model) -> Case:
        built = case(
            "data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32",
            "actor_rollout_ref.rollout.n=1", "data.max_prompt_length=2048", "data.max_response_length=1024",
            "trainer.n_gpus_per_node=8", "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192", "actor_rollout_ref.model.lora_rank=64",
            "algorithm.egrsd.score_student=auto", *own,
        )  # fmt: skip
        built.model = verls_model(qwen3("8B"), lora_rank=64, **model)
        return built

    return build


def test_an_update_by_hand(qwen3_8b, monkeypatch):
    parameters, trained = 8_190_735_360 + 174_587_904, 174_587_904
    block = 4096 * (4096 + 1024) * 2 + 3 * 4096 * 12288 + 2 * 4096 + 2 * 128
    layer = 4 * (2 * 4096 + 4096 + 1024) + 2 * (2 * 4096 + 2 * (4096 + 1024) + 4 * 12288)
    expected = {
        "weights": 4 * parameters / 8,
        "Adam": 8 * trained / 8,
        "gathered layers": 2 * (2 * 151936 * 4096 + 2 * block),
        "gradients": 4 * trained / 8,
        "layers' inputs": 2 * 8192 * 4096 * 36,
        "activations of a layer": layer * 8192,
    }
    chunked = {
        "logits": 10 * 2**26,
        "hidden states and their gradient at the head": 8 * 8192 * 4096,
        "sdpa's mask": 5 * 8192**2,
    }
    monkeypatch.setattr(attention, "find_spec", lambda package: None)
    found = estimates(qwen3_8b())["training"]
    assert found == pytest.approx({name: size / GIB for name, size in (expected | chunked).items()}, rel=1e-9)
    for flash in (True, False):
        for module in (memory, attention):
            monkeypatch.setattr(module, "find_spec", lambda package, flash=flash: flash or None)
        if flash:
            own = {"logits with flash-attn's cross entropy": 10 * 8192 * 151936}
        else:
            own = {"logits without flash-attn's cross entropy": 20 * 8192 * 151936, "sdpa's mask": 5 * 8192**2}
        found = estimates(qwen3_8b("algorithm.egrsd.score_student=always"))["training"]
        assert found == pytest.approx({name: size / GIB for name, size in (expected | own).items()}, rel=1e-9)
    everything = estimates(qwen3_8b(enable_gradient_checkpointing=False))["training"]
    assert everything["activations of all layers"] == pytest.approx(36 * layer * 8192 / GIB)
    assert "layers' inputs" not in everything


def test_the_lines_of_the_doctor(qwen3_8b, monkeypatch):
    """P / 8 and A / 8 of the test above in GiB: 31.2 / 8 and 0.65 / 8, twice; 3 GiB of layers; 0.5 of 80."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    for module in (memory, attention):
        monkeypatch.setattr(module, "find_spec", lambda package: None)
    built = qwen3_8b("trainer.nnodes=1", "reward.num_workers=2", "actor_rollout_ref.rollout.agent.num_workers=2")
    built.host_gib = 256
    letters, training, teacher, sampling = (finding.text for finding in memory.check(built))
    assert letters.startswith(
        "estimates, GiB a GPU. P = 8,365,323,264 parameters, A = 174,587,904 of them trained, E = 1,630,"
    )
    assert training == (
        "training, T = 8,192: about 12.1 of 80 (weights 3.9 = 4 B·P/8, Adam 0.2 = 8 B·A/8, gathered layers 3.0 = 2 "
        "B·E, gradients 0.1 = 4 B·A/8, layers' inputs 2.2 = 2 B·T·H·L, activations of a layer 1.4 = 188416 B·T, "
        "logits 0.6 = 10 B·C, hidden states and their gradient at the head 0.2 = 8 B·T·H, sdpa's mask 0.3 = 5 B·T²)"
    )
    assert teacher.startswith(
        "teacher's scoring, T = 5,120: about 7.8 of 80 (weights 3.9 = 4 B·P/8, "
    )  # 4 rows of 256 + 1,024
    assert sampling == "sampling: about 44.1 of 80 (vLLM 40.0 = 0.5 of 80, weights 3.9 = 4 B·P/8, Adam 0.2 = 8 B·A/8)"
    starting, node, _ = (finding.text for finding in host.memory(built))
    assert starting == (  # 4 workers, 3 others, 8 ranks
        "starting: about 53.0 of 256.0 GiB a node (weights, whole on one rank 31.2 = 4 B·P·1, processes 9.0 = 0.6 "
        "GiB·15, vLLM's processes 12.8 = 1.6 GiB·8)"
    )
    assert node.startswith(
        "training: about 146.5 of 256.0 GiB a node (sleeping vLLM's weights 124.7 = 2 B·P·8, processes"
    )


def test_checkpointing_off_never_looks_cheaper(case):  # noqa: F811  a fixture
    off = "actor_rollout_ref.model.enable_gradient_checkpointing=false"
    with_it, without = (estimates(case(*own, rows=True))["training"] for own in ([], [off]))
    assert sum(without.values()) > sum(with_it.values())


def test_who_scores_the_student(qwen3_8b):
    """Nobody; our head, a chunk at a time, for a token view or several updates; or verl's whole head."""
    assert {"verl's scoring of the student", "token view"}.isdisjoint(estimates(qwen3_8b()))
    ours = estimates(qwen3_8b("algorithm.egrsd.save_tokens_every=25"))["token view"]
    assert ours["logits"] == pytest.approx(10 * 2**26 / GIB)
    several = estimates(qwen3_8b("actor_rollout_ref.actor.ppo_mini_batch_size=16"))
    assert several["old_log_prob"]["logits"] == pytest.approx(10 * 2**26 / GIB)
    verls = estimates(qwen3_8b("algorithm.egrsd.score_student=always", "algorithm.egrsd.save_tokens_every=25"))
    assert "token view" not in verls
    verls = verls["verl's scoring of the student"]
    assert verls["logits"] == pytest.approx(6 * 8192 * 151936 / GIB)  # its limit follows the update's
    assert verls["their entropy"] == pytest.approx(6 * 2048 * 151936 / GIB)


def test_host_memory_by_hand(qwen3_8b):
    """8B: untied, read by one rank; every vLLM's sleeping weights. 4B: tied, read by every rank. Full: the reference
    model."""
    adapter, full = qwen3_8b(), qwen3_8b("actor_rollout_ref.model.lora_rank=0")
    full.model.lora_rank = 0
    weights, whole = 8_190_735_360, 8_190_735_360 + 174_587_904
    found = estimates(adapter)
    assert found["host, starting"]["weights, whole on one rank"] == pytest.approx(4 * whole / GIB)
    assert found["host, training"]["sleeping vLLM's weights"] == pytest.approx(2 * 8 * whole / GIB)
    found = estimates(full)["host, training"]
    assert found["reference model"] == pytest.approx(2 * weights / GIB) and "sleeping vLLM's weights" not in found
    adapter.model.hf_config = qwen3("4B")
    assert estimates(adapter)["host, starting"]["tied weights, whole on every rank"] == pytest.approx(
        4 * 8 * shapes(adapter.model).parameters / GIB
    )


def test_hidden_states_of_the_teacher_by_hand(qwen3_8b):
    """32 problems, 8 responses, 1,024 of at most 16,384 tokens, hidden size 4,096. OGLS-SD: a pass in bfloat16 and the
    sum in float32; SSOPD: one response a problem; EGRSD: none."""
    batch = ["data.train_batch_size=32", "actor_rollout_ref.rollout.n=8", "data.max_response_length=16384"]
    room = ["algorithm.egrsd.teacher.max_prompt_length=20000"]
    divergence = [*batch, *room, "algorithm.egrsd.divergence=reverse_kl", "algorithm.egrsd.pull.tokens=1024"]
    name, tokens = "teacher's hidden states", 32 * 8 * 1024
    steered = ["algorithm.egrsd.privilege=peers", "algorithm.egrsd.pull.rows=wrong"]
    for overrides, expected in (
        ([*divergence, *steered], 6 * tokens * 4096),
        ([*divergence, "algorithm.egrsd.pull.rows=longest_wrong"], 2 * tokens / 8 * 4096),
        ([*divergence, "algorithm.egrsd.pull.tokens=null"], 2 * tokens * 16 * 4096),
        ([*batch, *room], None),
    ):
        found = estimates(qwen3_8b(*overrides))["host, training"].get(name)
        assert found == (None if expected is None else pytest.approx(expected / GIB))


@pytest.mark.parametrize("level", Level)
def test_a_node_of_that_size(case, level):  # noqa: F811  a fixture
    built = case(rows=True)
    needed = max(
        sum(terms.values()) for terms in (estimates(built)["host, starting"], estimates(built)["host, training"])
    )
    built.host_gib = {RED: needed - 1, YELLOW: needed + 1, GREEN: needed / 0.69}[level]
    found = list(host.memory(built))
    assert f"of {built.host_gib:.1f} GiB a node" in said(found, level)
    assert not [finding for finding in found if finding.level is RED] or level is RED


def test_this_machine_is_no_reason_to_stop_where_another_one_trains(case, monkeypatch):  # noqa: F811  a fixture
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(host, "this_machine", lambda: GIB)
    found = list(host.memory(case(rows=True)))
    assert "of 1.0 GiB a node, this machine's (--host-gib for another)" in said(found, YELLOW) and not said(found, RED)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert "of 1.0 GiB a node, this machine's" in said(list(host.memory(case(rows=True))), RED)


def test_on_a_cpu_there_is_no_gpu_to_estimate(case, monkeypatch):  # noqa: F811  a fixture
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    built = case("trainer.n_gpus_per_node=2", rows=True)
    assert [finding.level for finding in memory.check(built)] == [GREEN]  # what the letters mean
    assert "sampling" not in estimates(built)
    training = estimates(built)["host, training"]
    assert {"vLLM's weights", "vLLM's cache", "weights", "Adam", "reference model"} <= set(training)
    assert training["Adam"] == pytest.approx(8 * shapes(built.model).parameters / GIB)  # both ranks' halves


def test_the_memory_of_this_machine():
    assert 0 < host.this_machine() <= psutil.virtual_memory().total
