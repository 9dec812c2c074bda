"""Wrong ways to choose guides, strength, rows and tokens of a step, each of which a test of the steps rejects."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from guided_steps import (
    check_each_response_is_read_beside_its_guides,
    check_from_the_second_step_of_a_ramp_it_is_pulled,
    check_the_teacher_reads_pulled_tokens_beside_every_guide,
)
from queued_steps import check_only_what_is_pulled_has_a_teacher

from recipe.egrsd import showing, teaching
from recipe.egrsd.config.steering import SteeringConfig
from recipe.egrsd.teacher import readings

CHECKS: dict[str, tuple[str, Callable]] = {
    "ogls_sd": ("guide_batch", partial(check_the_teacher_reads_pulled_tokens_beside_every_guide, 1, True)),
    "a ramp": ("guide_batch", check_from_the_second_step_of_a_ramp_it_is_pulled),
    "ssopd": ("peer_batch", partial(check_only_what_is_pulled_has_a_teacher, 1)),
    "rlcsd": ("contrast_batch", partial(check_each_response_is_read_beside_its_guides, "peer_contrast", 1)),
}
"""Fixture of the batch, and what a test checks of it."""


def told(**otherwise: Any) -> Callable:
    """The real function, whatever it is told of these."""
    return lambda real: lambda *args, **knobs: real(*args, **(knobs | otherwise))


def one_token_more(real: Callable) -> Callable:
    return lambda *args, tokens, **knobs: real(*args, tokens=tokens + 1, **knobs)


def a_step_early(real: Callable) -> Callable:
    return lambda self, step: real(self, step + 1)


def beside_itself(real: Callable) -> Callable:
    def function(keys, problems, correct, *args, **knobs):
        found = real(keys, problems, correct, *args, **knobs)
        return [peers if correct[row] else [row, *peers] for row, peers in enumerate(found)]

    return function


def mean_of_logs(real: Callable) -> Callable:
    return lambda log_probs: torch.stack(list(log_probs)).mean(0)


MUTANTS = {
    "ogls_sd": {
        "a response is not among its own guides": (showing, "guides", told(own_response=False)),
        "right responses are pulled": (teaching, "pulled_rows", told(rows="correct")),
        "all responses are pulled": (teaching, "pulled_rows", told(rows="all")),
        "one token more": (teaching, "pull_weights", one_token_more),
        "a mean over each response": (teaching, "pull_weights", told(weighting="response_mean")),
    },
    "a ramp": {"from 1, not from 0": (SteeringConfig, "strength_at", a_step_early)},
    "ssopd": {
        "all wrong ones are pulled": (teaching, "pulled_rows", told(rows="wrong")),
        "one token more": (teaching, "pull_weights", one_token_more),
        "without 4p(1-p)": (teaching, "pull_weights", told(weighting="token_mean")),
        "a wrong peer": (showing, "chosen_peers", told(wanted=[False])),
    },
    "rlcsd": {
        "a wrong response is read beside itself": (showing, "wrong_peers", beside_itself),
        "one wrong guide": (showing, "wrong_peers", told(most=1)),
        "the longest right one": (showing, "chosen_peers", told(rule="longest")),
        "the mean of logs": (readings, "log_mean_prob", mean_of_logs),
    },
}


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_passes_alone(name, request):
    fixture, check = CHECKS[name]
    check(request.getfixturevalue(fixture))


@pytest.mark.parametrize(("name", "mutant"), [(name, mutant) for name in MUTANTS for mutant in MUTANTS[name]])
def test_the_check_rejects(name, mutant, request, monkeypatch):
    (owner, attribute, changed), (fixture, check) = MUTANTS[name][mutant], CHECKS[name]
    monkeypatch.setattr(owner, attribute, changed(getattr(owner, attribute)))
    with pytest.raises(AssertionError):
        check(request.getfixturevalue(fixture))
