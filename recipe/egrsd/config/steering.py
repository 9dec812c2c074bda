"""The keys under ``algorithm.egrsd.steering``: how far outcomes move a teacher that is shown all peers."""

from pydantic.dataclasses import dataclass

from recipe.egrsd.config.strict import STRICT, Count, Number, require, require_defaults

_DEFAULTS = {"warmup_steps": None, "own_response": True}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SteeringConfig:
    """algorithm.egrsd.steering"""

    strength: Number
    """What the difference of right and wrong guides is multiplied by, >= 0; 0 for every privilege but peers."""
    warmup_steps: Count | None
    """Steps, >= 1, over which the strength rises linearly from 0; None: none."""
    own_response: bool
    """Whether a response is among its own guides."""

    def __post_init__(self) -> None:
        require(self.strength >= 0, "steering.strength", self.strength, "would steer towards wrong answers; use >= 0")
        steps = self.warmup_steps
        require(steps is None or steps >= 1, "steering.warmup_steps", steps, "must be >= 1, or null")

    def check(self, privilege: str, divergence: str | None, *, weighs: bool) -> None:
        """ValueError if the privilege and the strength do not go together, or nothing can use such a teacher."""
        steered, strength = privilege == "peers", self.strength
        only = "means nothing but to privilege=peers; set it to 0"
        require(steered or strength == 0, "steering.strength", strength, only)
        if not steered:
            require_defaults(self, "steering", _DEFAULTS, "means nothing but to privilege=peers")
        reason = "steers nothing; set it, or use privilege=none"
        require(not steered or strength > 0, "steering.strength", strength, reason)
        several = "has the teacher read a response under several prompts, "
        reason = "which only a divergence can use; set algorithm.egrsd.divergence"
        require(not steered or divergence is not None, "privilege", privilege, several + reason)
        reason = "and no token weight can read that; set gamma and clip_range to 0 and drop token_weight"
        require(not steered or not weighs, "privilege", privilege, several + reason)

    def strength_at(self, step: int) -> float:
        """The strength of a step, which counts from 1."""
        return self.strength * (1.0 if self.warmup_steps is None else min(1.0, (step - 1) / self.warmup_steps))
