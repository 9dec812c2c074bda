"""What a step makes of a teacher that is shown another response: what it reads, and a response without one.

The trainer's own steps run on a real TransferQueue, as in test_groups_on_cpu.py; only the forward pass is a table.
"""

import pytest
import reference
import torch
import transfer_queue as tq
from micro_batches import trained
from queued_steps import FRAME, ROLLOUTS, TAUGHT, check_only_what_is_pulled_has_a_teacher, ssopd, trainer
from queues import PromptTable, columns

from recipe.egrsd.privilege.prompts import SLOT


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_teacher_reads_the_peer_in_its_slot_and_scores_nobody_else(ranks, peer_batch):
    ours, metrics = trainer(ranks), {}
    ours._compute_advantage(peer_batch, metrics)
    filling = -len(TAUGHT) % ranks  # so that ranks take equal shares
    seen = [ids for ids in ours.teacher.workers.rows if len(ids) > 2]
    assert sorted(seen) == sorted(TAUGHT[key] + ROLLOUTS[key][1] for key in TAUGHT)
    assert len(ours.teacher.workers.rows) == len(TAUGHT) + filling
    found = columns(peer_batch, "teacher_mask", "teacher_log_probs", "teacher_prompt_ids")
    for key in peer_batch.keys:
        length = len(ROLLOUTS[key][1]) if key in ROLLOUTS else 1
        assert found["teacher_mask"][key] == [int(key in TAUGHT)] * length
        assert found["teacher_prompt_ids"][key] == TAUGHT.get(key, [])
        expected = PromptTable.log_probs(TAUGHT[key], length) if key in TAUGHT else [0.0] * length
        assert found["teacher_log_probs"][key] == pytest.approx(expected, abs=1e-6)
    assert metrics["egrsd/no_peer_frac"] == pytest.approx(4 / 7)
    assert metrics["egrsd/teacher_prompt_length_max"] == 4


@pytest.mark.parametrize("split", [[range(8)], [[0, 1], [2, 3], [4], [5, 6, 7]]], ids=["one micro-batch", "four"])
def test_without_a_peer_a_response_has_its_plain_advantage(split, peer_batch):
    """d loss / d log p = -A w g / tokens by the loops of the paper; w g is exactly 1 where there is no teacher."""
    ours = trainer(ranks=2)
    ours._compute_advantage(peer_batch, {})
    names = ["prompts", "responses", "response_mask", "teacher_mask", "old_log_probs", "teacher_log_probs",
             "teacher_entropy", "advantages"]  # fmt: skip
    data = tq.kv_batch_get(
        keys=peer_batch.keys, partition_id="train", select_fields=[n for n in names if n != "old_log_probs"]
    )
    rows = {name: list(data[name].unbind()) for name in names if name != "old_log_probs"}
    rows["old_log_probs"] = [-0.1 * torch.arange(1.0, len(mask) + 1) for mask in rows["response_mask"]]
    tokens = sum(len(response) for _, response in ROLLOUTS.values())
    knobs = {"of_batch": ours.of_batch, "num_tokens": tokens}
    gradients, _ = trained(peer_batch.keys, rows, split, ours.egrsd, **knobs)
    taught = list(TAUGHT)
    by_key = {name: dict(zip(peer_batch.keys, column, strict=True)) for name, column in rows.items()}
    student, teacher, entropy = (
        [by_key[name][key].tolist() for key in taught]
        for name in ("old_log_probs", "teacher_log_probs", "teacher_entropy")
    )
    advantages = {key: (1 + 0.5 * (1 - len(r) / 8)) * score - 0.5 for key, (score, r) in ROLLOUTS.items()}
    weighted = reference.token_advantages(
        student,
        teacher,
        entropy,
        [[True] * len(e) for e in entropy],
        [advantages[key] for key in taught],
        gamma=0.7,
        window=2,
    )
    expected = {key: [advantages[key]] * len(response) for key, (_, response) in ROLLOUTS.items()}
    expected |= dict(zip(taught, weighted, strict=True))
    assert all(value != advantages[key] for key in taught for value in expected[key])
    for key, values in expected.items():
        assert gradients[key] == pytest.approx([-value / tokens for value in values], abs=1e-6)
    plain = [key for key in ROLLOUTS if key not in TAUGHT]
    exact = torch.tensor([by_key["advantages"][key][0].item() for key in plain]) / -tokens
    assert torch.equal(torch.tensor([gradients[key][0] for key in plain]), exact)


