"""The numbers do not depend on how the work is split, and reduce to what they should. Whole runs on the same rollouts.

Ranks, micro-batches, static or dynamic batches, packed or padded: all four differ at once between the two runs that are
compared here; ``make test-long`` changes one at a time.
"""

import itertools
from pathlib import Path

import fixed_rollouts
import pytest
import torch
from composing import composed
from plain import TOKENS
from runs import COIN_REWARD, DESCENT, LORA, SHOWS_NOTHING, adapter, good, parameters, replaying, run, run_plain_grpo
from safetensors.torch import load_file
from same_training import LOGGED, assert_same_training, rows, weights
from teacher_texts import recorded_for_peers

pytestmark = pytest.mark.slow


def test_ranks_micro_batches_batching_and_padding_change_nothing(full, padded, inputs):
    assert_same_training(full, padded)
    before, after = load_file(inputs / "model" / "model.safetensors"), parameters(full, 3)
    assert max((after[name] - before[name]).abs().max() for name in before) > 1e-3


def static(size: int) -> list[str]:
    keys = ("actor.ppo_micro_batch", "rollout.log_prob_micro_batch", "ref.log_prob_micro_batch")
    sizes = [f"actor_rollout_ref.{key}_size_per_gpu={size}" for key in keys]
    return ["actor_rollout_ref.actor.use_dynamic_bsz=False", *sizes]


