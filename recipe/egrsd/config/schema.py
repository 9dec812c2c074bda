"""The keys under ``algorithm.egrsd`` with their meaning, type and range. Defaults live in config/algorithm/."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from recipe.egrsd.config.contrast import CONTRAST_PRIVILEGES, ContrastConfig
from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.config.steering import SteeringConfig
from recipe.egrsd.config.strict import (
    STRICT,
    Count,
    Number,
    ObjectName,
    complaint,
    container,
    require,
    require_defaults,
    shown,
)
from recipe.egrsd.config.teacher import TeacherConfig

TRAINER_MODES = {"egrsd_sync": "sync", "egrsd_colocate_async": "colocate_async"}
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
WEIGHT_KNOBS = ("clip_range", "window", "gamma", "floor", "gate")
GATES = ("token", "mean")
TOKEN_WEIGHT = "recipe.egrsd.method.weights:token_weights"  # egrsd.yaml's own value
PEER_PRIVILEGES = ("peer_correct", "peer_wrong", "peer_wrong_first", "answer_and_peer", "peers", "peer_contrast")
FEEDBACK_PRIVILEGES = ("feedback", "feedback_shuffled")
PRIVILEGES = (
    *("solution", "answer_only", "shuffled", "wrong", "other_problem", "crosslingual", "concise", "none"),
    *(*PEER_PRIVILEGES, "answer_contrast", *FEEDBACK_PRIVILEGES),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EgrsdConfig:
    """algorithm.egrsd"""

    gamma: Number
    """Slope of the entropy gate, >= 0."""
    window: Count
    """Lookahead, tokens, >= 0."""
    floor: Number
    """Smallest gate value, in [0, 1]."""
    gate: str
    """token: each token's own; mean: the batch's mean gate for every token, the control of the gate's shape."""
    min_entropy_scale: Number
    """Lower bound of the gate's denominator, nats, > 0."""
    clip_range: Number
    """Half-width of the ratio weight's clip, in [0, 1)."""
    mixing: Number
    """RLSD's lambda: a token's weight is 1 - mixing + mixing * ratio weight, in [0, 1]."""
    mixing_decay_steps: Count | None
    """Steps over which mixing falls linearly to 0; None keeps it."""
    token_weight: ObjectName
    """module:function that weighs each token (token_weight/)."""
    advantage: str
    """running, or the name of a verl advantage estimator."""
    length_bonus: Number
    """Extra reward of a correct answer of length 0, >= 0."""
    warmup_steps: Count
    """Steps before the running statistics whiten, >= 0."""
    divergence: str | None
    """forward_kl, reverse_kl or jsd, of teacher and student: the loss, or a part of it (pull)."""
    divergence_beta: Number
    """The teacher's share in jsd's middle, in (0, 1); 0.5 is the symmetric one."""
    divergence_clip: Number | None
    """Upper bound of one vocabulary entry's share of the divergence, nats, > 0; None for none."""
    divergence_clip_low: Number | None
    """Lower bound likewise, < 0; None for none."""
    pull: PullConfig
    steering: SteeringConfig
    contrast: ContrastConfig
    privilege: str
    """What the teacher is shown beyond the problem (privilege/prompts.py)."""
    assistant_prefix: str | None
    """Words with which the assistant's turn begins, for student and teacher (privilege/prefix.py); None for none."""
    score_student: str
    """auto: verl's old_log_prob pass runs only where something needs it; always: it always runs."""
    save_tokens_every: Count | None
    """Steps, >= 1, between two files of responses with what was decided about each token (watch/tokens.py); or None."""
    teacher: TeacherConfig

    def __post_init__(self) -> None:
        require(
            self.gamma >= 0,
            "gamma",
            self.gamma,
            "would trust the teacher most where it is least certain; use gamma >= 0",
        )
        require(self.window >= 0, "window", self.window, "would look at past tokens; use window >= 0")
        require(0 <= self.floor <= 1, "floor", self.floor, "must lie in [0, 1]")
        require(self.gate in GATES, "gate", self.gate, f"is not available; choose from {GATES}")
        gated = self.gate == "token" or (self.gamma > 0 and self.floor < 1)
        require(gated, "gate", self.gate, "means nothing to gamma=0 or floor=1, whose gate is 1; leave it at token")
        require(self.min_entropy_scale > 0, "min_entropy_scale", self.min_entropy_scale, "must be positive (nats)")
        require(
            0 <= self.clip_range < 1, "clip_range", self.clip_range, "must lie in [0, 1), or a weight could be negative"
        )
        require(0 <= self.mixing <= 1, "mixing", self.mixing, "must lie in [0, 1]")
        steps = self.mixing_decay_steps
        require(steps is None or steps >= 1, "mixing_decay_steps", steps, "must be a number of steps >= 1, or null")
        require(self.length_bonus >= 0, "length_bonus", self.length_bonus, "would punish short answers; use >= 0")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "must be >= 0")
        words = self.assistant_prefix
        require(words is None or bool(words.strip()), "assistant_prefix", words, "must be some words, or null")
        require(self.score_student in ("auto", "always"), "score_student", self.score_student, "must be auto or always")
        every = self.save_tokens_every
        require(every is None or every >= 1, "save_tokens_every", every, "must be a number of steps >= 1, or null")
        require(
            self.privilege in PRIVILEGES, "privilege", self.privilege, f"is not available; choose from {PRIVILEGES}"
        )
        self._check_divergence()
        self.steering.check(self.privilege, self.divergence, weighs=self.weighs)
        self.contrast.check(self.privilege, self.divergence)
        if self.privilege == "peers" or self.privilege not in PEER_PRIVILEGES:
            reason = f"means nothing to privilege={self.privilege}, which does not show one of several peers"
            require_defaults(self.teacher, "teacher", {"peer": "shortest"}, reason)

    def _check_divergence(self) -> None:
        kind, clip = self.divergence, self.divergence_clip
        require(
            kind in (None, *DIVERGENCES), "divergence", kind, f"is not available; choose from {DIVERGENCES}, or null"
        )
        require(
            clip is None or kind is not None, "divergence_clip", clip, "means nothing to divergence=null; leave it null"
        )
        require(clip is None or clip > 0, "divergence_clip", clip, "must be positive (nats), or null")
        beta = self.divergence_beta
        within = "must lie between 0 and 1, which are forward_kl and reverse_kl: name those"
        require(0 < beta < 1, "divergence_beta", beta, within)
        asked = kind == "jsd" or beta == 0.5
        require(asked, "divergence_beta", beta, f"means nothing to divergence={shown(kind)}; leave it at 0.5")
        low = self.divergence_clip_low
        require(
            low is None or (kind is not None and low < 0),
            "divergence_clip_low",
            low,
            "must be negative, with a divergence",
        )
        if kind is None:
            self.pull.require_default()
        beside = self.pull.policy_gradient
        for key in ("gamma", "window", "clip_range", "length_bonus") if kind and not beside else ():
            value = getattr(self, key)
            reason = f"means nothing to algorithm.egrsd.divergence={kind}: no weights, no reward; set it to 0"
            require(value == 0, key, value, reason)
        for key, default in {"advantage": "running", "mixing": 1, "mixing_decay_steps": None}.items():
            reason = f"means nothing to algorithm.egrsd.divergence={kind}: no advantage, no weights; leave it at "
            unread = kind and not beside
            require(not unread or getattr(self, key) == default, key, getattr(self, key), reason + shown(default))
        unweighted = kind is None or beside or self.token_weight == TOKEN_WEIGHT
        reason = f"means nothing to divergence={kind}: no advantage is weighted; drop that override"
        require(unweighted, "token_weight", self.token_weight, reason)

    @property
    def pulls(self) -> bool:
        """True if a divergence is part of the loss."""
        return self.divergence is not None and self.pull.coefficient > 0

    @property
    def rewards_count(self) -> bool:
        """True if a policy gradient is part of the loss; otherwise rewards are only watched."""
        return self.divergence is None or self.pull.policy_gradient

    @property
    def weighs(self) -> bool:
        """True if the weights of the policy gradient read what the teacher says."""
        own = self.gamma > 0 or (self.clip_range > 0 and self.mixing > 0)
        return self.rewards_count and (own or self.token_weight != TOKEN_WEIGHT)

    @property
    def compares_within_groups(self) -> bool:
        """True if a part of the loss learns only from a problem of which one response is right and another wrong.

        Not under answer_contrast, which tells the tokens of a problem apart whose responses are all wrong.
        """
        other = {"peer_correct": "wrong", "peer_wrong": "correct"}.get(self.privilege)
        pulled_to_other = other is not None and self.pull.rows.endswith(other)
        of_pull = self.pulls and (pulled_to_other or self.pull.weighting == "frontier")
        of_advantage = self.rewards_count and self.advantage != "running" and self.privilege != "answer_contrast"
        return of_pull or of_advantage or self.privilege == "peer_contrast"

    @property
    def contrasts(self) -> bool:
        """True if a teacher reads a response under right and wrong guides, whose difference a token weight adds."""
        return self.privilege in CONTRAST_PRIVILEGES

    @property
    def clips(self) -> bool:
        """True if an entry's share of the divergence has a bound."""
        return self.divergence_clip is not None or self.divergence_clip_low is not None

    @property
    def divergence_knobs(self) -> dict[str, Any]:
        """What method.divergence is told beside the models."""
        names = {"kind": "divergence", "clip": "divergence_clip", "clip_low": "divergence_clip_low"}
        return {name: getattr(self, key) for name, key in (names | {"beta": "divergence_beta"}).items()}

    @property
    def warms_up(self) -> bool:
        """True if several steps take the reward minus a constant before it is whitened."""
        return self.advantage == "running" and self.rewards_count and self.warmup_steps > 1

    @property
    def weight_knobs(self) -> dict[str, Any]:
        """What a token weight may read of the settings that a run does not change."""
        return {key: getattr(self, key) for key in WEIGHT_KNOBS}

    def mixing_at(self, step: int) -> float:
        """The mixing of a step, which counts from 1."""
        if self.mixing_decay_steps is None:
            return self.mixing
        return self.mixing * max(0.0, 1.0 - (step - 1) / self.mixing_decay_steps)


