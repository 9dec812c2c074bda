"""Which rollout a row of the batch belongs to. verl names rows uid_session_index; a rollout is one session of a prompt.

Most agent loops return one row. One that rewrites its context returns several, each a prompt of its own and a response,
in order. All of them earned what the last one says; verl's group advantages follow the same rule
(trainer/ppo/v1/utils.py:148).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BY_ROLLOUT = ("running", "grpo")  # advantages that count a rollout of several rows once


def rollout_of(key: str) -> tuple[str, int, int]:
    """The prompt's uid, the rollout's number among those of the prompt, the row's number among those of the rollout."""
    uid, number, index = key.rsplit("_", 2)
    return uid, int(number), int(index)


def last_rows(keys: Sequence[str]) -> Tensor:
    """(B,) for each row the number of its rollout's last row."""
    last: dict[str, tuple[int, int]] = {}
    for row, key in enumerate(keys):
        rollout, _, index = key.rpartition("_")
        last[rollout] = max(last.get(rollout, (-1, -1)), (int(index), row))
    return torch.tensor([last[key.rpartition("_")[0]][1] for key in keys])


def require_counted_once(keys: Sequence[str], advantage: str) -> None:
    """ValueError, which names the row, if an estimator would take each row of a rollout for a response of its own."""
    later = next((key for key in keys if rollout_of(key)[2]), None)
    if later and advantage not in BY_ROLLOUT:
        raise ValueError(
            f"row {later} is a later row of its rollout, and algorithm.egrsd.advantage={advantage} would count each as "
            f"a response of its own; use one of {BY_ROLLOUT}, or an agent loop that returns one row a rollout."
        )


def teacher_prompts(
    keys: Sequence[str], prompts: Sequence[Tensor], privileged_prompts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """What stands before each row's response for the teacher: its own prompt in place of the data set's, then what was
    added.

    Args:
        keys: B row names.
        prompts: B student prompts, token ids; the first row of a rollout has the data set's.
        privileged_prompts: B token ids of the data set's privileged prompts.

    Raises:
        ValueError: if a later row does not begin with its rollout's first prompt, so that nobody can say where the
            solution belongs; names the row.
    """
    first = {
        key.removesuffix("_0"): prompt.tolist() for key, prompt in zip(keys, prompts, strict=True) if key.endswith("_0")
    }
    found = []
    for key, prompt, privileged in zip(keys, prompts, privileged_prompts, strict=True):
        rollout, _, index = key.rpartition("_")
        start, ids = first.get(rollout, []), prompt.tolist()
        if index != "0" and not (start and ids[: len(start)] == start):
            raise ValueError(
                f"the prompt of row {key} does not begin with the prompt of its rollout's first row, so that EGRSD "
                "cannot put the reference solution into it; use an agent loop that appends to its context or returns "
                "one row a rollout."
            )
        found.append([*privileged, *ids[len(start) :]])
    return found
