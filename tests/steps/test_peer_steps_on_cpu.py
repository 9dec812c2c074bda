"""What a step makes of a teacher that is shown another response: what it reads, and a response without one.

The trainer's own steps run on a real TransferQueue, as in test_groups_on_cpu.py; only the forward pass is a table.
"""

from types import SimpleNamespace

import pytest
import reference
import torch
import transfer_queue as tq
from composing import composed
from micro_batches import EVERYWHERE, settings, trained
from queues import PromptTable
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.method.advantage import RunningBaseline
from recipe.egrsd.privilege.prompts import SLOT
from recipe.egrsd.teacher.kinds import Teacher
from recipe.egrsd.trainer import EgrsdSync

EOS, EOT = 90, 91
# Problem a: one right, two wrong. b: one right alone. c: all wrong. name -> score, response
ROLLOUTS = {
    "a_0_0": (0.0, [11, 11, 11, EOS]), "a_1_0": (1.0, [12, 12, EOS]), "a_2_0": (0.0, [13, 13]),
    "b_0_0": (1.0, [14, EOS]), "b_1_0": (0.0, [15, 15, 15]),
    "c_0_0": (0.0, [16, 16, EOS]), "c_1_0": (0.0, [17]),
}  # fmt: skip
FRAME = {"a": [1, SLOT, 2], "b": [3, SLOT, 4], "c": [5, SLOT, 6]}
TAUGHT = {"a_0_0": [1, 12, 12, 2], "a_2_0": [1, 12, 12, 2], "b_1_0": [3, 14, 4]}  # a_1 and b_0 have no other right one


def row(key: str) -> dict:
    return row_of(key, *ROLLOUTS[key])


def row_of(key: str, score: float, response: list[int]) -> dict:
    prompt, mask = [FRAME[key[0]][0]], [1] * len(response)
    ids = torch.tensor(prompt + response)
    return {
        "uid": key[0], "teacher_prompt_ids": FRAME[key[0]], "prompts": torch.tensor(prompt),
        "responses": torch.tensor(response), "response_mask": torch.tensor(mask), "loss_mask": torch.tensor(mask),
        "input_ids": ids, "position_ids": torch.arange(len(ids)),
        "rm_scores": torch.tensor([0.0] * (len(mask) - 1) + [score]), "old_log_probs": -torch.rand(len(mask)),
    }  # fmt: skip


@pytest.fixture
def batch(queue) -> KVBatchMeta:
    """Eight rows: the seven above and a padding sample, out of order."""
    torch.manual_seed(0)
    keys, tags = list(ROLLOUTS), [{"seq_len": 1} for _ in ROLLOUTS]
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict([*map(row, keys)]), tags=tags)
    padded = upsample_batch_to_divisible_size(KVBatchMeta(keys=keys, tags=tags, partition_id="train"), 8, EOS)
    padded.reorder([6, 4, 1, 0, 7, 3, 2, 5])
    yield padded
    tq.kv_clear(keys=padded.keys, partition_id="train")


def trainer(ranks: int = 1, **changes) -> EgrsdSync:
    trainer = object.__new__(EgrsdSync)
    trainer.config = composed(
        "actor_rollout_ref.rollout.n=3",
        "data.max_response_length=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=1024",
    )
    trainer.egrsd = settings(**({"privilege": "peer_correct"} | changes))
    trainer.timing_raw, trainer.global_steps = {}, 1
    trainer.tokenizer = SimpleNamespace(all_special_ids=[EOS, EOT])
    trainer.baseline = RunningBaseline(warmup_steps=9)
    trainer.teacher = Teacher(SimpleNamespace(kind="live", moves=False), PromptTable(ranks), uses_lora=False)
    ADV_ESTIMATOR_REGISTRY["egrsd"] = trainer._running_advantage
    return trainer


