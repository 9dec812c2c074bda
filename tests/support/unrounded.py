"""Whether a whole run in bfloat16 computed its numbers in float32: means that are logged, and numbers of tokens."""

import torch
from runs import Run, on_bfloat16_grid

from recipe.egrsd.config.schema import TOKEN_WEIGHT, EgrsdConfig
from recipe.egrsd.watch.metrics import METRICS

EXACT = {"egrsd/mixing", "egrsd/steering_strength", "egrsd/pull_weight_sum"}
"""Metrics that are the settings' own numbers, or made of counts of a few responses."""
DISTANCES = ("training/rollout_probs_diff_mean", "training/rollout_probs_diff_max")
OF_TEACHER = (
    "egrsd/teacher_entropy_mean", "egrsd/teacher_entropy_max", "egrsd/entropy_scale", "egrsd/log_ratio_mean",
    "egrsd/log_ratio_abs_mean", "egrsd/first_token_log_ratio",
)  # fmt: skip
AVERAGED = [
    *(name for name, meaning in METRICS.items() if meaning.unit in ("nats", "1") and name not in EXACT),
    *DISTANCES,
    "actor/grad_norm",
]


def owed(egrsd: EgrsdConfig, *, taught: bool, pulled: bool, added: bool) -> set[str]:
    """Means that a step logs with these settings, none of which can be 0 in rounded arithmetic.

    Args:
        taught: whether any token has a teacher.
        pulled: whether the divergence pulls any.
        added: whether something is added to the advantage of any.
    """
    names = {"egrsd/student_surprise_mean", *DISTANCES}
    if taught:
        names |= {*OF_TEACHER}
    if taught and egrsd.rewards_count:
        names |= {"egrsd/token_weight_mean"}
        if egrsd.token_weight == TOKEN_WEIGHT:
            names |= {"egrsd/gate_mean", "egrsd/ratio_weight_mean"}
            names |= {"egrsd/lookahead_restored_mean"} if egrsd.gamma and egrsd.window else set()
    if taught and egrsd.contrasts:
        names |= {"egrsd/evidence_mean", "egrsd/evidence_abs_mean"}
    names |= {"egrsd/added_abs_mean"} if added else set()
    if pulled:
        names |= {"egrsd/divergence_mean"}
        names |= set() if egrsd.pull.propagation is None else {"egrsd/propagation_mean"}
    return names


def assert_nothing_was_rounded(result: Run, egrsd: EgrsdConfig) -> None:
    """No logged mean, and no number of a token, is a bfloat16 number in every step: by chance one in 65,536 is. And
    what the settings log is there: a mean that is gone, or always 0, is on no grid either."""
    for number, step in enumerate(result.metrics, 1):
        batch = result.probe(number)
        taught = any(bool(mask.any()) for mask in batch["teacher_mask"])
        pulled, added = (step.get(f"egrsd/{name}", 0) > 0 for name in ("pull_weight_sum", "added_frac"))
        for name in owed(egrsd, taught=taught, pulled=pulled, added=added):
            assert abs(step.get(name, 0.0)) > 0, f"step {number}: {name} is {step.get(name, 'not there')}"
        for field in ("teacher_log_probs", "teacher_entropy"):
            values = torch.cat(batch[field])
            assert values.any() or not taught, f"step {number}: {field} is 0 everywhere"
            assert not on_bfloat16_grid(values), f"step {number}: {field}"
    assert any(step.get("actor/grad_norm") for step in result.metrics), "actor/grad_norm is 0 or not there"
    for name in AVERAGED:
        if egrsd.contrasts and name == "egrsd/token_weight_mean":  # made of counts of tokens alone
            continue
        values = torch.tensor([step[name] for step in result.metrics if name in step])
        assert not on_bfloat16_grid(values[values != values.round()]), f"{name}: {values.tolist()}"
