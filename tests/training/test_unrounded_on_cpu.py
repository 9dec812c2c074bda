"""The check of whole runs in bfloat16 (tests/support/unrounded.py) on made-up ones: it sees what is rounded, gone or
0."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composing import settings
from same_training import LOGGED
from unrounded import AVERAGED, DISTANCES, assert_nothing_was_rounded, owed

OWED = sorted(owed(settings("cl_egrsd"), taught=True, pulled=False, added=False))
VALUES = (1 / 3, 1 / 5)
"""Of two steps; neither is a bfloat16 number."""
OF_TOKENS = ("teacher_log_probs", "teacher_entropy")


def made_up() -> tuple[list[dict], dict[str, list[torch.Tensor]]]:
    """Metrics of each step, and the batch of both."""
    batch = {"teacher_mask": [torch.tensor([1, 0])]} | {field: [torch.tensor([1 / 3, 0.0])] for field in OF_TOKENS}
    metrics: list[dict] = [dict.fromkeys([*OWED, "actor/grad_norm"], value) for value in VALUES]
    return metrics, batch


def check(metrics: list[dict], batch: dict[str, list[torch.Tensor]]) -> None:
    made_up_run: Any = SimpleNamespace(metrics=metrics, probe=lambda _: batch)
    assert_nothing_was_rounded(made_up_run, settings("cl_egrsd"))


def test_what_a_run_owes_is_every_mean_that_it_logs():
    """By the list that whole runs are compared with."""
    assert set(OWED) == set(AVERAGED) & {*LOGGED, *DISTANCES} and len(OWED) == 11 + 2
    check(*made_up())


@pytest.mark.parametrize("name", [*OWED, "actor/grad_norm"])
def test_a_mean_that_is_rounded_gone_or_0_is_seen(name):
    rounded = [torch.tensor(value).bfloat16().item() for value in VALUES]
    for values in (rounded, (None, None), (0.0, 0.0)):
        metrics, batch = made_up()
        for step, value in zip(metrics, values, strict=True):
            step[name] = value
            if value is None:
                del step[name]
        with pytest.raises(AssertionError, match=re.escape(name)):
            check(metrics, batch)


@pytest.mark.parametrize("field", OF_TOKENS)
def test_a_number_of_tokens_that_is_rounded_or_0_is_seen(field):
    for value in (torch.tensor(1 / 3).bfloat16().item(), 0.0):
        metrics, batch = made_up()
        batch[field] = [torch.tensor([value, 0.0])]
        with pytest.raises(AssertionError, match=field):
            check(metrics, batch)