def columns(batch: KVBatchMeta, *names: str) -> dict[str, dict[str, list]]:
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=list(names))
    found = {}
    for name in names:
        rows = data[name].unbind() if isinstance(data[name], torch.Tensor) else list(data[name])
        found[name] = {key: torch.as_tensor(r).tolist() for key, r in zip(batch.keys, rows, strict=True)}
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_teacher_reads_the_peer_in_its_slot_and_scores_nobody_else(ranks, batch):
    ours, metrics = trainer(ranks), {}
    ours._compute_advantage(batch, metrics)
    filling = -len(TAUGHT) % ranks  # so that ranks take equal shares
    seen = [ids for ids in ours.teacher.workers.rows if len(ids) > 2]
    assert sorted(seen) == sorted(TAUGHT[key] + ROLLOUTS[key][1] for key in TAUGHT)
    assert len(ours.teacher.workers.rows) == len(TAUGHT) + filling
    found = columns(batch, "teacher_mask", "teacher_log_probs", "teacher_prompt_ids")
    for key in batch.keys:
        length = len(ROLLOUTS[key][1]) if key in ROLLOUTS else 1
        assert found["teacher_mask"][key] == [int(key in TAUGHT)] * length
        assert found["teacher_prompt_ids"][key] == TAUGHT.get(key, [])
        expected = PromptTable.log_probs(TAUGHT[key], length) if key in TAUGHT else [0.0] * length
        assert found["teacher_log_probs"][key] == pytest.approx(expected, abs=1e-6)
    assert metrics["egrsd/no_peer_frac"] == pytest.approx(4 / 7)
    assert metrics["egrsd/teacher_prompt_length_max"] == 4


@pytest.mark.parametrize("split", [[range(8)], [[0, 1], [2, 3], [4], [5, 6, 7]]], ids=["one micro-batch", "four"])
def test_without_a_peer_a_response_has_its_plain_advantage(split, batch):
    """d loss / d log p = -A w g / tokens by the loops of the paper; w g is exactly 1 where there is no teacher."""
    ours = trainer(ranks=2)
    ours._compute_advantage(batch, {})
    names = ["prompts", "responses", "response_mask", "teacher_mask", "old_log_probs", "teacher_log_probs",
             "teacher_entropy", "advantages"]  # fmt: skip
    data = tq.kv_batch_get(
        keys=batch.keys, partition_id="train", select_fields=[n for n in names if n != "old_log_probs"]
    )
    rows = {name: list(data[name].unbind()) for name in names if name != "old_log_probs"}
    rows["old_log_probs"] = [-0.1 * torch.arange(1.0, len(mask) + 1) for mask in rows["response_mask"]]
    tokens = sum(len(response) for _, response in ROLLOUTS.values())
    knobs = {"of_batch": ours.of_batch, "num_tokens": tokens}
    gradients, _ = trained(batch.keys, rows, split, ours.egrsd, **knobs)
    taught = list(TAUGHT)
    by_key = {name: dict(zip(batch.keys, column, strict=True)) for name, column in rows.items()}
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
def test_with_the_answer_in_its_prompt_everybody_has_a_teacher(right, batch):
    """Who has no correct peer is scored by a teacher whose slot is empty, and still counted as without."""
    ours, metrics = trainer(ranks=2, privilege="answer_and_peer"), {}
    if not right:
        scores = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["rm_scores"])
        tq.kv_batch_put(keys=batch.keys, partition_id="train", fields=scores.apply(torch.zeros_like))
    ours._compute_advantage(batch, metrics)
    expected = {key: [ids for ids in FRAME[key[0]] if ids != SLOT] for key in ROLLOUTS} | (TAUGHT if right else {})
    seen = [ids for ids in ours.teacher.workers.rows if len(ids) > 2]
    assert sorted(seen) == sorted(expected[key] + ROLLOUTS[key][1] for key in ROLLOUTS)
    found = columns(batch, "teacher_mask", "teacher_log_probs", "teacher_prompt_ids")
    for key, (_, response) in ROLLOUTS.items():
        assert found["teacher_mask"][key] == [1] * len(response) and found["teacher_prompt_ids"][key] == expected[key]
        scores = PromptTable.log_probs(expected[key], len(response))
        assert found["teacher_log_probs"][key] == pytest.approx(scores, abs=1e-6)
    assert metrics["egrsd/no_peer_frac"] == pytest.approx(4 / 7 if right else 1.0)


def test_a_batch_without_any_peer_asks_no_teacher(batch):
    ours, metrics = trainer(), {}
    scores = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["rm_scores"])
    scores["rm_scores"] = scores["rm_scores"] * 0
    tq.kv_batch_put(keys=batch.keys, partition_id="train", fields=scores)
    ours._compute_advantage(batch, metrics)
    assert not hasattr(ours.teacher.workers, "rows")
    assert metrics["egrsd/no_peer_frac"] == 1.0 and "egrsd/teacher_entropy_mean" not in metrics


