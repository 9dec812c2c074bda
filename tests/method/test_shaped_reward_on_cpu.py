"""The shaped reward of recipe/egrsd/method/advantage.py against hand arithmetic and a loop oracle."""

import math

import pytest
import torch
from formula_checks import check_shaped_reward
from hypothesis import given, settings
from strategies import Scores, few, scores

from recipe.egrsd.method.advantage import shaped_reward


def test_shaped_reward_by_hand():
    # correct, 256 of 1024 tokens: 1 + .5 (1 - 1/4) = 1.375      correct, 1024 tokens: 1 + .5 * 0 = 1
    # wrong: 0 at any length                                     correct, 0 tokens: 1.5
    reward = shaped_reward(
        torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0]),
        torch.tensor([256, 1024, 1, 1024, 0]),
        max_length=1024,
        length_bonus=0.5,
    )
    assert reward.tolist() == [1.375, 1.0, 0.0, 0.0, 1.5]
    default = shaped_reward(torch.tensor([1.0]), torch.tensor([256]), max_length=1024)
    assert default.tolist() == [1.375]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(scores())
def test_shaped_reward_agrees_with_the_loop(scores: Scores):
    check_shaped_reward(shaped_reward, scores)


@few
@given(scores())
def test_a_correct_answer_earns_at_least_1_a_wrong_one_0(scores: Scores):
    reward = shaped_reward(
        scores.correct, scores.length, max_length=scores.max_length, length_bonus=scores.length_bonus
    )
    is_correct = scores.correct == 1
    assert (reward[is_correct] >= 1.0).all() and (reward[is_correct] <= 1.0 + scores.length_bonus).all()
    assert torch.equal(reward[~is_correct], torch.zeros(int((~is_correct).sum())))


def test_a_longer_correct_answer_earns_less():
    length = torch.arange(0, 1025, 64)
    reward = shaped_reward(torch.ones_like(length).float(), length, max_length=1024)
    assert (reward.diff() < 0).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_lengths_may_be_of_any_number_type(dtype: torch.dtype):
    assert shaped_reward(torch.tensor([1.0]), torch.tensor([512], dtype=dtype), max_length=1024).tolist() == [1.25]


@pytest.mark.parametrize("score", [0.5, -1.0, 2.0, math.nan, math.inf])
def test_a_score_that_is_neither_0_nor_1_is_refused(score: float):
    with pytest.raises(ValueError, match=r"score \S+ in row 2 is neither 0 nor 1.*length_bonus=0"):
        shaped_reward(torch.tensor([1.0, 0.0, score, score]), torch.tensor([1, 1, 1, 1]), max_length=8)


def test_without_a_bonus_any_score_passes_unchanged():
    correct = torch.tensor([0.5, -1.0, 1.0])
    assert torch.equal(shaped_reward(correct, torch.tensor([1, 2, 3]), max_length=8, length_bonus=0.0), correct)


@pytest.mark.parametrize("correct", [0.0, 1.0])
def test_a_response_longer_than_the_limit_is_refused(correct: float):
    with pytest.raises(ValueError, match=r"is not in \[0, max_length=8\]"):
        shaped_reward(torch.tensor([1.0, correct]), torch.tensor([8, 9]), max_length=8)
