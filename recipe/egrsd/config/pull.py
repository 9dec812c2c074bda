"""The keys under ``algorithm.egrsd.pull``: where ``algorithm.egrsd.divergence`` pulls, how strongly, beside what."""

from pydantic.dataclasses import dataclass

from recipe.egrsd.config.strict import STRICT, Count, Number, require, require_defaults

ROWS = ("all", "correct", "wrong", "shortest_correct", "longest_wrong")
WEIGHTINGS = ("token_mean", "response_mean", "frontier")
_DEFAULTS = {
    "policy_gradient": False, "coefficient": 1, "warmup_steps": None, "decay_steps": None, "rows": "all",
    "tokens": None, "weighting": "token_mean", "propagation": None,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PullConfig:
    """algorithm.egrsd.pull"""

    policy_gradient: bool
    """Whether the weighted policy gradient stays beside the divergence; otherwise rewards are only watched."""
    coefficient: Number
    """What the divergence is multiplied by, >= 0; 0 switches it off."""
    warmup_steps: Count | None
    """Steps, >= 1, over which the coefficient rises linearly from 0; None: none."""
    decay_steps: Count | None
    """Steps, >= 1, over which it then falls linearly to 0; None keeps it."""
    rows: str
    """Which responses are pulled (method/pull.py)."""
    tokens: Count | None
    """Positions of a response that are pulled at most, >= 1, from its start; None: all."""
    weighting: str
    """The weight of a pulled token (method/pull.py)."""
    propagation: Number | None
    """DASH's kappa, >= 0: how much a token's weight grows over those before it (method/pull.py); None: it does not."""

    def __post_init__(self) -> None:
        require(
            self.coefficient >= 0, "pull.coefficient", self.coefficient, "would push away from the teacher; use >= 0"
        )
        for key in ("warmup_steps", "decay_steps", "tokens"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"pull.{key}", value, "must be >= 1, or null")
        kappa = self.propagation
        require(kappa is None or kappa >= 0, "pull.propagation", kappa, "must be >= 0, or null")
        for key, known in (("rows", ROWS), ("weighting", WEIGHTINGS)):
            value = getattr(self, key)
            require(value in known, f"pull.{key}", value, f"is not available; choose from {known}")
        alone = self.coefficient == 0 and not self.policy_gradient
        require(not alone, "pull.coefficient", self.coefficient, "leaves no loss with pull.policy_gradient=false")

    def require_default(self) -> None:
        """ValueError for the first key that would be ignored: there is no divergence."""
        require_defaults(self, "pull", _DEFAULTS, "means nothing to divergence=null")

    def coefficient_at(self, step: int) -> float:
        """The coefficient of a step, which counts from 1."""
        rise = 1.0 if self.warmup_steps is None else min(1.0, (step - 1) / self.warmup_steps)
        after = step - 1 - (self.warmup_steps or 0)
        fall = 1.0 if self.decay_steps is None else min(1.0, max(0.0, 1.0 - after / self.decay_steps))
        return self.coefficient * rise * fall
