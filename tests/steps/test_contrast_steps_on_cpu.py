"""What a step makes of a teacher that reads a response under a right guide and under wrong ones.

The trainer's own steps run on a real TransferQueue, as in test_peer_steps_on_cpu.py; only the forward pass is a table.
"""

import math

import pytest
import torch
import transfer_queue as tq
from guided_steps import BESIDE, CONTRASTED, check_each_response_is_read_beside_its_guides, contrasting, sides
from micro_batches import trained
from queues import columns


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("privilege", BESIDE)
def test_each_response_is_read_beside_its_guides(privilege, ranks, contrast_batch):
    check_each_response_is_read_beside_its_guides(privilege, ranks, contrast_batch)


@pytest.mark.parametrize("split", [[range(8)], [[0, 1], [2, 3], [4], [5, 6, 7]]], ids=["one micro-batch", "four"])
@pytest.mark.parametrize("privilege", BESIDE)
def test_the_loss_trains_on_the_formula(privilege, split, contrast_batch):
    """d loss / d log p = -(trained advantage) / tokens by loops over the definition; the plain advantage where there is
    no teacher. The first steps' advantage is the score - .5."""
    ours = contrasting(2, privilege, **({} if privilege == "peer_contrast" else {"scale": 0.01}))
    ours._compute_advantage(contrast_batch, {})
    names = ["prompts", "responses", "response_mask", "teacher_mask", "teacher_log_probs", "teacher_entropy",
             "advantages", "contrast_log_probs"]  # fmt: skip
    data = tq.kv_batch_get(keys=contrast_batch.keys, partition_id="train", select_fields=names)
    rows = {name: list(data[name].unbind()) for name in names}
    rows["old_log_probs"] = [-0.1 * torch.arange(1.0, len(mask) + 1) for mask in rows["response_mask"]]
    tokens = sum(len(response) for _, response in CONTRASTED.values())
    gradients, sums = trained(contrast_batch.keys, rows, split, ours.egrsd, of_batch=ours.of_batch, num_tokens=tokens)
    evidence = {key: [r - w for r, w in zip(*sides(privilege, key), strict=True)] for key in BESIDE[privilege]}
    strength, scale, threshold = (getattr(ours.egrsd.contrast, name) for name in ("strength", "scale", "threshold"))
    terms = {key: [strength * math.tanh(e / scale) for e in values] for key, values in evidence.items()}
    counted = [abs(term) > threshold for values in terms.values() for term in values]
    share, taught = sum(counted) / len(counted), len(counted) / tokens
    expected = {key: [score - 0.5] * len(response) for key, (score, response) in CONTRASTED.items()}
    for key, values in evidence.items():
        a = CONTRASTED[key][0] - 0.5
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
def test_a_batch_without_both_sides_asks_no_teacher(privilege, contrast_batch):
    """Everybody right: nobody is wrong."""
    ours, metrics = contrasting(1, privilege), {}
    scores = tq.kv_batch_get(keys=contrast_batch.keys, partition_id="train", select_fields=["rm_scores"])
    scores["rm_scores"] = scores["rm_scores"] + 1
    tq.kv_batch_put(keys=contrast_batch.keys, partition_id="train", fields=scores)
    ours._compute_advantage(contrast_batch, metrics)
    assert not hasattr(ours.teacher.workers, "rows")
    assert metrics["egrsd/no_peer_frac"] == 1.0
    assert not any(
        any(values) for values in columns(contrast_batch, "contrast_log_probs")["contrast_log_probs"].values()
    )
    assert ours.of_batch["modulated_frac"] == ours.of_batch["taught_frac"] == 0
