"""The numbers do not depend on how the work is split, and reduce to what they should. Whole runs on the same rollouts.

Ranks, micro-batches, static or dynamic batches, packed or padded: all four differ at once between the two runs that are
compared here; ``make test-long`` changes one at a time.
"""

import itertools

import pytest
import torch
from runs import COIN_REWARD, DESCENT, LORA, SHOWS_NOTHING, adapter, good, parameters, replaying, run, run_plain_grpo
from same_training import LOGGED, assert_same_training, rows, weights

pytestmark = pytest.mark.slow


def test_ranks_micro_batches_batching_and_padding_change_nothing(full, padded, inputs):
    assert_same_training(full, padded)
    from safetensors.torch import load_file

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


@pytest.mark.long
def test_without_its_parts_it_is_verls_grpo_to_the_bit(inputs, rollouts, tmp_path):
    """gamma = clip_range = length_bonus = 0, group advantages: the same parameters as verl's own trainer, loss and
    engine."""
    shared = [*COIN_REWARD, *DESCENT, *replaying(rollouts), "trainer.save_freq=3"]
    parts_off = ["algorithm.egrsd.gamma=0", "algorithm.egrsd.clip_range=0", "algorithm.egrsd.length_bonus=0"]
    ours = good(
        run(inputs, tmp_path / "ours", [*shared, *parts_off, "algorithm.egrsd.advantage=grpo"], algorithm="egrsd")
    )
    verls = good(run_plain_grpo(inputs, tmp_path / "verl", shared))
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
