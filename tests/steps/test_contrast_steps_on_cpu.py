"""What a step makes of a teacher that reads a response under a right guide and under wrong ones.

The trainer's own steps run on a real TransferQueue, as in test_peer_steps_on_cpu.py; only the forward pass is a table.
"""

import math

import pytest
import torch
import transfer_queue as tq
from micro_batches import trained
from queues import PromptTable
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.egrsd.config.contrast import ContrastConfig
from recipe.egrsd.privilege.peers import spliced

from .test_peer_steps_on_cpu import EOS, EOT, FRAME, columns, row_of, trainer

RLCSD = "recipe.egrsd.method.evidence:tanh_evidence"
SIPO = "recipe.egrsd.method.evidence:clipped_evidence"
# Problem a: two right, two wrong; b: one and one; c: wrong alone. name -> score, response
ROLLOUTS = {
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


@pytest.fixture
def batch(queue) -> KVBatchMeta:
    """Eight rows: the seven above and a padding sample, out of order."""
    torch.manual_seed(0)
    keys, tags = list(ROLLOUTS), [{"seq_len": 1} for _ in ROLLOUTS]
    rows = [row_of(key, *ROLLOUTS[key]) | {"teacher_answer_ids": ANSWER[key[0]]} for key in keys]
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(rows), tags=tags)
    padded = upsample_batch_to_divisible_size(KVBatchMeta(keys=keys, tags=tags, partition_id="train"), 8, EOS)
    padded.reorder([6, 4, 1, 0, 7, 3, 2, 5])
    yield padded
    tq.kv_clear(keys=padded.keys, partition_id="train")


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
    length, frame = len(ROLLOUTS[key][1]), FRAME[key[0]]
    right, wrong = BESIDE[privilege][key]
    of_wrong = [PromptTable.log_probs(spliced(frame, guide), length) for guide in wrong]
    mean = [math.log(sum(map(math.exp, values)) / len(values)) for values in zip(*of_wrong, strict=True)]
    return PromptTable.log_probs(spliced(frame, right), length), mean


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("privilege", BESIDE)
def test_each_response_is_read_beside_its_guides(privilege, ranks, batch):
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
    assert sorted(seen) == sorted(spliced(FRAME[key[0]], guide) + ROLLOUTS[key][1] for key, guide in guides)
    found = columns(batch, "teacher_mask", "teacher_log_probs", "contrast_log_probs", "teacher_prompt_ids")
    for key in batch.keys:
        length = len(ROLLOUTS[key][1]) if key in ROLLOUTS else 1
        assert found["teacher_mask"][key] == [int(key in expected)] * length
        both = sides(privilege, key) if key in expected else ([0.0] * length,) * 2
        for name, values in zip(("teacher_log_probs", "contrast_log_probs"), both, strict=True):
            assert found[name][key] == pytest.approx(values, abs=1e-6)
        shown = spliced(FRAME[key[0]], expected[key][0]) if key in expected else []
        assert found["teacher_prompt_ids"][key] == shown  # what whoever looks on is told: the right one
    assert metrics["egrsd/no_peer_frac"] == pytest.approx(1 - len(expected) / 7)


@pytest.mark.parametrize("split", [[range(8)], [[0, 1], [2, 3], [4], [5, 6, 7]]], ids=["one micro-batch", "four"])
@pytest.mark.parametrize("privilege", BESIDE)
def test_the_loss_trains_on_the_formula(privilege, split, batch):
    """d loss / d log p = -(trained advantage) / tokens by loops over the definition; the plain advantage where there is
    no teacher. The first steps' advantage is the score - .5."""
    ours = contrasting(2, privilege, **({} if privilege == "peer_contrast" else {"scale": 0.01}))
    ours._compute_advantage(batch, {})
    names = ["prompts", "responses", "response_mask", "teacher_mask", "teacher_log_probs", "teacher_entropy",
             "advantages", "contrast_log_probs"]  # fmt: skip
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=names)
    rows = {name: list(data[name].unbind()) for name in names}
    rows["old_log_probs"] = [-0.1 * torch.arange(1.0, len(mask) + 1) for mask in rows["response_mask"]]
    tokens = sum(len(response) for _, response in ROLLOUTS.values())
    gradients, sums = trained(batch.keys, rows, split, ours.egrsd, of_batch=ours.of_batch, num_tokens=tokens)
    evidence = {key: [r - w for r, w in zip(*sides(privilege, key), strict=True)] for key in BESIDE[privilege]}
    strength, scale, threshold = (getattr(ours.egrsd.contrast, name) for name in ("strength", "scale", "threshold"))
    terms = {key: [strength * math.tanh(e / scale) for e in values] for key, values in evidence.items()}
    counted = [abs(term) > threshold for values in terms.values() for term in values]
    share, taught = sum(counted) / len(counted), len(counted) / tokens
    expected = {key: [score - 0.5] * len(response) for key, (score, response) in ROLLOUTS.items()}
    for key, values in evidence.items():
        a = ROLLOUTS[key][0] - 0.5
        if privilege == "answer_contrast":
            expected[key] = [a + strength * max(-scale, min(scale, e)) for e in values]
            continue
        assert 0 < share < 1 and 0 < taught < 1
        expected[key] = [
            (max(0.0, a + term) if a > 0 else min(0.0, a + term)) / (share * taught)
            if abs(term) > threshold
            else a / ((1 - share) * taught)
            for term in terms[key]
        ]
    for key, values in expected.items():
        assert gradients[key] == pytest.approx([-value / tokens for value in values], abs=1e-6)
    flat = [e for values in evidence.values() for e in values]
    assert sums["evidence_abs_mean"] == pytest.approx(sum(map(abs, flat)), abs=1e-5)
    assert sums["evidence_mean"] == pytest.approx(sum(flat), abs=1e-5)
    assert sums["added_frac"] == (sum(counted) if privilege == "peer_contrast" else len(flat))


@pytest.mark.parametrize("privilege", BESIDE)
def test_a_batch_without_both_sides_asks_no_teacher(privilege, batch):
    """Everybody right: nobody is wrong."""
    ours, metrics = contrasting(1, privilege), {}
    scores = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["rm_scores"])
    scores["rm_scores"] = scores["rm_scores"] + 1
    tq.kv_batch_put(keys=batch.keys, partition_id="train", fields=scores)
    ours._compute_advantage(batch, metrics)
    assert not hasattr(ours.teacher.workers, "rows")
    assert metrics["egrsd/no_peer_frac"] == 1.0
    assert not any(any(values) for values in columns(batch, "contrast_log_probs")["contrast_log_probs"].values())
    assert ours.of_batch["modulated_frac"] == ours.of_batch["taught_frac"] == 0
