"""What a step makes of a teacher that reads a response beside each of its guides.

The trainer's own steps run on a real TransferQueue, as in test_peer_steps_on_cpu.py; only the forward pass is a table.
"""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import transfer_queue as tq
from micro_batches import EVERYWHERE
from queues import PromptTable
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.config.steering import SteeringConfig
from recipe.egrsd.teacher.kinds import Teacher

from .test_peer_steps_on_cpu import EOS, FRAME, ROLLOUTS, columns, row, trainer


def steering(strength: float = 3.0, warmup_steps: int | None = None, own_response: bool = True) -> SteeringConfig:
    return SteeringConfig(strength=strength, warmup_steps=warmup_steps, own_response=own_response)


SOLUTIONS = {"a": [31, 32], "b": [], "c": [33]}
# Problem a: rows 0 and 2 wrong, row 1 right; b: row 0 right, row 1 wrong, no solution; c: both wrong.
SHOWN = {
    "a_0": [11, 11, 11], "a_1": [12, 12], "a_2": [13, 13], "b_0": [14], "b_1": [15, 15, 15], "c_0": [16, 16],
    "c_1": [17],
}  # fmt: skip


class SteeredTable(PromptTable):
    """Keeps the rows of every pass."""

    def __init__(self, ranks: int = 1):
        super().__init__(ranks)
        self.passes, self.held = [], 0

    def compute_log_prob(self, batch):
        output = super().compute_log_prob(batch)
        self.passes.append(self.rows)
        return output

    def hold_teacher_head(self, **knobs) -> None:
        super().hold_teacher_head(**knobs)
        self.held += 1


@pytest.fixture
def batch(queue) -> KVBatchMeta:
    """Seven rows and a padding sample, out of order."""
    torch.manual_seed(0)
    keys, tags = list(ROLLOUTS), [{"seq_len": 1} for _ in ROLLOUTS]
    rows = [row(key) | {"teacher_solution_ids": SOLUTIONS[key[0]]} for key in keys]
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(rows), tags=tags)
    padded = upsample_batch_to_divisible_size(KVBatchMeta(keys=keys, tags=tags, partition_id="train"), 8, EOS)
    padded.reorder([6, 4, 1, 0, 7, 3, 2, 5])
    yield padded
    tq.kv_clear(keys=padded.keys, partition_id="train")


def ogls(ranks: int = 1, **changes):
    pull = PullConfig(**(EVERYWHERE | {"rows": "wrong", "tokens": 2}))
    off = {"gamma": 0.0, "window": 0, "clip_range": 0.0, "length_bonus": 0.0, "divergence": "reverse_kl"}
    ours = trainer(ranks, **(off | {"privilege": "peers", "steering": steering(), "pull": pull} | changes))
    ours.teacher = Teacher(SimpleNamespace(kind="live", moves=False), SteeredTable(ranks), uses_lora=False)
    return ours


def reads(key: str, *, own_response: bool = True) -> list[tuple[list[int], float]]:
    """Prompts of a wrong response with their coefficients."""
    group, own = key[0], key[:3]
    (start, _, end), solution = FRAME[group], SOLUTIONS[group]
    peers = [name for name in SHOWN if name[0] == group and (own_response or name != own)]
    right = [SHOWN[name] for name in peers if ROLLOUTS[f"{name}_0"][0]] + ([solution] if solution else [])
    wrong = [SHOWN[name] for name in peers if not ROLLOUTS[f"{name}_0"][0]]
    beside = [(shown, 3 / len(right)) for shown in right] + [(shown, -3 / len(wrong)) for shown in wrong]
    if not right or not wrong:
        return []
    return [([start], 1.0), *(([start, *shown, end], c) for shown, c in beside)]


PULLED = ("a_0_0", "a_2_0", "b_1_0", "c_0_0", "c_1_0")


