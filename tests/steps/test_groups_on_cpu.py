"""Groups, padding samples, tool tokens and rollouts of several rows: the trainer's own steps on a real TransferQueue.

Rows are written as verl's agent loop writes them, padded by verl, scored, shaped and turned into advantages by the
trainer, and weighted by the loss hook; only the forward pass is a table of numbers instead of an engine. The oracle
sees rollouts, not rows.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import reference
import torch
import transfer_queue as tq
from agent_rollouts import (
    ADDED,
    EOS,
    MAX_LENGTH,
    PRIVILEGED,
    PROMPT,
    ROLLOUTS,
    Table,
    oracle_weights,
    random,
    row,
    shaped,
)
from composing import composed
from micro_batches import EVERYWHERE, jagged, settings, trained
from queues import columns
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.egrsd import batches, teaching
from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.method.advantage import RunningBaseline
from recipe.egrsd.privilege.rows import last_rows, teacher_prompts
from recipe.egrsd.teacher.kinds import Teacher
from recipe.egrsd.trainer import EgrsdSync
from recipe.egrsd.watch.sums import token_means


@pytest.fixture
def batch(queue) -> KVBatchMeta:
    """Eight rows: the five of ROLLOUTS and three of verl's padding samples, out of order, as balancing leaves them."""
    keys = list(ROLLOUTS)
    tags = [{"seq_len": 1} for _ in keys]
    fields = list_of_dict_to_tensordict([row(number, key) for number, key in enumerate(keys)])
    tq.kv_batch_put(keys=keys, partition_id="train", fields=fields, tags=tags)
    padded = upsample_batch_to_divisible_size(KVBatchMeta(keys=keys, tags=tags, partition_id="train"), 8, EOS)
    # The student is scored after padding.
    scored = [
        -random(len(ROLLOUTS[key][1]), n) if key in ROLLOUTS else -random(1, n) for n, key in enumerate(padded.keys)
    ]
    fields = TensorDict({"old_log_probs": jagged(scored)}, batch_size=8)
    tq.kv_batch_put(keys=padded.keys, partition_id="train", fields=fields)
    padded.reorder([6, 4, 1, 0, 7, 3, 2, 5])
    yield padded
    tq.kv_clear(keys=padded.keys, partition_id="train")


@pytest.fixture
def trainer() -> EgrsdSync:
    """Without workers: those steps of the trainer that handle whole batches need none."""
    trainer = object.__new__(EgrsdSync)
    trainer.config = composed("actor_rollout_ref.rollout.n=2", f"data.max_response_length={MAX_LENGTH}")
    trainer.egrsd, trainer.timing_raw, trainer.global_steps, trainer.tokenizer = settings(), {}, 1, None
    trainer.baseline = RunningBaseline(warmup_steps=0)
    trainer.baseline.update(torch.tensor([0.0, 1.0, 1.5]))
    live = SimpleNamespace(kind="live", moves=False)
    trainer.teacher = Teacher(live, Table(), uses_lora=False)
    ADV_ESTIMATOR_REGISTRY["egrsd"] = trainer._running_advantage
    return trainer


def test_the_teacher_reads_the_row_with_the_privileged_prompt_in_front(trainer, batch):
    trainer._compute_advantage(batch, {})
    seen = trainer.teacher.workers.rows
    rows = [
        PRIVILEGED + ADDED.get(key, []) + [10 + n] * len(mask) for n, (key, (_, mask)) in enumerate(ROLLOUTS.items())
    ]
    assert sorted(seen) == sorted(rows) and seen[0] == max(rows, key=len)