@pytest.mark.parametrize("right", [True, False])
def test_with_the_answer_in_its_prompt_everybody_has_a_teacher(right, peer_batch):
    """Who has no correct peer is scored by a teacher whose slot is empty, and still counted as without."""
    ours, metrics = trainer(ranks=2, privilege="answer_and_peer"), {}
    if not right:
        scores = tq.kv_batch_get(keys=peer_batch.keys, partition_id="train", select_fields=["rm_scores"])
        tq.kv_batch_put(keys=peer_batch.keys, partition_id="train", fields=scores.apply(torch.zeros_like))
    ours._compute_advantage(peer_batch, metrics)
    expected = {key: [ids for ids in FRAME[key[0]] if ids != SLOT] for key in ROLLOUTS} | (TAUGHT if right else {})
    seen = [ids for ids in ours.teacher.workers.rows if len(ids) > 2]
    assert sorted(seen) == sorted(expected[key] + ROLLOUTS[key][1] for key in ROLLOUTS)
    found = columns(peer_batch, "teacher_mask", "teacher_log_probs", "teacher_prompt_ids")
    for key, (_, response) in ROLLOUTS.items():
        assert found["teacher_mask"][key] == [1] * len(response) and found["teacher_prompt_ids"][key] == expected[key]
        scores = PromptTable.log_probs(expected[key], len(response))
        assert found["teacher_log_probs"][key] == pytest.approx(scores, abs=1e-6)
    assert metrics["egrsd/no_peer_frac"] == pytest.approx(4 / 7 if right else 1.0)


def test_a_batch_without_any_peer_asks_no_teacher(peer_batch):
    ours, metrics = trainer(), {}
    scores = tq.kv_batch_get(keys=peer_batch.keys, partition_id="train", select_fields=["rm_scores"])
    scores["rm_scores"] = scores["rm_scores"] * 0
    tq.kv_batch_put(keys=peer_batch.keys, partition_id="train", fields=scores)
    ours._compute_advantage(peer_batch, metrics)
    assert not hasattr(ours.teacher.workers, "rows")
    assert metrics["egrsd/no_peer_frac"] == 1.0 and "egrsd/teacher_entropy_mean" not in metrics


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_only_what_is_pulled_has_a_teacher(ranks, peer_batch):
    check_only_what_is_pulled_has_a_teacher(ranks, peer_batch)


def test_each_of_several_updates_pulls_with_its_share(peer_batch):
    """Eight rows in mini-batches of one prompt with three rollouts: three updates, each averaged over its own rows."""
    ours, metrics = trainer(**ssopd()), {}
    ours.config.actor_rollout_ref.actor.ppo_mini_batch_size = 1
    ours._compute_advantage(peer_batch, metrics)
    found = columns(peer_batch, "pull_weight")["pull_weight"]
    assert found["a_0_0"][:2] == pytest.approx([3 * 2 / 27] * 2) and found["b_1_0"][:2] == pytest.approx([3 / 12] * 2)
    assert metrics["egrsd/pull_weight_sum"] == pytest.approx(4 / 27 + 1 / 6, abs=1e-6)


def test_a_response_of_a_problem_without_a_mix_does_not_count_as_pulled(peer_batch):
    """Problem c is all wrong, so 4p(1-p) = 0 of its two, which have a teacher and are among the rows: five of seven."""
    ours, metrics = trainer(privilege="answer_and_peer", **ssopd(rows="all")), {}
    ours._compute_advantage(peer_batch, metrics)
    assert metrics["egrsd/pulled_responses_frac"] == pytest.approx(5 / 7)


def test_weights_of_the_policy_gradient_keep_their_teachers_beside_a_pull(peer_batch):
    """With a ratio weight every response with a peer is scored whole; hidden states are kept where it is pulled."""
    ours = trainer(2, **(ssopd() | {"clip_range": 0.2}))
    ours._compute_advantage(peer_batch, {})
    found = columns(peer_batch, "teacher_mask", "teacher_hidden")
    assert {key for key in peer_batch.keys if any(found["teacher_mask"][key])} == set(TAUGHT)
    assert {key: len(row) for key, row in found["teacher_hidden"].items() if row} == {"a_0_0": 4, "b_1_0": 4}


@pytest.mark.parametrize("pull", [{"coefficient": 0.0}, {"warmup_steps": 5}, {"rows": "correct"}])
def test_with_nothing_to_pull_no_teacher_is_asked(pull, peer_batch):
    """A coefficient of 0, the first step of a warm-up, and rows that have no peer."""
    ours, metrics = trainer(**ssopd(**pull)), {}
    ours._compute_advantage(peer_batch, metrics)
    assert not hasattr(ours.teacher.workers, "rows") and not hasattr(ours.teacher.workers, "knobs")
    assert metrics.get("egrsd/pull_weight_sum", 0) == 0
