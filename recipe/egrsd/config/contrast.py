"""The keys under ``algorithm.egrsd.contrast``: what a teacher's right guide against its wrong ones adds to an
advantage."""

from pydantic.dataclasses import dataclass

from recipe.egrsd.config.strict import STRICT, Count, Number, require, require_defaults

CONTRAST_PRIVILEGES = ("peer_contrast", "answer_contrast")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastConfig:
    """algorithm.egrsd.contrast"""

    strength: Number
    """What the bounded evidence is multiplied by, >= 0: RLCSD's lambda, SIPO's kappa; 0 for every privilege but
    peer_contrast and answer_contrast."""
    scale: Number
    """Nats, > 0, about which the evidence is bounded: tau of RLCSD's tanh, delta of SIPO's clip."""
    threshold: Number
    """RLCSD's delta, >= 0: a term that does not exceed it is not added."""
    wrong_guides: Count
    """Most wrong responses that a response is read beside, >= 1; for peer_contrast."""

    def __post_init__(self) -> None:
        require(self.strength >= 0, "contrast.strength", self.strength, "would teach the wrong answers; use >= 0")
        require(self.scale > 0, "contrast.scale", self.scale, "must be positive (nats)")
        require(self.threshold >= 0, "contrast.threshold", self.threshold, "must be >= 0")
        require(self.wrong_guides >= 1, "contrast.wrong_guides", self.wrong_guides, "must be >= 1")

    @property
    def knobs(self) -> dict[str, float]:
        """What method.evidence is told beside the teacher."""
        return {"strength": self.strength, "scale": self.scale, "threshold": self.threshold}

    def check(self, privilege: str, divergence: str | None) -> None:
        """ValueError if the privilege and the strength do not go together, or not with a divergence."""
        contrasts, strength = privilege in CONTRAST_PRIVILEGES, self.strength
        either = f"privilege={' or '.join(CONTRAST_PRIVILEGES)}"
        only = f"means nothing but to {either}; set it to 0"
        require(contrasts or strength == 0, "contrast.strength", strength, only)
        if not contrasts:
            require_defaults(self, "contrast", {"scale": 0.2, "threshold": 0.0}, f"means nothing but to {either}")
        if privilege != "peer_contrast":  # the other shows one answer
            require_defaults(self, "contrast", {"wrong_guides": 4}, "means nothing but to privilege=peer_contrast")
        reason = f"adds nothing of what privilege={privilege} contrasts; set it, or use privilege=none"
        require(not contrasts or strength > 0, "contrast.strength", strength, reason)
        reason = "has the teacher read a response under right and wrong guides, and no divergence can pull to both; "
        undone = "set algorithm.egrsd.divergence to null"
        require(not contrasts or divergence is None, "privilege", privilege, reason + undone)
