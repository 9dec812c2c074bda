"""The doctor's estimate of a GPU's memory against figures worked out by hand."""

import pytest
from findings import GREEN, RED, YELLOW, said
from memory_estimates import GIB, estimates
from omegaconf import OmegaConf, open_dict
from transformers import AutoModelForCausalLM

from recipe.egrsd.doctor import host, memory
from recipe.egrsd.doctor.case import Case
from recipe.egrsd.doctor.shapes import shapes
from recipe.egrsd.machines import attention


def test_memory(case, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    built = case("trainer.n_gpus_per_node=2", rows=True)
    found = list(memory.check(built))
    assert not said(found, YELLOW) and not said(found, RED)
    assert "frozen teacher: weights of its own in host memory" in said(list(host.memory(built)), GREEN)
    built.gpu_gib = 0.001
    assert "training, T =" in said(list(memory.check(built)), RED)
    training = next(finding for finding in memory.check(built) if finding.text.startswith("training"))
    built.gpu_gib = 1e-9 + float(sum(estimated(built))) / 0.9 / memory.GIB
    training = next(finding for finding in memory.check(built) if finding.text.startswith("training"))
    assert training.level is YELLOW and "measure one step first" in training.text


def estimated(case: Case) -> list[float]:
    """The training phase by hand, bytes: two ranks, packed; a rank's 4 rows hold fewer tokens than the limit of
    1,024."""
    model = AutoModelForCausalLM.from_pretrained(case.config.actor_rollout_ref.model.path)
    parameters, tokens = model.num_parameters(), 4 * (case.longest_student_prompt + 24)
    ends = sum(end.weight.numel() for end in (model.get_input_embeddings(), model.get_output_embeddings()))
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    config, size = model.config, model.config.head_dim
    heads = size * (config.num_attention_heads + config.num_key_value_heads)
    layer = 6 * (2 * 128 + heads) + 2 * (2 * 128 + 2 * heads + 4 * config.intermediate_size)
    logits, inputs, mask = 20 * tokens * 407, 2 * tokens * 128 * 2, 5 * tokens**2
    trained = [4 * parameters / 2, 4 * parameters / 2, 8 * parameters / 2]
    return [*trained, 2 * (ends + 2 * block), inputs, layer * tokens, logits, mask]


@pytest.mark.parametrize(
    ("overrides", "tokens"),
    [
        ([], 8 * 100),  # one rank's whole batch
        (["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=500"], 500),
        (["trainer.n_gpus_per_node=4"], 2 * 100),
        (["trainer.n_gpus_per_node=4", "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"], 4 * 50),
        (["trainer.n_gpus_per_node=4", "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2"], 4 * 50),
        (
            ["actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3"],
            3 * 100,
        ),
    ],
)
def test_tokens_of_a_micro_batch(case, overrides, tokens):
    config = case("trainer.n_gpus_per_node=1", *overrides).config
    assert memory.micro_batch_tokens(config, config.actor_rollout_ref.actor, "ppo", prompt=76) == tokens


def test_tokens_of_a_pass_over_some_of_the_batch(case):
    config = case("trainer.n_gpus_per_node=2").config
    for responses, rows in ((5, 3), (8, 4), (100, 4)):  # of 8 in all
        found = memory.micro_batch_tokens(config, config.actor_rollout_ref.rollout, "log_prob", 76, responses)
        assert found == 100 * rows


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


def test_gradients_that_are_gathered_once_an_update_are_whole_on_every_rank(qwen3_8b):
    """In the dtype of their sum, whatever the ranks; verl 0.9.0, which has no such key, gathers them so."""
    fsdp, key = "actor_rollout_ref.actor.fsdp_config", "use_no_sync_for_gradient_accumulation"
    trained, name = 174_587_904, "gradients, whole between micro-batches"
    assert estimates(qwen3_8b(f"{fsdp}.{key}=false"))["training"]["gradients"] == pytest.approx(4 * trained / 8 / GIB)
    whole, older, narrow = qwen3_8b(f"{fsdp}.{key}=true"), qwen3_8b(), qwen3_8b(f"{fsdp}.{key}=true")
    with open_dict(older.config):
        del older.config.actor_rollout_ref.actor.fsdp_config[key]
    OmegaConf.update(narrow.config, f"{fsdp}.mixed_precision", {"reduce_dtype": "bf16"}, force_add=True)
    for built, width in ((whole, 4), (older, 4), (narrow, 2)):
        training = estimates(built)["training"]
        assert training[name] == pytest.approx(width * trained / GIB) and "gradients" not in training


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


def test_checkpointing_off_never_looks_cheaper(case):
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


def test_on_a_cpu_there_is_no_gpu_to_estimate(case, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    built = case("trainer.n_gpus_per_node=2", rows=True)
    assert [finding.level for finding in memory.check(built)] == [GREEN]  # what the letters mean
    assert "sampling" not in estimates(built)
    training = estimates(built)["host, training"]
    assert {"vLLM's weights", "vLLM's cache", "weights", "Adam", "reference model"} <= set(training)
    assert training["Adam"] == pytest.approx(8 * shapes(built.model).parameters / GIB)  # both ranks' halves
