"""The keys under ``algorithm.egrsd.teacher``: who teaches, and its prompt. Defaults live in config/algorithm/."""

import os

from pydantic.dataclasses import dataclass

from recipe.egrsd.config.strict import STRICT, Count, Number, require

TEACHER_KINDS = ("frozen", "snapshot", "ema", "live")
MOVING_KINDS = ("snapshot", "ema")
PEER_RULES = ("shortest", "longest", "random")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TeacherConfig:
    """algorithm.egrsd.teacher"""

    kind: str
    """Which weights teach. frozen: the initial ones; snapshot: the student's, copied every sync_every steps; ema: their
    moving average; live: the student's own."""
    sync_every: Count | None
    """Steps between two copies, >= 1; for snapshot only."""
    ema_decay: Number | None
    """Share of the old teacher in the new one, in (0, 1); for ema only."""
    enable_thinking: bool
    """Chat-template switch of the teacher's prompt."""
    solution_key: str
    """Key of extra_info that holds the reference solution, a string."""
    problem_key: str
    """Key of extra_info that holds the problem in English, a string; for privilege=crosslingual."""
    instruction: str
    """What every student prompt ends with; empty if they share no ending."""
    template: str | None
    """Jinja file that replaces privilege/teacher_prompt.jinja."""
    max_prompt_length: Count
    """Longest privileged prompt, tokens."""
    peer: str
    """Which of several peers is shown under a privilege with peers; random goes by data.seed and the step."""

    @property
    def moves(self) -> bool:
        """True if the teacher has weights of its own that follow the student."""
        return self.kind in MOVING_KINDS

    def __post_init__(self) -> None:
        require(self.kind in TEACHER_KINDS, "teacher.kind", self.kind, f"is not available; choose from {TEACHER_KINDS}")
        require(self.max_prompt_length > 0, "teacher.max_prompt_length", self.max_prompt_length, "must be positive")
        require(self.peer in PEER_RULES, "teacher.peer", self.peer, f"is not available; choose from {PEER_RULES}")
        for key, kind, ok, reason in (
            ("sync_every", "snapshot", lambda steps: steps >= 1, "must be a number of steps >= 1 (paper: 20, 50)"),
            ("ema_decay", "ema", lambda decay: 0 < decay < 1, "must lie between 0 and 1 (paper: 0.99)"),
        ):
            value = getattr(self, key)
            if self.kind == kind:
                said = f"{reason}, which algorithm.egrsd.teacher.kind={kind} needs"
                require(value is not None and ok(value), f"teacher.{key}", value, said)
            else:
                require(
                    value is None, f"teacher.{key}", value, f"means nothing to teacher.kind={self.kind}; leave it null"
                )
        found = self.template is None or os.path.isfile(self.template)
        require(
            found, "teacher.template", self.template, "is not a file; name a jinja file, or null for the built-in one"
        )
