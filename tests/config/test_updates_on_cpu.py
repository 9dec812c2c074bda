"""When verl's old_log_prob pass must run, and in how many parts a batch is trained on."""

import pytest
from composing import composed

from recipe.egrsd.config import derived

OWN = "algorithm.egrsd.advantage=grpo"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], ""),
        (["algorithm.egrsd.score_student=always"], "algorithm.egrsd.score_student=always"),
        (["actor_rollout_ref.actor.ppo_epochs=2"], "a batch makes 2 updates"),
        (["data.train_batch_size=64"], "a batch makes 2 updates"),
        (["data.train_batch_size=64", "actor_rollout_ref.actor.ppo_epochs=3"], "a batch makes 6 updates"),
        ([OWN, "algorithm.use_kl_in_reward=true"], "algorithm.use_kl_in_reward=true"),
        (["algorithm.rollout_correction.rollout_is=token"], "algorithm.rollout_correction is on"),
        (["algorithm.rollout_correction.rollout_rs=token_k1"], "algorithm.rollout_correction is on"),
    ],
)
def test_the_student_is_scored_before_the_update_where_the_update_cannot_do_it(overrides, reason):
    config = composed("data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32", *overrides)
    assert derived.student_scores_needed(config) == reason


@pytest.mark.parametrize(("rows", "updates"), [(4, 1), (8, 2), (9, 3)])
def test_rows_fill_mini_batches_of_prompts_with_their_rollouts(rows, updates):
    """A mini-batch of 2 prompts with 2 rollouts has 4 rows; verl fills the last one up."""
    config = composed(
        "data.train_batch_size=2", "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.rollout.n=2"
    )
    assert derived.mini_batches(config, rows) == updates
    assert derived.student_scores_needed(config, rows) == (f"a batch makes {updates} updates" if updates > 1 else "")