def test_rewards_baseline_and_metrics_count_rollouts_once_and_padding_never(trainer, batch):
    metrics = {}
    trainer._compute_advantage(batch, metrics)
    rewards = [shaped(key) for key in ("a_0_0", "a_1_0", "b_0_0", "b_1_1")]
    assert sorted(trainer.step_rewards.tolist()) == pytest.approx(sorted(rewards), abs=1e-6)
    mean, std = reference.mean_and_population_std(rewards)
    entropies = [4 * value for n, (_, mask) in enumerate(ROLLOUTS.values())
                 for value, counts in zip(random(len(mask), 110 + n).tolist(), mask, strict=True)
                 if counts]  # fmt: skip
    lengths = [len(PRIVILEGED + ADDED.get(key, [])) for key in ROLLOUTS]
    expected = {
        "egrsd/reward_mean": mean, "egrsd/reward_std": std, "egrsd/correct_frac": 3 / 4, "egrsd/truncated_frac": 1 / 4,
        "egrsd/teacher_entropy_mean": sum(entropies) / len(entropies), "egrsd/teacher_entropy_max": max(entropies),
        "egrsd/entropy_scale": max(entropies), "egrsd/teacher_prompt_length_max": max(lengths),
        "egrsd/teacher_prompt_length_mean": sum(lengths) / len(lengths),
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("estimator", ["running", "grpo"])
def test_every_row_has_its_rollouts_advantage_on_sampled_tokens_only(estimator, trainer, batch):
    if estimator == "grpo":
        trainer.config.algorithm.adv_estimator = "grpo"
    trainer._compute_advantage(batch, {})
    found = columns(batch, "advantages")["advantages"]
    if estimator == "running":
        mean, std = reference.mean_and_population_std([0.0, 1.0, 1.5])
        expected = {key: (shaped(key) - mean) / std for key in ROLLOUTS}
    else:
        groups = {uid: [shaped(f"{uid}_0_0"), shaped(f"{uid}_1_0")] for uid in "ab"}
        expected = {}
        for key in ROLLOUTS:
            first, second = groups[key[0]]
            std = torch.tensor([first, second]).std().item()  # verl's: sample std, 1e-6 added
            expected[key] = (shaped(key) - (first + second) / 2) / (std + 1e-6)
    for key, advantages in found.items():
        mask = ROLLOUTS[key][1] if key in ROLLOUTS else [0]
        assert advantages == pytest.approx([expected.get(key, 0.0) * m for m in mask], abs=1e-5)


def test_an_estimator_that_would_count_each_row_of_a_rollout_is_refused(trainer, batch):
    """verl's rule of the last row (trainer/ppo/v1/utils.py:167) is for grpo: rloo would hold b_1_0 against b_1_1."""
    trainer.egrsd = replace(trainer.egrsd, advantage="rloo")
    with pytest.raises(ValueError, match=r"row b_1_1 is a later row .*advantage=rloo would count each as a response"):
        trainer._compute_advantage(batch, {})


def test_the_frontier_counts_rollouts_once(trainer, batch):
    """b_0 is wrong here and b_1 right, whose rows are two: p = 1/2, as for a, and 4p(1-p) of each of two problems."""
    tq.kv_batch_put(keys=["b_0_0"], partition_id="train", fields=TensorDict({"rm_scores": jagged([torch.zeros(8)])}, 1))
    pull = PullConfig(**(EVERYWHERE | {"rows": "wrong", "weighting": "frontier"}))
    off = {"gamma": 0.0, "window": 0, "clip_range": 0.0, "length_bonus": 0.0}
    trainer.egrsd = settings(divergence="forward_kl", pull=pull, **off)
    data = batches.read(batch, *teaching.FIELDS)
    weights, _ = teaching._pulled(batch, data, trainer.egrsd, trainer.config, step=1, has_teacher=[True] * 8)
    totals = {key: weight.sum().item() for key, weight in zip(batch.keys, weights, strict=True)}
    expected = {"a_1_0": 0.5, "b_0_0": 0.5}
    assert totals == pytest.approx({key: expected.get(key, 0.0) for key in totals}, abs=1e-6)


@pytest.mark.parametrize("last", [0.0, 1.0])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_a_rollout_is_as_right_as_its_last_row(order, last):
    """verl's colocated reward model scores each row by itself: those of b_1 differ. b_0 is wrong. In any order of the
    rows p = 1/2 if the last one earned something, and the problem's weight is 4p(1-p) = 1; else p = 0."""
    keys, scores, shared = ["b_0_0", "b_1_0", "b_1_1"], [0.0, 1 - last, last], torch.ones(2)
    keys, scores = ([values[i] for i in order] for values in (keys, scores))
    batch = KVBatchMeta(keys=keys, tags=[{}] * 3, partition_id="train")
    data = {"response_mask": jagged([shared.long()] * 3), "rm_scores": jagged([score * shared for score in scores])}
    pull = PullConfig(**(EVERYWHERE | {"rows": "wrong", "weighting": "frontier"}))
    off = {"gamma": 0.0, "window": 0, "clip_range": 0.0, "length_bonus": 0.0}
    egrsd, config = settings(divergence="forward_kl", pull=pull, **off), composed()
    knobs = {"step": 1, "has_teacher": [True] * 3}
    weights, _ = teaching._pulled(batch, TensorDict(data, [3]), egrsd, config, **knobs)
    totals = {key: weight.sum().item() for key, weight in zip(keys, weights, strict=True)}
    assert totals == pytest.approx({"b_0_0": last, "b_1_0": 0.0, "b_1_1": 0.0}, abs=1e-6)


@pytest.mark.parametrize("mini_batch", [2, 4])
def test_a_batch_of_several_updates_has_its_student_scored_first(mini_batch, trainer, batch, monkeypatch):
    """Eight rows for four rollouts: with 2 prompts a mini-batch, of 2 rollouts each, they fill two, and the second
    would train a policy that has moved. With 4 there is one update."""
    trainer.config.actor_rollout_ref.actor.ppo_mini_batch_size = trainer.config.data.train_batch_size = mini_batch
    called = []
    monkeypatch.setattr(PPOTrainerSync, "_compute_old_log_prob", lambda self, batch, metrics: called.append(batch))
    trainer._compute_old_log_prob(batch, {})
    assert len(called) == (mini_batch == 2)


@pytest.mark.parametrize("gate", ["token", "mean"])
@pytest.mark.parametrize("split", [[range(8)], [[0, 1], [2, 3], [4], [5, 6, 7]]], ids=["one micro-batch", "four"])
def test_weights_are_the_oracles_on_sampled_tokens_and_nothing_else_counts(split, gate, trainer, batch):
    """Lookahead over tool tokens, a micro-batch of padding alone: gradient and metrics by the loops of the paper. Under
    gate=mean every token's gate is the mean of them all."""
    trainer.egrsd = settings(gate=gate)
    trainer._compute_advantage(batch, {})
    names = (
        "prompts",
        "responses",
        "response_mask",
        "old_log_probs",
        "teacher_log_probs",
        "teacher_entropy",
        "teacher_mask",
        "advantages",
    )
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=list(names))
    rows = {name: list(data[name].unbind()) for name in names}
    num_tokens = sum(sum(mask) for _, mask in ROLLOUTS.values())
    knobs = {"of_batch": trainer.of_batch, "num_tokens": num_tokens}
    gradients, sums = trained(batch.keys, rows, split, trainer.egrsd, **knobs)

    oracle = oracle_weights(columns(batch, *names), gamma=0.7, window=2)
    if gate == "mean":
        flat = [g for row in oracle["gate"].values() for g in row if g is not None]
        mean = sum(flat) / len(flat)
        assert min(flat) < mean - 0.1  # so that it makes a difference
        for key, row in oracle["gate"].items():
            plain = zip(oracle["token advantage"][key], row, strict=True)
            oracle["token advantage"][key] = [value and value / g * mean for value, g in plain]
            oracle["gate"][key] = [g and mean for g in row]
    for key, gradient in gradients.items():
        expected = [-(value or 0.0) / num_tokens for value in oracle["token advantage"].get(key, [None])]
        assert gradient == pytest.approx(expected, abs=1e-6)
    pairs = [pair for key in ROLLOUTS for pair in zip(oracle["weight"][key], oracle["gate"][key], strict=True)]
    tokens = [(weight, gate) for weight, gate in pairs if gate is not None]
    means = token_means(sums)
    assert len(tokens) == sums["num_tokens"] == num_tokens
    assert sums["num_responses"] == len(ROLLOUTS)
    assert means["egrsd/gate_mean"] == pytest.approx(sum(g for _, g in tokens) / len(tokens), abs=1e-6)
    assert means["egrsd/token_weight_mean"] == pytest.approx(sum(w * g for w, g in tokens) / len(tokens), abs=1e-6)


