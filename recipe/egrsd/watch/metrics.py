"""Every ``egrsd/...`` metric: its meaning, unit and healthy range, and the code that computes it. docs/metrics.md shows
METRICS.

B  responses      T  response positions. Padding samples carry an empty mask and never count.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Meaning(NamedTuple):
    text: str
    unit: str
    low: float | None = None
    """Lower end of the healthy range; None: unbounded."""
    high: float | None = None


INERT_NATS = 0.02
"""Mean |log p_T - log p_S| that rounding alone can reach in bfloat16 (docs/design.md, Numbers); it moves a weight by
2 %."""

METRICS: dict[str, Meaning] = {
    "egrsd/teacher_entropy_mean": Meaning("teacher's predictive entropy, mean over response tokens", "nats", 0.0, 2.0),
    "egrsd/teacher_entropy_max": Meaning("largest teacher entropy of the batch", "nats", 0.0),
    "egrsd/entropy_scale": Meaning("denominator of the gate: max(teacher_entropy_max, min_entropy_scale)", "nats", 1.0),
    "egrsd/gate_mean": Meaning("entropy gate, mean over tokens; 1 = the teacher is trusted fully", "1", 0.5, 1.0),
    "egrsd/gate_floor_frac": Meaning("share of tokens whose gate sits on its floor", "share", 0.0, 0.1),
    "egrsd/lookahead_restored_mean": Meaning("gate with lookahead minus gate without; 0 for EGRSD", "1", 0.0, 0.3),
    "egrsd/log_ratio_mean": Meaning(
        "log p_T - log p_S, mean over tokens; 0 = the privilege is inert", "nats", -0.5, 0.5
    ),
    "egrsd/log_ratio_abs_mean": Meaning("|log p_T - log p_S|, mean over tokens", "nats", INERT_NATS, 1.0),
    "egrsd/ratio_weight_mean": Meaning("ratio weight, mean over tokens", "1", 0.9, 1.1),
    "egrsd/ratio_clip_low_frac": Meaning("share of tokens whose ratio weight is clipped from below", "share", 0.0, 0.3),
    "egrsd/ratio_clip_high_frac": Meaning(
        "share of tokens whose ratio weight is clipped from above", "share", 0.0, 0.3
    ),
    "egrsd/token_weight_mean": Meaning(
        "what the advantage is multiplied by, mean over tokens: ratio weight (mixed with 1) times gate; for rlcsd, "
        "whose loss is the sum of two means, 2 over the share of tokens that have a teacher, above the range and no "
        "fault",
        "1",
        0.5,
        2.0,
    ),
    "egrsd/mixing": Meaning(
        "share of the ratio weight in a token's weight; 1 for EGRSD, falls to 0 for RLSD", "1", 0.0, 1.0
    ),
    "egrsd/student_surprise_mean": Meaning(
        "-log p_S of the sampled tokens, mean: an estimate of the student's entropy that costs nothing",
        "nats",
        0.02,
        2.0,
    ),
    "egrsd/divergence_mean": Meaning(
        "divergence of teacher and student, mean over pulled tokens; below 0 where divergence_clip takes much of its "
        "positive part; algorithm.egrsd.divergence only",
        "nats",
        -0.05,
        1.0,
    ),
    "egrsd/clipped_entries_frac": Meaning(
        "share of vocabulary entries that divergence_clip bounds", "share", 0.0, 0.01
    ),
    "egrsd/clipped_tokens_frac": Meaning("share of pulled tokens with such an entry", "share", 0.0, 1.0),
    "egrsd/clip_removed": Meaning(
        "share of the positive part of the divergence that the clip takes", "share", 0.0, 1.0
    ),
    "egrsd/pulled_responses_frac": Meaning("share of responses that the divergence pulls", "share", 0.0, 1.0),
    "egrsd/pulled_tokens_frac": Meaning("share of tokens that the divergence pulls", "share", 0.0, 1.0),
    "egrsd/pull_weight_sum": Meaning(
        "sum of all tokens' weights in the divergence's part of the loss, before propagation", "1", 0.0, 1.0
    ),
    "egrsd/propagation_mean": Meaning(
        "what pull.propagation multiplies a token's weight by, mean over pulled tokens; about 2 where divergences are "
        "much alike",
        "1",
        1.5,
        2.5,
    ),
    "egrsd/first_token_log_ratio": Meaning(
        "log p_T - log p_S at the first response token; far below 0 where the thinking switches differ",
        "nats",
        -20.0,
        5.0,
    ),
    "egrsd/reward_mean": Meaning("shaped reward, mean over responses", "reward", 0.05, 1.45),
    "egrsd/reward_std": Meaning(
        "shaped reward, population std over responses; 0 = nothing to learn from", "reward", 0.05
    ),
    "egrsd/baseline_mean": Meaning("running mean of all shaped rewards seen before this step", "reward"),
    "egrsd/baseline_std": Meaning("running population std of all shaped rewards seen before this step", "reward", 0.05),
    "egrsd/correct_frac": Meaning("share of responses with a reward above 0", "share", 0.05, 0.95),
    "egrsd/mixed_problems_frac": Meaning(
        "share of problems of which one response is right and another wrong; logged with groups only", "share", 0.1, 1.0
    ),
    "egrsd/truncated_frac": Meaning("share of responses as long as data.max_response_length", "share", 0.0, 0.5),
    "egrsd/no_peer_frac": Meaning(
        "share of responses without a peer that their teacher could be shown (peers and contrasts: without a right or "
        "a wrong guide); privileges with peers or contrasts only",
        "share",
        0.0,
        0.5,
    ),
    "egrsd/no_feedback_frac": Meaning(
        "share of responses without feedback that their teacher could be shown; feedback and feedback_shuffled only",
        "share",
        0.0,
        0.5,
    ),
    "egrsd/unusable_feedback_frac": Meaning(
        "share of responses whose feedback is too long or holds a control token; feedback and feedback_shuffled only",
        "share",
        0.0,
        0.0,
    ),
    "egrsd/steering_strength": Meaning(
        "what the difference of right and wrong guides is multiplied by in this step; privilege=peers only", "1", 0.0
    ),
    "egrsd/guides_mean": Meaning("guides of a response that has any, mean; privilege=peers only", "guides", 2.0),
    "egrsd/evidence_mean": Meaning(
        "log p_T under the right guide minus under wrong ones, mean over tokens; peer_contrast, answer_contrast",
        "nats",
        -0.5,
        0.5,
    ),
    "egrsd/evidence_abs_mean": Meaning("its absolute value, mean over tokens", "nats", INERT_NATS, 1.0),
    "egrsd/added_abs_mean": Meaning(
        "what is added to the advantage, absolute, mean over tokens; weights that add only", "1", 0.0, 1.0
    ),
    "egrsd/added_frac": Meaning("share of tokens to whose advantage something is added", "share", 0.0, 1.0),
    "egrsd/teacher_prompt_length_mean": Meaning("privileged prompt, mean over the teacher's readings", "tokens"),
    "egrsd/teacher_prompt_length_max": Meaning("longest privileged prompt of the batch", "tokens"),
}


OF_GROUPS = {"egrsd/mixed_problems_frac"}
"""Logged where a problem has several responses."""
OF_PRIVILEGE = {
    *("egrsd/no_peer_frac", "egrsd/no_feedback_frac", "egrsd/unusable_feedback_frac"),
    *("egrsd/steering_strength", "egrsd/guides_mean"),
    *("egrsd/evidence_mean", "egrsd/evidence_abs_mean", "egrsd/added_abs_mean", "egrsd/added_frac"),
}
"""Logged where the step makes what the teacher is shown: peers, feedback, contrasts."""
OF_PROPAGATION = {"egrsd/propagation_mean"}
"""Logged with pull.propagation alone."""
OF_DIVERGENCE = {
    *("egrsd/divergence_mean", "egrsd/clipped_entries_frac", "egrsd/clipped_tokens_frac", "egrsd/clip_removed"),
    *("egrsd/pulled_responses_frac", "egrsd/pulled_tokens_frac", "egrsd/pull_weight_sum"),
    *OF_PROPAGATION,
}
"""Logged with a divergence alone."""


def teacher_metrics(entropy: Tensor, mask: Tensor, scale: float, prompt_lengths: Tensor) -> dict[str, float]:
    """entropy, mask: (B, T), True where a teacher has log-probs; scale: nats; prompt_lengths: (readings,) tokens.
    Nothing is said of no teacher."""
    tokens, metrics = entropy[mask], {}
    if tokens.numel():
        metrics |= {
            "egrsd/teacher_entropy_mean": tokens.mean().item(),
            "egrsd/teacher_entropy_max": tokens.max().item(),
            "egrsd/entropy_scale": scale,
        }
    if prompt_lengths.numel():
        metrics["egrsd/teacher_prompt_length_mean"] = prompt_lengths.float().mean().item()
        metrics["egrsd/teacher_prompt_length_max"] = prompt_lengths.max().item()
    return metrics


def reward_metrics(
    rewards: Tensor, truncated: Tensor, problems: Sequence[str], *, baseline_mean: float, baseline_std: float
) -> dict[str, float]:
    """rewards: (rollouts,) after shaping; truncated: (rollouts,) bool; problems: the name of each rollout's."""
    found = defaultdict(list)
    for problem, right in zip(problems, (rewards > 0).tolist(), strict=True):
        found[problem].append(right)
    groups = [set(right) for right in found.values() if len(right) > 1]
    mixed = {"egrsd/mixed_problems_frac": sum(len(group) > 1 for group in groups) / len(groups)} if groups else {}
    return mixed | {
        "egrsd/reward_mean": rewards.mean().item(),
        "egrsd/reward_std": rewards.std(correction=0).item(),
        "egrsd/baseline_mean": baseline_mean,
        "egrsd/baseline_std": baseline_std,
        "egrsd/correct_frac": (rewards > 0).float().mean().item(),
        "egrsd/truncated_frac": truncated.float().mean().item(),
    }
