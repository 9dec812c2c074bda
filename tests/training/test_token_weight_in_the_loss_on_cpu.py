"""A token weight by name, called by the loss: the weight of each token, each micro-batch checked again."""

import re

import pytest
import torch
from micro_batches import PROMPTS, RESPONSES, actor_config, micro_batch, output, rows, settings
from user_weights import KEY
from verl.workers.utils.losses import ppo_loss

from recipe.egrsd.loss import SUM_PREFIX, egrsd_loss

pytestmark = pytest.mark.usefixtures("my_weights")


def loss_and_gradient(samples, loss_fn):
    model_output, leaf = output(samples, range(4))
    loss, metrics = loss_fn(model_output, micro_batch(samples, range(4)))
    loss.backward()
    return loss.detach(), leaf.grad, metrics


def weighted_by(name: str):
    egrsd = settings(token_weight=name)
    return lambda model_output, data: egrsd_loss(actor_config(), egrsd, model_output, data)


def test_the_loss_is_verls_on_advantages_times_the_weight():
    """To the bit; nothing is logged of a gate or a ratio weight that there is not."""
    samples = rows()
    loss, gradient, metrics = loss_and_gradient(samples, weighted_by("my_weights:halved"))
    scaled = [
        torch.where(mask.bool(), row * torch.tensor([0.5, 0.5, 1.2, 1.2, 1.2, 1.2])[: len(row)], row)
        for row, mask in zip(samples["advantages"], samples["response_mask"], strict=True)
    ]
    expected, expected_gradient, _ = loss_and_gradient(
        samples | {"advantages": scaled}, lambda model_output, data: ppo_loss(actor_config(), model_output, data)
    )
    assert torch.equal(loss, expected) and torch.equal(gradient, expected_gradient)
    # Responses of 4, 1, 6 and 3 tokens, the third without its third: 2 + 1 + 2 + 2 early, 2 + 0 + 3 + 1 late.
    assert metrics[SUM_PREFIX + "token_weight_mean"].aggregate() == pytest.approx(7 * 0.5 + 6 * 1.2, abs=1e-5)
    assert not [name for name in metrics if re.search("gate|ratio_weight|clip_|lookahead", name)]


def test_parts_that_a_weight_has_are_logged():
    _, _, metrics = loss_and_gradient(rows(), weighted_by("my_weights:gated"))
    logged = {name.removeprefix(SUM_PREFIX) for name in metrics}
    assert {"token_weight_mean", "gate_mean", "gate_floor_frac"} <= logged
    assert not {"lookahead_restored_mean", "ratio_weight_mean", "ratio_clip_low_frac"} & logged


def test_the_built_in_through_a_users_function_is_the_built_in():
    ours, ours_gradient, ours_metrics = loss_and_gradient(rows(), weighted_by(settings().token_weight))
    theirs, theirs_gradient, theirs_metrics = loss_and_gradient(rows(), weighted_by("my_weights:everything"))
    assert torch.equal(ours, theirs) and torch.equal(ours_gradient, theirs_gradient)
    assert {name: value.aggregate() for name, value in ours_metrics.items() if name.startswith(SUM_PREFIX)} == {
        name: value.aggregate() for name, value in theirs_metrics.items() if name.startswith(SUM_PREFIX)
    }


def test_what_it_does_to_its_inputs_reaches_nobody():
    samples = rows()
    loss, gradient, _ = loss_and_gradient(samples, weighted_by("my_weights:edits"))
    plain, plain_gradient, _ = loss_and_gradient(
        samples, lambda model_output, data: ppo_loss(actor_config(), model_output, data)
    )
    assert torch.equal(loss, plain) and torch.equal(gradient, plain_gradient)


@pytest.mark.parametrize("name", ["number", "rows_only", "double", "elsewhere", "of_a_parameter", "raises"])
def test_each_micro_batch_is_checked_again(name):
    with pytest.raises(ValueError, match=rf"^{KEY}=my_weights:{name} fails: .*; mend it\.$"):
        loss_and_gradient(rows(), weighted_by(f"my_weights:{name}"))


def test_a_weight_that_is_not_finite_stops_the_run():
    """At a teacher that the made-up responses do not show."""
    samples = rows()
    samples["teacher_log_probs"][2][4] = -2.5
    with pytest.raises(
        ValueError, match=r"fails_late fails: its token weight is inf at token 4 of response 2; what lies"
    ):
        loss_and_gradient(samples, weighted_by("my_weights:fails_late"))


def test_a_response_without_a_teacher_weighs_one_whatever_the_function_says():
    samples = rows()
    samples["teacher_mask"][0] = torch.zeros_like(samples["teacher_mask"][0])
    _, gradient, _ = loss_and_gradient(samples, weighted_by("my_weights:halved"))
    _, plain, _ = loss_and_gradient(samples, lambda output, data: ppo_loss(actor_config(), output, data))
    first = PROMPTS[0] + RESPONSES[0]
    assert torch.equal(gradient[:first], plain[:first]) and not torch.equal(gradient[first:], plain[first:])


def test_what_lies_under_the_mask_may_be_anything():
    samples = rows()
    samples["teacher_log_probs"][2][2] = -2.5  # the hole
    loss_and_gradient(samples, weighted_by("my_weights:fails_late"))


@pytest.mark.parametrize("name", ["my_weights:everything", settings().token_weight])
def test_a_student_that_is_not_finite_is_verls_to_skip(name):
    """verl looks at the norm of the gradient; the weight is not to blame."""
    samples = rows()
    samples["old_log_probs"][0][1] = torch.nan
    loss, _, _ = loss_and_gradient(samples, weighted_by(name))
    assert loss.isnan()
