"""When alarms.py speaks, and what it advises. docs/metrics.md shows ALARMS."""

from typing import NamedTuple

from recipe.egrsd.watch.metrics import INERT_NATS


class Alarm(NamedTuple):
    metrics: tuple[str, ...]
    """Their sum is watched."""
    rises: bool
    """Whether high values are the bad ones. The threshold itself counts as bad."""
    threshold: float
    advice: str
    of_start: bool = False
    """Whether the threshold is a multiple of the start: of what the first step showed."""
    margin: float = 0.0
    """Least distance from the start, too, in the metric's unit: a multiple of nearly nothing is nearly nothing."""
    beside: tuple[str, ...] = ()
    """Metrics of the first step whose product is no part of the start."""
    mean_of: int = 1
    """Steps whose mean is watched. Of several, the start is the mean of all before them, at first the first step's."""


ALARM_STEPS = 3
"""Steps in a row before an alarm is given: one batch of 32 may be all wrong by chance."""

ALARMS: dict[str, Alarm] = {
    "entropy explosion": Alarm(
        ("egrsd/student_surprise_mean",),
        True,
        3.0,
        "The student is turning random: lower actor_rollout_ref.actor.optim.lr and go back to an earlier checkpoint. "
        "If its prompt and the teacher's differ in their thinking switch, compare them with python -m "
        "recipe.egrsd.doctor.",
        of_start=True,
        margin=0.1,
    ),
    "length collapse": Alarm(
        ("response_length/mean",),
        False,
        0.5,
        "Responses lose their reasoning: compare accuracy on held-out problems before and after, set "
        "algorithm.egrsd.length_bonus=0, and look at the thinking switches (docs/caveats.md).",
        of_start=True,
        beside=("egrsd/truncated_frac", "response_length/max"),  # a model that learns to stop loses what was cut
    ),
    "accuracy collapse": Alarm(
        ("egrsd/correct_frac",),
        False,
        0.5,
        "Training undoes the student, unless the later problems are harder: lower actor_rollout_ref.actor.optim.lr and "
        "go back to an earlier checkpoint.",
        of_start=True,
        margin=0.1,
        mean_of=5,
    ),
    "gate at its floor": Alarm(
        ("egrsd/gate_floor_frac",),
        True,
        0.5,
        "Most tokens have the same, smallest gate, so the teacher's entropy tells nothing apart: "
        "lower algorithm.egrsd.gamma.",
    ),
    "ratio clip saturated": Alarm(
        ("egrsd/ratio_clip_low_frac", "egrsd/ratio_clip_high_frac"),
        True,
        0.5,
        "Most ratio weights are a bound, so only the sign of log p_T - log p_S is left: look whether both prompts end "
        "alike (python -m recipe.egrsd.doctor), whether the student has drifted far from its teacher, or raise "
        "algorithm.egrsd.clip_range.",
    ),
    "privilege inert": Alarm(
        ("egrsd/log_ratio_abs_mean",),
        False,
        INERT_NATS,
        "The teacher says what the student says, so the solution changes nothing: look at the teacher's prompt "
        "(python -m recipe.egrsd.doctor), algorithm.egrsd.teacher.template and solution_key.",
    ),
    "all correct": Alarm(
        ("egrsd/correct_frac",),
        True,
        1.0,
        "The problems are too easy to learn from: take harder ones.",
    ),
    "all wrong": Alarm(
        ("egrsd/correct_frac",),
        False,
        0.0,
        "Nothing is rewarded: look whether responses are cut before the answer (egrsd/truncated_frac), whether the "
        "prompts ask for \\boxed{}, whether the ground truths are readable (python -m recipe.egrsd.doctor), or take "
        "easier problems.",
    ),
    "no mixed problem": Alarm(
        ("egrsd/mixed_problems_frac",),
        False,
        0.0,
        "No problem has a right and a wrong response, so that nothing within a group is told apart: raise "
        "actor_rollout_ref.rollout.n, or take problems of middling difficulty.",
    ),
    "no peers": Alarm(
        ("egrsd/no_peer_frac",),
        True,
        0.5,
        "Most responses have no teacher (answer_and_peer: one that sees the answer alone), because no other response "
        "to their problem is right (peer_wrong: wrong; a contrast: one of each, or a wrong answer in a box): raise "
        "actor_rollout_ref.rollout.n, or take problems of middling difficulty.",
    ),
    "no feedback": Alarm(
        ("egrsd/no_feedback_frac",),
        True,
        0.5,
        "Most responses have no teacher, because the reward function said nothing of them that could be shown: return "
        "a text as 'feedback', and look at egrsd/unusable_feedback_frac; of right responses there may be nothing to "
        "say.",
    ),
    "truncation": Alarm(
        ("egrsd/truncated_frac",),
        True,
        0.5,
        "Most responses are cut, many of them before their answer: raise data.max_response_length, or switch the "
        "student's thinking off (+data.apply_chat_template_kwargs.enable_thinking=false).",
    ),
}
