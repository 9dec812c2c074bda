"""Steps whose teacher reads a response beside several guides: OGLS-SD's weighted sum of its readings, and the right and
the wrong guides of RLCSD and SIPO.

A check_* is run by a test of the steps, and by the mutants that it must reject.
"""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from micro_batches import EVERYWHERE
from queued_steps import EOS, EOT, FRAME, ROLLOUTS, trainer
from queues import PromptTable, columns
from transfer_queue import KVBatchMeta

from recipe.egrsd.config.contrast import ContrastConfig
from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.config.steering import SteeringConfig
from recipe.egrsd.privilege.peers import spliced
from recipe.egrsd.teacher.kinds import Teacher

SOLUTIONS = {"a": [31, 32], "b": [], "c": [33]}
# Problem a: rows 0 and 2 wrong, row 1 right; b: row 0 right, row 1 wrong, no solution; c: both wrong.
SHOWN = {
    "a_0": [11, 11, 11], "a_1": [12, 12], "a_2": [13, 13], "b_0": [14], "b_1": [15, 15, 15], "c_0": [16, 16],
    "c_1": [17],
}  # fmt: skip
PULLED = ("a_0_0", "a_2_0", "b_1_0", "c_0_0", "c_1_0")


def steering(strength: float = 3.0, warmup_steps: int | None = None, own_response: bool = True) -> SteeringConfig:
    return SteeringConfig(strength=strength, warmup_steps=warmup_steps, own_response=own_response)


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


def check_the_teacher_reads_pulled_tokens_beside_every_guide(
    ranks: int, own_response: bool, batch: KVBatchMeta
) -> None:
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


def check_from_the_second_step_of_a_ramp_it_is_pulled(batch: KVBatchMeta) -> None:
    ours = ogls(steering=steering(warmup_steps=3))
    ours.global_steps, metrics = 2, {}
    ours._compute_advantage(batch, metrics)
    assert metrics["egrsd/steering_strength"] == 1.0 and metrics["egrsd/pull_weight_sum"] == pytest.approx(1.0)


# ---------------------------------------------------------------- a right guide and wrong ones

RLCSD = "recipe.egrsd.method.evidence:tanh_evidence"
SIPO = "recipe.egrsd.method.evidence:clipped_evidence"
# Problem a: two right, two wrong; b: one and one; c: wrong alone. name -> score, response
CONTRASTED = {
    "a_0_0": (0.0, [11, 11, 11, EOS]), "a_1_0": (1.0, [12, 12, EOS]), "a_2_0": (0.0, [13, 13]),
    "a_3_0": (1.0, [18, EOS]),
    "b_0_0": (1.0, [14, EOS]), "b_1_0": (0.0, [15, 15, 15]), "c_0_0": (0.0, [16, 16, EOS]),
}  # fmt: skip
ANSWER = {"a": [21], "b": [22], "c": [23]}


class Boxes:
    """A tokenizer whose numbers are their own text: the last token of a response is its answer, if above 11."""

    all_special_ids = (EOS, EOT)

    def decode(self, ids, skip_special_tokens):
        kept = [i for i in map(int, ids) if i not in self.all_special_ids]
        return " ".join(map(str, kept[:-1])) + (f"\\boxed{{{kept[-1]}}}" if kept[-1] > 11 else "")

    def encode(self, text, add_special_tokens):
        return [*map(int, text.split())]


def contrasting(ranks: int, privilege: str, **knobs):
    values = {"strength": 0.5, "scale": 0.02, "threshold": 0.2, "wrong_guides": 4} | knobs
    weight = RLCSD if privilege == "peer_contrast" else SIPO
    ours = trainer(
        ranks, privilege=privilege, token_weight=weight, gamma=0.0, clip_range=0.0, length_bonus=0.0, warmup_steps=9,
        contrast=ContrastConfig(**values),
    )  # fmt: skip
    ours.tokenizer = Boxes()
    return ours


# Right guide, then wrong ones. peer_contrast: the shortest right one; b and c have not got both. answer_contrast:
# everybody's right one is the row's answer; a_0's own is 11, which Boxes does not box, so that a's right ones are held
# against 13.
BESIDE = {
    "peer_contrast": {
        "a_0_0": ([18], [[13, 13]]), "a_1_0": ([18], [[11, 11, 11], [13, 13]]), "a_2_0": ([18], [[11, 11, 11]]),
        "a_3_0": ([12, 12], [[11, 11, 11], [13, 13]]),
    },
    "answer_contrast": {
        "a_1_0": ([21], [[13]]), "a_2_0": ([21], [[13]]), "a_3_0": ([21], [[13]]), "b_0_0": ([22], [[15]]),
        "b_1_0": ([22], [[15]]), "c_0_0": ([23], [[16]]),
    },
}  # fmt: skip


def sides(privilege: str, key: str) -> tuple[list[float], list[float]]:
    """What the table says of a response under its right guide, and the log-mean probability under its wrong ones."""
    length, frame = len(CONTRASTED[key][1]), FRAME[key[0]]
    right, wrong = BESIDE[privilege][key]
    of_wrong = [PromptTable.log_probs(spliced(frame, guide), length) for guide in wrong]
    mean = [math.log(sum(map(math.exp, values)) / len(values)) for values in zip(*of_wrong, strict=True)]
    return PromptTable.log_probs(spliced(frame, right), length), mean


def check_each_response_is_read_beside_its_guides(privilege: str, ranks: int, batch: KVBatchMeta) -> None:
    ours, metrics, seen = contrasting(ranks, privilege), {}, []
    score = ours.teacher.engine

    def engine(rows):
        found = score(rows)
        seen.extend(ids for ids in ours.teacher.workers.rows if len(ids) > 2)
        return found

    ours.teacher.engine = engine
    ours._compute_advantage(batch, metrics)
    expected = BESIDE[privilege]
    guides = [(key, guide) for key, (right, wrong) in expected.items() for guide in (right, *wrong)]
    assert sorted(seen) == sorted(spliced(FRAME[key[0]], guide) + CONTRASTED[key][1] for key, guide in guides)
    found = columns(batch, "teacher_mask", "teacher_log_probs", "contrast_log_probs", "teacher_prompt_ids")
    for key in batch.keys:
        length = len(CONTRASTED[key][1]) if key in CONTRASTED else 1
        assert found["teacher_mask"][key] == [int(key in expected)] * length
        both = sides(privilege, key) if key in expected else ([0.0] * length,) * 2
        for name, values in zip(("teacher_log_probs", "contrast_log_probs"), both, strict=True):
            assert found[name][key] == pytest.approx(values, abs=1e-6)
        shown = spliced(FRAME[key[0]], expected[key][0]) if key in expected else []
        assert found["teacher_prompt_ids"][key] == shown  # what whoever looks on is told: the right one
    assert metrics["egrsd/no_peer_frac"] == pytest.approx(1 - len(expected) / 7)