ONE_AT_A_TIME = {
    "one rank": [],
    "four micro-batches": static(2),
    "static": static(8),
    "many dynamic micro-batches": ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=200"],
    "padded": ["actor_rollout_ref.model.use_remove_padding=False"],
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("change", ONE_AT_A_TIME)
def test_one_change_at_a_time(change, full, inputs, rollouts, tmp_path):
    overrides = [*COIN_REWARD, *DESCENT, *ONE_AT_A_TIME[change], *replaying(rollouts), "trainer.save_freq=3"]
    overrides += ["actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=1024"]
    assert_same_training(good(run(inputs, tmp_path, overrides)), full)


@pytest.fixture
def of_peers(inputs, tmp_path, monkeypatch) -> Path:
    """The committed rollouts as a run records them whose teacher is shown other responses."""
    (tmp_path / "peers.json").write_text(recorded_for_peers(inputs))
    monkeypatch.setattr(fixed_rollouts, "FILE", tmp_path / "peers.json")
    fixed_rollouts.lay_out(tmp_path / "peers")
    return tmp_path / "peers"


NO_CLIP = ["algorithm.egrsd.divergence_clip=null", "algorithm.egrsd.divergence_clip_low=null"]
OTHER_METHODS = {
    "ssopd": [f"algorithm.egrsd.pull.tokens={TOKENS}"],
    "dash": [],
    "ogls_sd": [*NO_CLIP, "algorithm.egrsd.steering.warmup_steps=null", "algorithm.egrsd.steering.strength=0.5"],
    "rlcsd": ["algorithm.egrsd.contrast.scale=0.6", "algorithm.egrsd.contrast.threshold=0.2"],
}  # fmt: skip
"""With what leaves a random model some gradient, and no token within a rounding error of a threshold."""


@pytest.mark.long
@pytest.mark.parametrize("algorithm", OTHER_METHODS)
def test_ranks_and_batching_change_nothing_of_other_methods(algorithm, inputs, rollouts, of_peers, tmp_path):
    """Two ranks with dynamic batches, one with four static micro-batches: parameters after three steps."""
    recorded = rollouts if algorithm == "dash" else of_peers
    overrides = [*COIN_REWARD, *DESCENT, *OTHER_METHODS[algorithm], *replaying(recorded), "trainer.save_freq=3"]
    after = [
        parameters(good(run(inputs, tmp_path / name, [*overrides, *split], algorithm=algorithm)), 3)
        for name, split in (("one", static(2)), ("two", ["trainer.n_gpus_per_node=2"]))
    ]
    before = load_file(inputs / "model" / "model.safetensors")
    assert max((after[0][name] - before[name]).abs().max() for name in before) > 1e-3
    for name, tensor in after[0].items():
        torch.testing.assert_close(after[1][name], tensor, atol=1e-6, rtol=0)


def test_frozen_reference_is_lora_with_the_adapter_off(full, lora):
    """Same per-token weights in the first step, where a fresh adapter is zero; the same teacher in every step."""
    ours, theirs = dict(weights(full, 1, window=3)), dict(weights(lora, 1, window=3))
    assert ours.keys() == theirs.keys()
    for name, mine in ours.items():
        for field in ("ratio", "gate"):
            torch.testing.assert_close(getattr(mine, field), getattr(theirs[name], field), atol=1e-5, rtol=0)
    for step in (1, 2, 3):
        reference, adapter = rows(full, step), rows(lora, step)
        for name, column in itertools.product(reference, ("teacher_log_probs", "teacher_entropy")):
            torch.testing.assert_close(adapter[name][column], reference[name][column], atol=1e-4, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize("adapter", [[], LORA], ids=["full", "lora"])
def test_a_teacher_that_sees_no_solution_leaves_only_the_gate(adapter, inputs, tmp_path):
    """Null test: same prompt for both, weights that never move (lr = 0): ratio weight 1 at every token of the run."""
    (tmp_path / "nothing.jinja").write_text(SHOWS_NOTHING)
    overrides = [
        *COIN_REWARD, *adapter, "actor_rollout_ref.actor.optim.lr=0", "algorithm.egrsd.teacher.enable_thinking=false",
        f"algorithm.egrsd.teacher.template={tmp_path / 'nothing.jinja'}",
    ]  # fmt: skip
    result = good(run(inputs, tmp_path, overrides, algorithm="egrsd"))
    for step, logged in enumerate(result.metrics, start=1):
        batch = result.probe(step)
        assert [list(ids) for ids in batch["teacher_prompt_ids"]] == [ids.tolist() for ids in batch["prompts"]]
        for row in rows(result, step).values():
            assert (row["teacher_log_probs"] - row["old_log_probs"]).abs().max() <= 1e-5
        gates = torch.cat([weight.gate[0] for _, weight in weights(result, step, window=0)])
        assert logged["egrsd/token_weight_mean"] == pytest.approx(gates.double().mean().item(), abs=1e-5)
        assert logged["egrsd/gate_mean"] < 0.9999


PARTS_OFF = {
    "egrsd": [*(f"algorithm.egrsd.{part}=0" for part in ("gamma", "clip_range", "length_bonus")),
              "algorithm.egrsd.advantage=grpo"],
    "ssopd": ["algorithm.egrsd.pull.coefficient=0"],
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("algorithm", PARTS_OFF)
def test_without_its_parts_it_is_verls_grpo_to_the_bit(algorithm, inputs, rollouts, of_peers, tmp_path):
    """gamma = clip_range = length_bonus = 0, group advantages; or ssopd without its pull. The same parameters as of
    verl's own trainer, loss and engine."""
    shared = [*COIN_REWARD, *DESCENT, "trainer.save_freq=3"]
    shared += replaying(of_peers if algorithm == "ssopd" else rollouts)
    ours = good(run(inputs, tmp_path / "ours", [*shared, *PARTS_OFF[algorithm]], algorithm=algorithm))
    mean = composed(algorithm=algorithm).actor_rollout_ref.actor.loss_agg_mode
    verls = [*shared, f"actor_rollout_ref.actor.loss_agg_mode={mean}"]
    verls = good(run_plain_grpo(inputs, tmp_path / "verl", verls))
    assert not (verls.folder / "probe").exists()
    assert not any("egrsd" in name for name in verls.metrics[-1])
    expected = parameters(verls, 3)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters(ours, 3).items())
    assert [step["actor/grad_norm"] for step in ours.metrics] == [step["actor/grad_norm"] for step in verls.metrics]
    # A step both of whose groups of four are alike, one in 64, has no advantage; three in a row are one in 262,144.
    assert any(step["actor/grad_norm"] > 0 for step in verls.metrics)


@pytest.mark.long
def test_one_update_a_batch_needs_no_scoring_pass(full, inputs, rollouts, tmp_path):
    """The same parameters and metrics without verl's old_log_prob pass; its two metrics come from the training pass."""
    overrides = [
        *COIN_REWARD,
        *DESCENT,
        *replaying(rollouts),
        "trainer.save_freq=3",
        "algorithm.egrsd.score_student=auto",
    ]
    result = good(run(inputs, tmp_path, overrides, EGRSD_PROBE=""))
    assert "EGRSD takes log p_S from the training pass" in result.log
    assert "EGRSD keeps verl's old_log_prob pass: algorithm.egrsd.score_student=always." in full.log
    expected = parameters(full, 3)
    for name, tensor in parameters(result, 3).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)
    shared = [
        *LOGGED,
        "training/rollout_probs_diff_max",
        "training/rollout_probs_diff_mean",
    ]
    for ours, theirs in zip(result.metrics, full.metrics[:3], strict=True):
        assert {name: ours[name] for name in shared} == pytest.approx({name: theirs[name] for name in shared}, abs=1e-5)
        assert ours["timing_s/old_log_prob"] < 0.01 < theirs["timing_s/old_log_prob"]


@pytest.mark.long
def test_an_adapter_needs_none_either(inputs, rollouts, tmp_path):
    """Three steps from the same random adapter, which verl draws from the seed only when asked for determinism."""
    seeded = [f"actor_rollout_ref.{role}.fsdp_config.full_determinism=True" for role in ("actor", "ref")]
    overrides = [*COIN_REWARD, *DESCENT, *LORA, *seeded, *replaying(rollouts), "trainer.save_freq=3"]
    runs = {
        choice: good(
            run(inputs, tmp_path / choice, [*overrides, f"algorithm.egrsd.score_student={choice}"], EGRSD_PROBE="")
        )
        for choice in ("auto", "always")
    }
    expected = adapter(runs["always"], 3)
    assert expected
    for name, tensor in adapter(runs["auto"], 3).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)
    shared = ["actor/grad_norm", *LOGGED]
    for ours, theirs in zip(*(each.metrics for each in runs.values()), strict=True):
        assert {name: ours[name] for name in shared} == pytest.approx({name: theirs[name] for name in shared}, abs=1e-5)
        assert theirs["actor/grad_norm"] > 1e-3
