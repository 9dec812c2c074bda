"""Every check of the maths can fail: plausible wrong versions, each rejected by the check that the real one passes.

A mutant differs from the paper in the one thing that its name says. The inputs are fixed: no rejection is luck. The
mutants stand in tests/support/*_mutants.py.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from advantage_mutants import BASELINE_MUTANTS, REWARD_MUTANTS, _run
from formula_checks import (
    GOLDEN,
    check_entropy_gate,
    check_entropy_scale,
    check_lookahead_entropy,
    check_ratio_weight,
    check_running_baseline,
    check_shaped_reward,
    check_token_advantages,
    golden_batch,
    run_baseline,
    token_advantages,
)
from product_mutants import PRODUCT_MUTANTS, _parts
from strategies import Batch, Rewards, Scores, batch_from_seed, make_batch, rewards_from_seed
from weight_mutants import GATE_MUTANTS, LOOKAHEAD_MUTANTS, RATIO_MUTANTS, SCALE_MUTANTS, _faithful, _largest, _ratio

from recipe.egrsd.method import advantage, weights


def _tidy(batch: Batch) -> Batch:
    """Ordinary numbers under the mask, so that a mutant is caught for its fault and not for a NaN it meets."""
    finite = {name: torch.where(batch.response_mask, getattr(batch, name), 0.5) for name in Batch._fields[:3]}
    return batch._replace(**finite)


HOLE = (False, 0.0, 0.0, 0.0)
BATCHES = [
    *(golden_batch(case) for case in GOLDEN["cases"]),
    # a sure token behind a hole, and the window ends on it
    make_batch(
        [[(True, -1.0, -1.1, 4.0), HOLE, (True, -1.0, -0.9, 1.0)], [(True, -0.5, -0.6, 2.0)]],
        [1.0, -1.0],
        window=2,
        gamma=0.5,
        floor=0.1,
        clip_range=0.2,
        min_nats=1.0,
    ),
    *(batch_from_seed(seed) for seed in range(20)),
    *(_tidy(batch_from_seed(seed)) for seed in range(20, 60)),
]
SCORES = [
    Scores(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([100, 100, 900, 800]), 1024, length_bonus)
    for length_bonus in (0.5, 0.1)
]
REWARDS = [
    *(rewards_from_seed(seed) for seed in range(20)),
    Rewards([[0.0, 1.0, 1.5], [1.25], [0.0, 1.0], [1.5, 1.5, 0.0]], warmup_steps=2, warmup_mean=0.5, min_std=0.25),
]

CHECKS: dict[str, tuple[Callable, Sequence, Callable, dict[str, Callable]]] = {
    "ratio_weight": (check_ratio_weight, BATCHES, weights.ratio_weight, RATIO_MUTANTS),
    "lookahead_entropy": (check_lookahead_entropy, BATCHES, weights.lookahead_entropy, LOOKAHEAD_MUTANTS),
    "entropy_scale": (check_entropy_scale, BATCHES, weights.entropy_scale, SCALE_MUTANTS),
    "entropy_gate": (check_entropy_gate, BATCHES, weights.entropy_gate, GATE_MUTANTS),
    "token_advantages": (check_token_advantages, BATCHES, token_advantages, PRODUCT_MUTANTS),
    "shaped_reward": (check_shaped_reward, SCORES, advantage.shaped_reward, REWARD_MUTANTS),
    "running_baseline": (check_running_baseline, REWARDS, run_baseline, BASELINE_MUTANTS),
}


def run_check(name: str, implementation: Callable) -> None:
    check, inputs, _, _ = CHECKS[name]
    for given in inputs:
        check(implementation, given)


@pytest.mark.parametrize("name", CHECKS)
def test_the_real_one_passes(name: str):
    run_check(name, CHECKS[name][2])


@pytest.mark.parametrize(
    ("name", "mutant"), [(name, mutant) for name, (_, _, _, mutants) in CHECKS.items() for mutant in mutants]
)
def test_the_check_rejects(name: str, mutant: str):
    with pytest.raises(AssertionError):
        run_check(name, CHECKS[name][3][mutant])


def test_the_loops_behind_the_mutants_are_right_when_untouched():
    """Otherwise a mutant could be rejected for a fault that all of them share."""
    run_check("lookahead_entropy", _faithful)
    run_check("running_baseline", _run)
    run_check("ratio_weight", lambda s, t, a, *, clip_range: _ratio(a.sign() * (t - s), clip_range))
    run_check("token_advantages", lambda batch: batch.advantages * _parts(batch)[0] * _parts(batch)[3])
    run_check("entropy_scale", lambda h, m, *, min_nats: _largest(h, m).clamp(min=min_nats))
