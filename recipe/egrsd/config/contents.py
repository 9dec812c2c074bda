"""What a run's checkpoints hold and what a resumed run loads of them: verl's save_contents and load_contents."""

from typing import Any

NEEDED = ("model", "optimizer", "extra")
"""What a run needs to go on as if it had never stopped; verl's default (checkpoint_manager.py:54)."""
KEY = "actor_rollout_ref.actor.checkpoint"


def loaded(config: Any) -> list[str]:
    """What verl loads of a checkpoint; it says nothing of what it leaves out (fsdp_checkpoint_manager.py:193)."""
    return _contents(config, "load_contents")


def remark(config: Any, *, resumes: bool) -> str:
    """What the log adds to where a run begins; empty if nothing is left out."""
    left_out = [name for name in NEEDED if name not in loaded(config)]
    without = f", without its {' and '.join(left_out)}" if resumes and left_out else ""
    saves = config.trainer.save_freq > 0 and "model" not in _contents(config, "save_contents")
    return without + "; no run can resume from its checkpoints, which hold no model" * saves


def _contents(config: Any, key: str) -> list[str]:
    given = config.actor_rollout_ref.actor.checkpoint[key]
    return list(NEEDED if given is None else given)
