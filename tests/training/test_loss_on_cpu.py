"""The loss hook on real verl micro-batches: exact reduction to verl's loss, gradients, splits."""

import math
from collections.abc import Sequence

import pytest
import torch
from micro_batches import EVERYWHERE, PROMPTS, RESPONSES, SCALE, actor_config, micro_batch, output, rows, settings
from reference import entropy_gate, lookahead_entropy, ratio_weight
from torch import Tensor
from verl.workers.utils.losses import ppo_loss

from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.loss import SUM_PREFIX, egrsd_loss, training_loss
from recipe.egrsd.watch.sums import token_means


def loss_and_gradient(samples, chosen, **changes) -> tuple[Tensor, Tensor, dict]:
    model_output, leaf = output(samples, chosen)
    loss, metrics = egrsd_loss(actor_config(), settings(**changes), model_output, micro_batch(samples, chosen))
    loss.backward()
    return loss.detach(), leaf.grad, metrics


def test_switched_off_it_is_verls_loss_bit_for_bit():
    samples, chosen = rows(), range(4)
    model_output, leaf = output(samples, chosen)
    plain, _ = ppo_loss(actor_config(), model_output, micro_batch(samples, chosen))
    plain.backward()
    loss, gradient, _ = loss_and_gradient(samples, chosen, gamma=0.0, clip_range=0.0)
    assert torch.equal(loss, plain.detach())
    assert torch.equal(gradient, leaf.grad)


def test_gradient_is_advantage_times_the_oracles_weights():
    """d loss / d log p[t] = -A w[t] g[t] / number of tokens, with w and g from the loops of the paper; 0 under the
    mask."""
    samples = rows()
    _, gradient, _ = loss_and_gradient(samples, range(4))
    lists = {name: [row.double().tolist() for row in column] for name, column in samples.items()}
    mask = [[bool(m) for m in row] for row in samples["response_mask"]]
    gate = entropy_gate(lookahead_entropy(lists["teacher_entropy"], mask, window=2), SCALE, gamma=0.7, floor=0.1)
    rollout_advantages = [row[0] for row in lists["advantages"]]
    weight = ratio_weight(lists["old_log_probs"], lists["teacher_log_probs"], rollout_advantages, clip_range=0.2)
    num_tokens, start = sum(map(sum, mask)), 0
    for row, length in enumerate(RESPONSES):
        begin = start + PROMPTS[row] - 1
        expected = [
            -lists["advantages"][row][t] * weight[row][t] * gate[row][t] / num_tokens if mask[row][t] else 0.0
            for t in range(length)
        ]
        torch.testing.assert_close(gradient[begin : begin + length], torch.tensor(expected), atol=1e-6, rtol=0)
        start += PROMPTS[row] + length
    assert torch.count_nonzero(gradient) == num_tokens