def test_a_row_whose_prompt_was_rewritten_is_refused():
    prompts = [torch.tensor(PROMPT), torch.tensor([1, 7, 3, 4])]
    with pytest.raises(
        ValueError, match=r"the prompt of row b_1_1 does not begin with the prompt of its rollout's first row"
    ):
        teacher_prompts(["b_1_0", "b_1_1"], prompts, [PRIVILEGED] * 2)
    with pytest.raises(ValueError, match=r"row b_1_1 does not begin"):
        teacher_prompts(["b_1_1"], prompts[:1], [PRIVILEGED])


def test_last_rows_in_any_order():
    keys = ["x_y_0_10", "x_y_0_9", "x_y_1_0", "x_y_0_0"]  # ten before nine, and a uid with an underscore
    assert last_rows(keys).tolist() == [0, 0, 2, 0]


def test_a_verl_without_the_worker_that_trains_and_generates_is_named():
    """verl 0.9.1 plans it so for separate_async, which is refused before; a later one might elsewhere."""
    trainer = object.__new__(EgrsdSync)
    trainer.config, trainer._enable_hybrid_replicas = composed("critic.enable=false"), False
    with pytest.raises(
        RuntimeError, match=r"verl plans workers for \['Actor'\], and EGRSD builds on one that both trains"
    ):
        trainer._init_resource_pool_mgr()
