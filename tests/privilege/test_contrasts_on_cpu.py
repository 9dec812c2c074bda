"""A teacher that reads a response under a right guide and under wrong ones: which, what comes of both, who has none.

The trainer's own steps run on a real TransferQueue, as in test_peers_on_cpu.py; only the forward pass is a table.
"""

import math
import re
from collections import Counter

import pytest
import torch
import transfer_queue as tq
from composing import composed, refusal_of
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from micro_batches import trained
from queues import PromptTable
from test_peers_on_cpu import EOS, EOT, FRAME, columns, row_of, trainer
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from examples.tiny_cpu import model as tiny
from recipe.egrsd import parts
from recipe.egrsd.config import validation
from recipe.egrsd.config.contrast import ContrastConfig
from recipe.egrsd.privilege.contrasts import boxed_ids, wrong_answers, wrong_peers
from recipe.egrsd.privilege.peers import spliced
from recipe.egrsd.teacher.readings import Reading, contrast
from recipe.egrsd.teacher.scoring import nested

RLCSD = "recipe.egrsd.method.evidence:tanh_evidence"
SIPO = "recipe.egrsd.method.evidence:clipped_evidence"


def peers(correct, *, most=4, seed="1 1", keys=None, shown=None):
    """One group, unless keys say otherwise."""
    count = len(correct)
    keys, shown = keys or [f"u_x_{row}_0" for row in range(count)], shown or [[5]] * count
    return wrong_peers(keys, [[1, 2]] * count, [*map(bool, correct)], shown, most=most, seed=seed)


def test_wrong_peers_by_hand():
    """Wrong ones: rows 1, 2, 4. Nobody is its own, and no more than asked."""
    found = peers([1, 0, 0, 1, 0])
    assert [sorted(of_row) for of_row in found] == [[1, 2, 4], [2, 4], [1, 4], [1, 2, 4], [1, 2]]
    assert [len(of_row) for of_row in peers([1, 0, 0, 1, 0], most=2)] == [2, 2, 2, 2, 2]
    assert peers([1, 0]) == [[1], []] and peers([1, 1]) == [[], []]
    assert peers([1, 0, 0], shown=[[5], None, [6]]) == [[2], [2], []]  # what cannot be shown is nobody's guide


def test_chance_goes_by_run_and_step_alone():
    draw = {"correct": [0] * 30, "most": 4}
    assert peers(**draw) == peers(**draw)  # as a resumed run would
    assert peers(**draw) != peers(**draw, seed="1 2")
    drawn = Counter(peer for of_row in peers(**draw) for peer in of_row)
    assert len(drawn) > 25 and max(drawn.values()) < 15


groups = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from([0, 1, 2, 3])), max_size=12)
# problem, whether right, its answer (0: none)


@examples(max_examples=300, deadline=None)
@given(groups, st.randoms(use_true_random=False))
def test_both_are_the_rule_whatever_the_order_of_the_batch(rows, shuffled):
    """Against loops over the definition, and again with the rows in another order. The right answer is 1 of a, b, c."""
    keys = [f"{group}_{sum(g == group for g, _, _ in rows[:i])}_0" for i, (group, _, _) in enumerate(rows)]
    correct, answers = [good for _, good, _ in rows], [[answer] if answer else None for _, _, answer in rows]
    found = wrong_answers(keys, correct, answers, [[1]] * len(rows))
    for (group, good, answer), shown in zip(rows, found, strict=True):
        own = [a for g, other, a in rows if g == group and not other and a > 1]
        if good:
            most = max((own.count(a) for a in own), default=0)
            first = next((a for a in own if own.count(a) == most), None)
            assert shown == (None if first is None else [first])
        else:
            assert shown == ([answer] if answer > 1 else None)
    others = peers(correct, keys=keys, most=2)
    for i, ((group, _, _), of_row) in enumerate(zip(rows, others, strict=True)):
        allowed = {j for j, (g, good, _) in enumerate(rows) if g == group and not good and j != i}
        assert set(of_row) <= allowed and len(of_row) == len(set(of_row)) == min(2, len(allowed))
    order = list(range(len(rows)))
    shuffled.shuffle(order)
    moved = [keys[i] for i in order], [correct[i] for i in order]
    again = wrong_answers(*moved, [answers[i] for i in order], [[1]] * len(rows))
    assert again == [found[i] for i in order]
    again = peers(moved[1], keys=moved[0], most=2)
    assert [[order[at] for at in of_row] for of_row in again] == [others[i] for i in order]


def test_an_answer_is_the_last_boxed_one_as_the_reward_reads_it():
    tokenizer = tiny.build_tokenizer()

    def found(text: str, room: int = 50) -> str | None:
        ids = boxed_ids(tokenizer, tokenizer.encode(text, add_special_tokens=False), room=room)
        return None if ids is None else tokenizer.decode(ids)

    assert found("\\boxed{1} \\boxed{ 12 }<|im_end|>") == "12"
    assert found("12") is found("\\boxed{12") is found("\\boxed{}") is found("<think> \\boxed{12}") is None
    assert found("\\boxed{123}", room=3) == "123" and found("\\boxed{123}", room=2) is None
    assert found("\\boxed{" + "1" * 1001 + "}", room=2000) is None