@pytest.mark.parametrize("splits", [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[2, 0], [3, 1]]])
def test_loss_gradient_and_metrics_do_not_depend_on_the_split(splits):
    samples = rows()
    whole_loss, whole_gradient, whole_metrics = loss_and_gradient(samples, range(4))
    parts = [loss_and_gradient(samples, chosen) for chosen in splits]
    torch.testing.assert_close(sum(loss for loss, _, _ in parts), whole_loss, atol=1e-6, rtol=0)
    pieces = torch.split(whole_gradient, [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    for chosen, (_, gradient, _) in zip(splits, parts, strict=True):
        torch.testing.assert_close(gradient, torch.cat([pieces[i] for i in chosen]), atol=1e-6, rtol=0)

    def means(metrics: Sequence[dict]) -> dict[str, float]:
        names = [name for name in metrics[0] if name.startswith(SUM_PREFIX)]
        return token_means({name.removeprefix(SUM_PREFIX): sum(m[name].aggregate() for m in metrics) for name in names})

    assert means([metrics for _, _, metrics in parts]) == pytest.approx(means([whole_metrics]), abs=1e-6)


def test_weights_come_from_the_pass_that_is_trained_not_from_the_scored_one():
    """The teacher agrees with the current student everywhere, while old_log_probs say otherwise: every ratio weight
    is 1."""
    samples, chosen = rows(), range(4)
    samples["teacher_log_probs"] = [row + 0.05 for row in samples["old_log_probs"]]
    model_output, _ = output(samples, chosen, shift=0.05)
    _, metrics = egrsd_loss(actor_config(), settings(gamma=0.0), model_output, micro_batch(samples, chosen))
    tokens = metrics[SUM_PREFIX + "num_tokens"].aggregate()
    assert metrics[SUM_PREFIX + "ratio_weight_mean"].aggregate() == pytest.approx(tokens, abs=1e-5)


def test_without_scores_of_the_student_the_update_is_the_same():
    """One update a batch: exp(log p - log p) is 1 whether the second comes from a pass of its own or not."""
    samples, chosen = rows(), range(4)
    loss, gradient, _ = loss_and_gradient(samples, chosen)
    model_output, leaf = output(samples, chosen)
    del (batch := micro_batch(samples, chosen))["old_log_probs"]
    alone, _ = egrsd_loss(actor_config(), settings(), model_output, batch)
    alone.backward()
    assert torch.equal(alone.detach(), loss)
    assert torch.equal(leaf.grad, gradient)


def test_a_bf16_teacher_is_refused():
    samples = rows()
    samples["teacher_entropy"] = [row.bfloat16() for row in samples["teacher_entropy"]]
    with pytest.raises(TypeError, match=r"entropy is torch.bfloat16"):
        loss_and_gradient(samples, range(4))


BESIDE = {
    "gamma": 0.0,
    "window": 0,
    "clip_range": 0.0,
    "length_bonus": 0.0,
    "divergence": "forward_kl",
    "pull": PullConfig(**(EVERYWHERE | {"policy_gradient": True})),
}


def pulled(samples, chosen, *, dp_size=1, weight=None, **changes) -> tuple[Tensor, dict[str, Tensor], dict]:
    """Loss and gradients by log-prob and divergence, where nothing of the third response is pulled, and tokens of
    others not."""
    samples = dict(samples)
    samples["pull_weight"] = weight or [
        torch.tensor([0.1, 0.2, 0.0, 0.0]), torch.tensor([0.3]), torch.zeros(6), torch.tensor([0.05, 0.0, 0.4])
    ]  # fmt: skip
    model_output, leaf = output(samples, chosen)
    divergence = torch.cat([torch.linspace(-1, 2, PROMPTS[i] + RESPONSES[i]) for i in chosen]).requires_grad_()
    offsets = model_output["log_probs"].offsets()
    model_output["divergence"] = torch.nested.nested_tensor_from_jagged(divergence, offsets)
    batch = micro_batch(samples, chosen, dp_size=dp_size)
    loss, metrics = training_loss(actor_config(), settings(**(BESIDE | changes)), model_output, batch)
    loss.backward()
    return loss.detach(), {"log_probs": leaf.grad, "divergence": divergence.grad}, metrics


def test_a_divergence_adds_weight_times_itself_and_nothing_else():
    """d loss / d divergence is the token's weight; the policy gradient beside it is verl's to the bit."""
    samples, chosen = rows(), range(4)
    model_output, leaf = output(samples, chosen)
    plain, _ = ppo_loss(actor_config(), model_output, micro_batch(samples, chosen))
    plain.backward()
    loss, gradients, metrics = pulled(samples, chosen)
    assert torch.equal(gradients["log_probs"], leaf.grad)
    expected, start = torch.zeros_like(gradients["divergence"]), 0
    values = []
    for i, weights in enumerate(([0.1, 0.2, 0, 0], [0.3], [0] * 6, [0.05, 0, 0.4])):
        first = start + PROMPTS[i] - 1
        expected[first : first + len(weights)] = torch.tensor(weights)
        line = torch.linspace(-1, 2, PROMPTS[i] + RESPONSES[i])[PROMPTS[i] - 1 : -1]
        values += [(w, value) for w, value in zip(weights, line.tolist(), strict=True) if w]
        start += PROMPTS[i] + RESPONSES[i]
    torch.testing.assert_close(gradients["divergence"], expected, atol=1e-7, rtol=0)
    assert (loss - plain.detach()).item() == pytest.approx(sum(w * value for w, value in values), abs=1e-6)
    sums = {name.removeprefix(SUM_PREFIX): m.aggregate() for name, m in metrics.items() if name.startswith(SUM_PREFIX)}
    assert token_means(sums)["egrsd/divergence_mean"] == pytest.approx(
        sum(v for _, v in values) / len(values), abs=1e-6
    )
    _, twice, _ = pulled(samples, chosen, dp_size=2)
    torch.testing.assert_close(twice["divergence"], 2 * expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kappa", [None, 5.0])
@pytest.mark.parametrize("splits", [[[0], [1], [2], [3]], [[2, 0], [3, 1]]])
def test_a_pull_does_not_depend_on_the_split(splits, kappa):
    samples, pull = rows(), PullConfig(**(EVERYWHERE | {"policy_gradient": True, "propagation": kappa}))
    whole, gradients, _ = pulled(samples, range(4), pull=pull)
    parts = [pulled(samples, chosen, pull=pull) for chosen in splits]
    torch.testing.assert_close(sum(loss for loss, _, _ in parts), whole, atol=1e-6, rtol=0)
    pieces = torch.split(gradients["divergence"], [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    for chosen, (_, found, _) in zip(splits, parts, strict=True):
        torch.testing.assert_close(found["divergence"], torch.cat([pieces[i] for i in chosen]), atol=1e-6, rtol=0)


def test_propagation_multiplies_the_weights_of_pulled_tokens():
    """Of each response by itself, over the tokens between them that are not pulled; nothing flows through it."""
    kappa, weights = 5.0, ([0.1, 0.2, 0, 0], [0.3], [0] * 6, [0.05, 0, 0.4])
    pull = PullConfig(**(EVERYWHERE | {"policy_gradient": True, "propagation": kappa}))
    loss, gradients, metrics = pulled(rows(), range(4), pull=pull)
    plain, _, _ = pulled(rows(), range(4), weight=[torch.zeros(length) for length in RESPONSES])
    start, total, factors = 0, 0.0, []
    for i, row in enumerate(weights):
        line = torch.linspace(-1, 2, PROMPTS[i] + RESPONSES[i])[PROMPTS[i] - 1 : -1].tolist()
        chosen = [t for t, w in enumerate(row) if w]
        mean, handed, expected = sum(line[t] for t in chosen) / max(1, len(chosen)), 0.0, [0.0] * len(row)
        for t in chosen:
            factor = 1 + handed
            handed = factor / (1 + math.exp(kappa * (line[t] - mean)))
            factors.append(factor)
            expected[t] = row[t] * factor
            total += expected[t] * line[t]
        first = start + PROMPTS[i] - 1
        found = gradients["divergence"][first : first + len(row)].tolist()
        assert found == pytest.approx(expected, abs=1e-6)
        start += PROMPTS[i] + RESPONSES[i]
    assert (loss - plain).item() == pytest.approx(total, abs=1e-6) and max(factors) > 1.5
    sums = {name.removeprefix(SUM_PREFIX): m.aggregate() for name, m in metrics.items() if name.startswith(SUM_PREFIX)}
    assert token_means(sums)["egrsd/propagation_mean"] == pytest.approx(sum(factors) / len(factors), abs=1e-6)


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_without_anything_to_pull_it_is_verls_loss_bit_for_bit(coefficient):
    """A coefficient of 0, and a batch of which nothing is pulled: no divergence in the model's output."""
    samples, chosen = rows(), range(4)
    model_output, leaf = output(samples, chosen)
    plain, _ = ppo_loss(actor_config(), model_output, micro_batch(samples, chosen))
    plain.backward()
    if coefficient:
        samples["pull_weight"] = [torch.zeros(length) for length in RESPONSES]
    changes = BESIDE | {"pull": PullConfig(**(EVERYWHERE | {"policy_gradient": True, "coefficient": coefficient}))}
    other, again = output(samples, chosen)
    loss, _ = training_loss(actor_config(), settings(**changes), other, micro_batch(samples, chosen))
    loss.backward()
    assert torch.equal(loss.detach(), plain.detach()) and torch.equal(again.grad, leaf.grad)


@pytest.mark.parametrize("beside", [True, False])
def test_a_divergence_that_is_due_and_missing_stops_the_run(beside):
    """Or SSOPD would go on as plain GRPO, and OPSD would train on nothing, without a word."""
    samples, chosen = rows(), range(4)
    samples["pull_weight"] = [torch.full((length,), 0.1) for length in RESPONSES]
    model_output, _ = output(samples, chosen)
    changes = BESIDE | {"pull": PullConfig(**(EVERYWHERE | {"policy_gradient": beside}))}
    with pytest.raises(RuntimeError, match=r"14 tokens are to be pulled, and the engine returned no divergence"):
        training_loss(actor_config(), settings(**changes), model_output, micro_batch(samples, chosen))


def test_a_divergence_alone_with_nothing_to_pull_moves_nothing():
    samples, chosen = rows(), range(4)
    samples["pull_weight"] = [torch.zeros(length) for length in RESPONSES]
    model_output, leaf = output(samples, chosen)
    changes = BESIDE | {"pull": PullConfig(**EVERYWHERE)}
    loss, _ = training_loss(actor_config(), settings(**changes), model_output, micro_batch(samples, chosen))
    loss.backward()
    assert loss.item() == 0 and not leaf.grad.any()