@pytest.mark.parametrize("own_response", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_teacher_reads_pulled_tokens_beside_every_guide(ranks, own_response, batch):
    """Five wrong responses, two tokens each at most; the sum of their hidden states; the head once."""
    ours, metrics = ogls(ranks, steering=steering(own_response=own_response)), {}
    ours._compute_advantage(batch, metrics)
    table, readings = ours.teacher.workers, {key: reads(key, own_response=own_response) for key in ROLLOUTS}
    pulled = [key for key in PULLED if readings[key]]
    assert own_response or pulled == [key for key in PULLED if key != "b_1_0"]  # nobody else of its problem is wrong
    expected = Counter((*ids, *ROLLOUTS[key][1][:2]) for key in pulled for ids, _ in readings[key])
    filling = {tuple(row) for rows in table.passes for row in rows if len(row) == 2} - set(expected)
    seen = Counter(tuple(row) for rows in table.passes for row in rows)
    assert {row: count for row, count in seen.items() if row not in filling and len(row) > 2} == {
        row: count for row, count in expected.items() if len(row) > 2
    }
    assert len(table.passes) == 5 and table.held == 1  # nothing, the solution, three responses of problem a
    found = columns(batch, "teacher_hidden", "teacher_mask", "teacher_log_probs", "pull_weight", "teacher_prompt_ids")
    tokens = sum(min(2, len(ROLLOUTS[key][1])) for key in pulled)
    for key in batch.keys:
        length = len(ROLLOUTS[key][1]) if key in ROLLOUTS else 1
        assert found["teacher_mask"][key] == [0] * length  # the sum has no log-probs yet
        count = min(2, length) if key in pulled else 0
        assert found["pull_weight"][key] == pytest.approx([1 / tokens] * count + [0.0] * (length - count))
        total = torch.zeros(count)
        for ids, coefficient in readings[key] if count else []:
            total += coefficient * torch.tensor(PromptTable.log_probs(ids, count))
        assert found["teacher_hidden"][key] == pytest.approx(total.repeat_interleave(2).tolist(), abs=1e-6)
    assert found["teacher_prompt_ids"]["a_0_0"] == [1, 31, 32, 2]
    assert found["teacher_prompt_ids"]["b_1_0"] == ([3, 14, 4] if own_response else [])
    counts = [len(row) - 1 for row in readings.values() if row]
    assert metrics["egrsd/steering_strength"] == 3.0 and metrics["egrsd/no_peer_frac"] == 1 - len(counts) / 7
    assert metrics["egrsd/guides_mean"] == pytest.approx(sum(counts) / len(counts))
    assert metrics["egrsd/pulled_responses_frac"] == pytest.approx(len(pulled) / 7)
    assert "egrsd/teacher_entropy_mean" not in metrics and metrics["egrsd/teacher_prompt_length_max"] == 5


def test_responses_of_one_problem_read_the_same_guide_in_the_same_pass(batch):
    """So that its prompt is shared (scoring.py)."""
    ours = ogls()
    ours._compute_advantage(batch, {})
    for rows in ours.teacher.workers.passes:
        for problem in "abc":
            start, mine = FRAME[problem][0], [ROLLOUTS[key][1][:2] for key in PULLED if key[0] == problem]
            prompts = {tuple(ids[: -len(r)]) for ids in rows for r in mine if ids[0] == start and ids[-len(r) :] == r}
            assert len(prompts) <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"steering": steering(warmup_steps=3)},
        {"pull": PullConfig(**(EVERYWHERE | {"rows": "wrong", "coefficient": 0.0, "policy_gradient": True}))},
    ],
    ids=["first step of a ramp", "coefficient 0"],
)
def test_a_strength_of_0_is_no_loss_and_asks_no_teacher(changes, batch):
    ours, metrics = ogls(**changes), {}
    ours._compute_advantage(batch, metrics)
    assert ours.teacher.workers.passes == [] and ours.teacher.workers.held == 0
    assert metrics.get("egrsd/pull_weight_sum", 0) == 0 and metrics["egrsd/no_peer_frac"] == 0
    if "pull" not in changes:
        assert not any(any(weights) for weights in columns(batch, "pull_weight")["pull_weight"].values())


def test_from_the_second_step_of_a_ramp_it_is_pulled(batch):
    ours = ogls(steering=steering(warmup_steps=3))
    ours.global_steps, metrics = 2, {}
    ours._compute_advantage(batch, metrics)
    assert metrics["egrsd/steering_strength"] == 1.0 and metrics["egrsd/pull_weight_sum"] == pytest.approx(1.0)
