"""Means of a step from the sums of its micro-batches: what each is divided by."""

import pytest
import torch
from micro_batches import RESPONSES, actor_config, micro_batch, output, rows, settings

from recipe.egrsd.loss import ROLLOUT_DISTANCE_MAX, SUM_PREFIX, egrsd_loss
from recipe.egrsd.watch.sums import token_means


def test_each_sum_has_its_own_count():
    counts = {"num_tokens": 16.0, "num_taught_tokens": 13.0, "num_pulled_tokens": 5.0, "num_responses": 2.0}
    sums = {
        "student_surprise_mean": 8.0, "rollout_probs_diff_mean": 4.0, "log_ratio_mean": 26.0, "gate_mean": 6.5,
        "first_token_log_ratio": 3.0, "divergence_mean": 10.0, "propagation_mean": 7.5, "clipped_tokens_frac": 2.0,
        "clipped_entries_frac": 1.0, "clip_removed": 3.0, "positive_shares": 4.0,
    }  # fmt: skip
    expected = {
        "student_surprise_mean": 8 / 16, "rollout_probs_diff_mean": 4 / 16, "log_ratio_mean": 26 / 13,
        "gate_mean": 6.5 / 13, "first_token_log_ratio": 3 / 2, "divergence_mean": 10 / 5, "propagation_mean": 7.5 / 5,
        "clipped_tokens_frac": 2 / 5, "clipped_entries_frac": 1 / 5, "clip_removed": 3 / 4,
    }  # fmt: skip
    assert token_means(counts | sums) == {f"egrsd/{name}": pytest.approx(value) for name, value in expected.items()}


def test_a_mean_over_nothing_is_left_out():
    sums = {"num_tokens": 4.0, "student_surprise_mean": 2.0, "num_taught_tokens": 0.0, "gate_mean": 0.0}
    assert token_means(sums) == {"egrsd/student_surprise_mean": 0.5}


def test_the_rollouts_distance_is_that_of_probabilities_of_sampled_tokens():
    """The student gives every token .5. vLLM gave one .4 and, under a hole of the mask, another .9: the largest
    distance is .1, the mean .1 over 13 sampled tokens."""
    samples = rows()
    samples["old_log_probs"] = [torch.full((length,), 0.5).log() for length in RESPONSES]
    samples["rollout_log_probs"] = [row.clone() for row in samples["old_log_probs"]]
    samples["rollout_log_probs"][0][1] = torch.tensor(0.4).log()
    samples["rollout_log_probs"][2][2] = torch.tensor(0.9).log()
    _, metrics = egrsd_loss(actor_config(), settings(), output(samples, range(4))[0], micro_batch(samples, range(4)))
    assert metrics[ROLLOUT_DISTANCE_MAX].aggregate() == pytest.approx(0.1, abs=1e-6)
    sums = {name.removeprefix(SUM_PREFIX): m.aggregate() for name, m in metrics.items() if name.startswith(SUM_PREFIX)}
    assert token_means(sums)["egrsd/rollout_probs_diff_mean"] == pytest.approx(0.1 / 13, abs=1e-6)
