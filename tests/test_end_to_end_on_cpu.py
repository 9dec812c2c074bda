"""Whole runs: real main_ppo, Ray, vLLM and FSDP2 on the CPU. One run serves several tests."""

from pathlib import Path

import pytest
import torch
from reference import entropy_gate, entropy_scale, lookahead_entropy, ratio_weight
from runs import COIN_REWARD, Run, good, run, write_inputs
from transformers import AutoModelForCausalLM

from recipe.egrsd.metrics import METRICS

pytestmark = pytest.mark.slow

FULL_TWO_RANKS = [*COIN_REWARD, "trainer.n_gpus_per_node=2", "trainer.save_freq=2"]
LORA = ["actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora_alpha=16", "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.rollout.temperature=1.1", "trainer.val_before_train=True"]
PADDED = [
    *COIN_REWARD, "actor_rollout_ref.model.use_remove_padding=False", "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2", "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=3",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=1", "trainer.total_training_steps=22",
    "data.train_batch_size=6", "actor_rollout_ref.actor.ppo_mini_batch_size=6",
]  # fmt: skip


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=128)
    return folder


@pytest.fixture(scope="session")
def full(inputs, tmp_path_factory) -> Run:
    return good(run(inputs, tmp_path_factory.mktemp("full"), FULL_TWO_RANKS))


@pytest.fixture(scope="session")
def lora(inputs, tmp_path_factory) -> Run:
    return good(run(inputs, tmp_path_factory.mktemp("lora"), LORA))


@pytest.fixture(scope="session")
def padded(inputs, tmp_path_factory) -> Run:
    return good(run(inputs, tmp_path_factory.mktemp("padded"), PADDED, algorithm="egrsd"))


@pytest.fixture(params=["full", "lora", "padded"])
def any_run(request) -> Run:
    return request.getfixturevalue(request.param)


def plain_forward(model, prompt: list[int], response: torch.Tensor, *, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each response token and entropy of its distribution, by one transformers forward of the bare row."""
    row = torch.cat([torch.tensor(prompt), response])
    with torch.no_grad():
        logits = model(row[None]).logits[0].float() / temperature
    log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return log_probs.gather(-1, response[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


def test_teacher_is_the_initial_model_under_the_privileged_prompt(any_run, inputs):
    """At most 1e-4 nat from a plain float32 forward, after the student has been trained: full and LoRA, packed and padded."""
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32).eval()
    temperature = 1.1 if "lora" in any_run.folder.name else 1.0
    batch, compared = any_run.probe(3), 0
    for row, padding in enumerate(batch["is_padding"]):
        if padding:
            continue
        prompt, response = list(batch["teacher_prompt_ids"][row]), batch["responses"][row]
        assert len(prompt) > len(batch["prompts"][row])  # two prompts of different length in front of one response
        log_probs, entropy = plain_forward(model, prompt, response, temperature=temperature)
        torch.testing.assert_close(batch["teacher_log_probs"][row], log_probs, atol=1e-4, rtol=0)
        torch.testing.assert_close(batch["teacher_entropy"][row], entropy, atol=1e-4, rtol=0)
        assert batch["teacher_log_probs"][row].dtype == batch["teacher_entropy"][row].dtype == torch.float32
        compared += len(response)
    assert compared >= 20
    student = torch.cat(batch["old_log_probs"])
    assert (student - torch.cat(batch["teacher_log_probs"])).abs().mean() > 1e-2  # the two prompts do differ


def test_metrics_are_those_of_the_paper_oracle(any_run):
    """The logged means, from the loss hook on every rank and micro-batch, against loops over the recorded batch."""
    settings = {"gamma": 0.3, "window": 0 if "padded" in any_run.folder.name else 3}
    batch = any_run.probe(2)
    real = [row for row, padding in enumerate(batch["is_padding"]) if not padding]
    columns = {
        name: [batch[name][row].double().tolist() for row in real]
        for name in ("old_log_probs", "teacher_log_probs", "teacher_entropy", "advantages")
    }
    mask = [[bool(m) for m in batch["response_mask"][row]] for row in real]
    scale = entropy_scale(columns["teacher_entropy"], mask, min_nats=1.0)
    looked = lookahead_entropy(columns["teacher_entropy"], mask, window=settings["window"])
    gate = entropy_gate(looked, scale, gamma=settings["gamma"], floor=0.1)
    advantages = [row[0] for row in columns["advantages"]]
    weight = ratio_weight(columns["old_log_probs"], columns["teacher_log_probs"], advantages, clip_range=0.2)
    tokens = [(w, g) for ws, gs, ms in zip(weight, gate, mask, strict=True) for w, g, m in zip(ws, gs, ms, strict=True) if m]
    logged = any_run.metrics[1]
    expected = {
        "egrsd/entropy_scale": scale,
        "egrsd/gate_mean": sum(g for _, g in tokens) / len(tokens),
        "egrsd/ratio_weight_mean": sum(w for w, _ in tokens) / len(tokens),
        "egrsd/token_weight_mean": sum(w * g for w, g in tokens) / len(tokens),
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_every_documented_metric_is_logged_and_no_other(any_run):
    for step in any_run.metrics:
        assert {name for name in step if name.startswith("egrsd/")} == set(METRICS)
        assert step["timing_s/teacher"] > 0


def test_rollout_follows_the_actor(padded, lora):
    """After 20 updates the sampled tokens have the same probability in vLLM and in FSDP, in float32."""
    assert len(padded.metrics) == 22
    assert padded.metrics[-1]["training/rollout_probs_diff_max"] <= 1e-5
    assert lora.metrics[-1]["training/rollout_probs_diff_max"] <= 1e-5
    moved = padded.probe(22)["old_log_probs"][0] - padded.probe(22)["teacher_log_probs"][0]
    assert moved.abs().max() > 1e-2
    assert all(step["actor/grad_norm"] > 0 for step in padded.metrics)


def test_baseline_resumes_from_the_checkpoint(full, inputs, tmp_path):
    """Stopped after step 2 and resumed, the running statistics go on where they were."""
    (full.folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")
    checkpoints = f"trainer.default_local_dir={full.folder / 'checkpoints'}"
    resumed = good(run(inputs, tmp_path / "resumed", [*FULL_TWO_RANKS, checkpoints, "trainer.save_freq=-1"]))
    assert len(resumed.metrics) == 1
    assert resumed.metrics[0]["training/global_step"] == 3
    assert resumed.probe(3)["baseline"] == full.probe(3)["baseline"]
    assert resumed.probe(3)["baseline"]["steps"] == 2
    (full.folder / "checkpoints" / "global_step_2" / "egrsd.json").unlink()
    refused = run(inputs, tmp_path / "refused", [*FULL_TWO_RANKS, checkpoints])
    assert refused.returncode != 0
    assert "egrsd.json is missing, so the running baseline cannot continue" in refused.log


def test_validation_shows_accuracy_and_length(lora):
    assert "val-core/tiny_addition/acc/mean@1" in lora.log or "val-core/tiny_addition/reward/mean@1" in lora.log