def test_what_several_wrong_guides_say_together():
    """.25 and .45: log .35; one guide alone: its own; none: 0."""
    readings = [
        [Reading([1]), Reading([2], against=True), Reading([3], against=True)],
        [Reading([1]), Reading([2], against=True)],
        [],
    ]
    passes = [[[0.5], [0.5], [1.0]], [[0.25], [0.3], [1.0]], [[0.45], [1.0], [1.0]]]
    found = contrast(readings, [nested([torch.tensor(row).log() for row in rows]) for rows in passes])
    assert found.values().tolist() == pytest.approx([math.log(0.35), math.log(0.3), 0.0], abs=1e-6)
    assert contrast([[Reading([1])]], [nested([torch.zeros(1)])]) is None


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
    share = sum(counted) / len(counted)
    expected = {key: [score - 0.5] * len(response) for key, (score, response) in ROLLOUTS.items()}
    for key, values in evidence.items():
        a = ROLLOUTS[key][0] - 0.5
        if privilege == "answer_contrast":
            expected[key] = [a + strength * max(-scale, min(scale, e)) for e in values]
            continue
        assert 0 < share < 1
        expected[key] = [
            (max(0.0, a + term) if a > 0 else min(0.0, a + term)) / share if abs(term) > threshold else a / (1 - share)
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
    assert ours.of_batch["modulated_frac"] == 0


GROUP = "actor_rollout_ref.rollout.n=8"
ON = "algorithm.egrsd.contrast.strength=0.5"
REFUSED = {
    f"{ON}": "contrast.strength=0.5 means nothing but to privilege=peer_contrast or answer_contrast; set it to 0",
    f"algorithm.egrsd.privilege=peer_contrast {GROUP}": (
        "contrast.strength=0.0 adds nothing of what privilege=peer_contrast contrasts; set it, or use privilege=none"
    ),
    f"algorithm.egrsd.privilege=peer_contrast {ON} {GROUP}": (
        "algorithm.egrsd.privilege=peer_contrast has the teacher read right and wrong guides, and "
        "algorithm.egrsd.token_weight=recipe.egrsd.method.weights:token_weights does not read contrast_log_probs; "
    ),
    f"algorithm.egrsd.token_weight={SIPO}": (
        f"algorithm.egrsd.token_weight={SIPO} reads contrast_log_probs, which algorithm.egrsd.privilege=solution does "
        "not have; use one of ('peer_contrast', 'answer_contrast')"
    ),
    f"algorithm.egrsd.privilege=answer_contrast {ON} {GROUP} algorithm.egrsd.divergence=forward_kl "
    "algorithm.egrsd.gamma=0 algorithm.egrsd.clip_range=0 algorithm.egrsd.length_bonus=0": (
        "no divergence can pull to both; set algorithm.egrsd.divergence to null"
    ),
    f"algorithm.egrsd.contrast.strength=-1 {GROUP}": "contrast.strength=-1.0 would teach the wrong answers; use >= 0",
    "algorithm.egrsd.contrast.scale=0": "contrast.scale=0.0 must be positive (nats)",
    "algorithm.egrsd.contrast.threshold=-1": "contrast.threshold=-1.0 must be >= 0",
    "algorithm.egrsd.contrast.wrong_guides=0": "contrast.wrong_guides=0 must be >= 1",
    "+algorithm.egrsd.contrast.guides=1": "algorithm.egrsd.contrast has unknown key(s) ['guides']",
}  # fmt: skip
OF_PRESETS = {
    ("rlcsd", "actor_rollout_ref.rollout.n=1"): "privilege=peer_contrast shows the teacher another response",
    ("sipo", "actor_rollout_ref.rollout.n=1"): (
        "privilege=answer_contrast holds a right response against the wrong answers of its group, and "
        "actor_rollout_ref.rollout.n=1 samples one; set rollout.n to 2 or more"
    ),
    ("rlcsd", "data.max_response_length=7681"): "cannot hold a problem and a response of up to 8193 tokens",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_refused_before_ray(overrides):
    message = refusal_of(*overrides.split(" "))
    assert REFUSED[overrides] in message and message.isprintable()


@pytest.mark.parametrize(("algorithm", "override"), OF_PRESETS)
def test_a_presets_needs_are_named(algorithm, override):
    with pytest.raises(ValueError, match=re.escape(OF_PRESETS[algorithm, override])):
        validation.validate(composed(override, algorithm=algorithm))


@pytest.mark.parametrize("algorithm", ["rlcsd", "sipo"])
def test_the_presets_are_the_published_settings(algorithm):
    config = composed(algorithm=algorithm)
    egrsd = validation.validate(config)
    parts.check(config, egrsd)
    assert (egrsd.advantage, egrsd.teacher.kind, egrsd.teacher.sync_every) == ("grpo", "snapshot", 10)
    assert (egrsd.gamma, egrsd.clip_range, egrsd.length_bonus, config.actor_rollout_ref.rollout.n) == (0, 0, 0, 8)
    assert egrsd.weighs and egrsd.contrasts and egrsd.compares_within_groups and not egrsd.pulls
    knobs = {"rlcsd": (0.5, 0.02, 0.02, 4), "sipo": (0.5, 0.2, 0.0, 4)}[algorithm]
    assert egrsd.contrast == ContrastConfig(
        **dict(zip(("strength", "scale", "threshold", "wrong_guides"), knobs, strict=True))
    )
    assert config.algorithm.norm_adv_by_std_in_grpo == (algorithm == "rlcsd")
    assert (egrsd.privilege, egrsd.teacher.peer, egrsd.token_weight) == (
        ("peer_contrast", "random", RLCSD) if algorithm == "rlcsd" else ("answer_contrast", "shortest", SIPO)
    )
