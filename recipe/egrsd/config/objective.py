"""What the loss is made of, and what verl would keep beside it unread: rewards and their models, critics, corrections
for the rollout, the mean over tokens."""

from typing import Any

from recipe.egrsd.config.methods import OUR_REWARD
from recipe.egrsd.config.schema import EgrsdConfig


def check(config: Any, egrsd: EgrsdConfig) -> None:
    """ValueError for the first setting that the loss would not read, or would read as something else."""
    _check_critic(config)
    _check_reward_model(config.reward)
    _check_correction(config, egrsd)
    actor = config.actor_rollout_ref.actor
    if egrsd.rewards_count and actor.loss_agg_mode == "seq-mean-token-sum-norm" and not actor.loss_scale_factor:
        raise ValueError(  # core_algos.py:1190
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm divides each micro-batch by its longest "
            "response where actor_rollout_ref.actor.loss_scale_factor is null, so that the update would depend on the "
            f"packing; set that factor, to data.max_response_length={config.data.max_response_length} for instance."
        )


def _check_critic(config: Any) -> None:
    if config.critic.enable:
        raise ValueError(
            "critic.enable=true trains a critic whose values no advantage of EGRSD reads; drop that override."
        )


def _check_reward_model(reward: Any) -> None:
    """verl asks a reward function alone where there is one (reward_loop.py:146), and hands it a colocated model's rows,
    which hold prompt and response and no more (trainer_base.py:1534)."""
    model, path = reward.reward_model, reward.custom_reward_function.path
    if model.enable and path == OUR_REWARD:
        raise ValueError(
            f"reward.reward_model.enable=true loads a model that reward.custom_reward_function.path={path} never asks; "
            "set it to false, or the path to null for the model's own scores, or to a function of your own that asks "
            "it."
        )
    if model.enable and path and not model.enable_resource_pool and reward.reward_manager.source == "register":
        raise ValueError(
            "reward.reward_model.enable=true without enable_resource_pool has rows scored without their data_source "
            f"and ground truth, with which reward.custom_reward_function.path={path} is called; set "
            "reward.reward_model.enable_resource_pool=true."
        )


def _check_correction(config: Any, egrsd: EgrsdConfig) -> None:
    """verl's correction weighs the policy gradient, and takes rejected tokens out of its mask, after a step's pull was
    decided (teaching.py); a divergence reads neither."""
    correction, rollout = config.algorithm.get("rollout_correction") or {}, config.actor_rollout_ref.rollout
    for name in [name for name in ("rollout_is", "rollout_rs") if correction.get(name)]:
        key = f"algorithm.rollout_correction.{name}={correction[name]}"
        if not egrsd.rewards_count or (egrsd.pulls and name == "rollout_rs"):
            raise ValueError(
                f"{key} corrects the policy gradient, and algorithm.egrsd.divergence={egrsd.divergence} would pull all "
                "the same; set it to null."
            )
        if not rollout.calculate_log_probs:  # trainer_base.py:1768
            raise ValueError(
                f"{key} does nothing without the rollout's log-probs; set "
                "actor_rollout_ref.rollout.calculate_log_probs=true."
            )