def read(node: Mapping[str, Any]) -> EgrsdConfig:
    """The ``algorithm.egrsd`` node as dataclasses; ValueError names an unknown, missing or refused key, and why."""
    values = container(node)
    if isinstance(values, dict):
        groups = {"pull": PullConfig, "steering": SteeringConfig, "contrast": ContrastConfig, "teacher": TeacherConfig}
        built = {name: _build(cls, values.get(name, {}), f"algorithm.egrsd.{name}") for name, cls in groups.items()}
        values = {**values, **built}
    return _build(EgrsdConfig, values, "algorithm.egrsd")


def read_teacher(node: Mapping[str, Any]) -> TeacherConfig:
    """The same for ``algorithm.egrsd.teacher``."""
    return _build(TeacherConfig, container(node), "algorithm.egrsd.teacher")


def _build(cls: type, values: Any, path: str) -> Any:
    names = [field.name for field in fields(cls)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}={shown(values)} is {type(values).__name__}; it holds the keys {names}.")
    for problem, keys in (("unknown", values.keys() - set(names)), ("missing", set(names) - values.keys())):
        if keys:
            raise ValueError(f"{path} has {problem} key(s) {sorted(map(shown, keys))}; the keys are {names}.")
    try:
        return cls(**values)
    except ValidationError as error:
        raise ValueError(complaint(error, path)) from None
