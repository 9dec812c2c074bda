"""Whether a run goes on with the method that it began with: a folder of checkpoints is named after verl's project and
experiment, which are the same for every preset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.egrsd.config.strict import container, leaves, shown

OF_NO_METHOD = ("save_tokens_every", "score_student", "teacher.max_prompt_length")
"""Keys of algorithm.egrsd that may change from one start to the next: they change what is seen, or what fits."""


def method_of(config: Any) -> dict[str, Any]:
    """Key under algorithm.egrsd -> value, as a checkpoint keeps them."""
    return {key: value for key, value in leaves(container(config.algorithm.egrsd)) if key not in OF_NO_METHOD}


def differences(begun_with: Mapping[str, Any], config: Any) -> list[str]:
    """Each key whose value is another one now, in words; keys that one of the two does not know say nothing."""
    now = method_of(config)
    both = [(key, begun_with[key], value) for key, value in now.items() if key in begun_with]
    return [f"algorithm.egrsd.{key}={shown(old)}, now {shown(new)}" for key, old, new in both if old != new]


def refuse_another_method(folder: Path, begun_with: Mapping[str, Any], config: Any) -> None:
    """
    Args:
        folder: the checkpoint that trainer.resume_mode=auto has found.
        begun_with: what ``method_of`` said of the run that wrote it.

    Raises:
        ValueError: if that was another method: the run would start from what the other one trained.
    """
    if found := differences(begun_with, config):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ValueError(
            f"{folder} was written with {found[0]}{more}: trainer.resume_mode=auto would go on from what another "
            "method trained. Name another trainer.default_local_dir or trainer.experiment_name, or go on from it on "
            f"purpose with trainer.resume_mode=resume_path trainer.resume_from_path={folder}."
        )