def ssopd(**pull):
    knobs = {"policy_gradient": True, "coefficient": 0.5, "rows": "longest_wrong", "tokens": 2, "weighting": "frontier"}
    off = {"gamma": 0.0, "window": 0, "clip_range": 0.0, "length_bonus": 0.0}
    return off | {"divergence": "forward_kl", "pull": PullConfig(**(EVERYWHERE | knobs | pull))}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_only_what_is_pulled_has_a_teacher(ranks, batch):
    """Longest wrong ones that have a peer: a_0 and b_1, two tokens each. 4p(1-p) = 8/9 and 1, times .5, of three
    problems: .5 * 8/9 / 3 / 2 and .5 / 3 / 2 a token."""
    ours, metrics = trainer(ranks, **ssopd()), {}
    ours._compute_advantage(batch, metrics)
    expected = {"a_0_0": 2 / 27, "b_1_0": 1 / 12}
    seen = [ids for ids in ours.teacher.workers.rows if len(ids) > 2]
    assert sorted(seen) == sorted(TAUGHT[key] + ROLLOUTS[key][1][:2] for key in expected)
    found = columns(batch, "pull_weight", "teacher_mask", "teacher_log_probs", "teacher_hidden")
    for key in batch.keys:
        length, weight = len(ROLLOUTS[key][1]) if key in ROLLOUTS else 1, expected.get(key, 0.0)
        assert found["pull_weight"][key] == pytest.approx(
            [weight] * 2 + [0.0] * (length - 2) if weight else [0.0] * length
        )
        assert found["teacher_mask"][key] == ([1] * 2 + [0] * (length - 2) if weight else [0] * length)
        scores = PromptTable.log_probs(TAUGHT[key], 2) if weight else []
        assert found["teacher_log_probs"][key] == pytest.approx(scores + [0.0] * (length - len(scores)), abs=1e-6)
        assert found["teacher_hidden"][key] == pytest.approx([value for value in scores for _ in range(2)], abs=1e-6)
    assert metrics["egrsd/pulled_responses_frac"] == pytest.approx(2 / 7)
    assert metrics["egrsd/pulled_tokens_frac"] == pytest.approx(4 / 18)
    assert metrics["egrsd/pull_weight_sum"] == pytest.approx(4 / 27 + 1 / 6, abs=1e-6)
    assert ours.teacher.workers.knobs == {"kind": "forward_kl", "clip": None, "clip_low": None, "beta": 0.5}


def test_each_of_several_updates_pulls_with_its_share(batch):
    """Eight rows in mini-batches of one prompt with three rollouts: three updates, each averaged over its own rows."""
    ours, metrics = trainer(**ssopd()), {}
    ours.config.actor_rollout_ref.actor.ppo_mini_batch_size = 1
    ours._compute_advantage(batch, metrics)
    found = columns(batch, "pull_weight")["pull_weight"]
    assert found["a_0_0"][:2] == pytest.approx([3 * 2 / 27] * 2) and found["b_1_0"][:2] == pytest.approx([3 / 12] * 2)
    assert metrics["egrsd/pull_weight_sum"] == pytest.approx(4 / 27 + 1 / 6, abs=1e-6)


def test_a_response_of_a_problem_without_a_mix_does_not_count_as_pulled(batch):
    """Problem c is all wrong, so 4p(1-p) = 0 of its two, which have a teacher and are among the rows: five of seven."""
    ours, metrics = trainer(privilege="answer_and_peer", **ssopd(rows="all")), {}
    ours._compute_advantage(batch, metrics)
    assert metrics["egrsd/pulled_responses_frac"] == pytest.approx(5 / 7)


def test_weights_of_the_policy_gradient_keep_their_teachers_beside_a_pull(batch):
    """With a ratio weight every response with a peer is scored whole; hidden states are kept where it is pulled."""
    ours = trainer(2, **(ssopd() | {"clip_range": 0.2}))
    ours._compute_advantage(batch, {})
    found = columns(batch, "teacher_mask", "teacher_hidden")
    assert {key for key in batch.keys if any(found["teacher_mask"][key])} == set(TAUGHT)
    assert {key: len(row) for key, row in found["teacher_hidden"].items() if row} == {"a_0_0": 4, "b_1_0": 4}


@pytest.mark.parametrize("pull", [{"coefficient": 0.0}, {"warmup_steps": 5}, {"rows": "correct"}])
def test_with_nothing_to_pull_no_teacher_is_asked(pull, batch):
    """A coefficient of 0, the first step of a warm-up, and rows that have no peer."""
    ours, metrics = trainer(**ssopd(**pull)), {}
    ours._compute_advantage(batch, metrics)
    assert not hasattr(ours.teacher.workers, "rows") and not hasattr(ours.teacher.workers, "knobs")
    assert metrics.get("egrsd/pull_weight_sum", 0) == 0
