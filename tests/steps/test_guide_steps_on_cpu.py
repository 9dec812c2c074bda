"""What a step makes of a teacher that reads a response beside each of its guides.

The trainer's own steps run on a real TransferQueue, as in test_peer_steps_on_cpu.py; only the forward pass is a table.
"""

import pytest
from guided_steps import (
    PULLED,
    check_from_the_second_step_of_a_ramp_it_is_pulled,
    check_the_teacher_reads_pulled_tokens_beside_every_guide,
    ogls,
    steering,
)
from micro_batches import EVERYWHERE
from queued_steps import FRAME, ROLLOUTS
from queues import columns

from recipe.egrsd.config.pull import PullConfig


@pytest.mark.parametrize("own_response", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_teacher_reads_pulled_tokens_beside_every_guide(ranks, own_response, guide_batch):
    check_the_teacher_reads_pulled_tokens_beside_every_guide(ranks, own_response, guide_batch)


def test_responses_of_one_problem_read_the_same_guide_in_the_same_pass(guide_batch):
    """So that its prompt is shared (scoring.py)."""
    ours = ogls()
    ours._compute_advantage(guide_batch, {})
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
def test_a_strength_of_0_is_no_loss_and_asks_no_teacher(changes, guide_batch):
    ours, metrics = ogls(**changes), {}
    ours._compute_advantage(guide_batch, metrics)
    assert ours.teacher.workers.passes == [] and ours.teacher.workers.held == 0
    assert metrics.get("egrsd/pull_weight_sum", 0) == 0 and metrics["egrsd/no_peer_frac"] == 0
    if "pull" not in changes:
        assert not any(any(weights) for weights in columns(guide_batch, "pull_weight")["pull_weight"].values())


def test_from_the_second_step_of_a_ramp_it_is_pulled(guide_batch):
    check_from_the_second_step_of_a_ramp_it_is_pulled(guide_batch)
