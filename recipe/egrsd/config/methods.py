"""Checks across keys of what single methods need: a group and room for a peer, answers, words at the start of a turn,
a reward function that gives feedback, a whole vocabulary for a divergence."""

from typing import Any

from recipe.egrsd.config.derived import sequence_parallel_ranks
from recipe.egrsd.config.schema import EgrsdConfig

OUR_REWARD = "pkg://recipe.egrsd.reward"  # egrsd.yaml's own value


def check_peers(config: Any, egrsd: EgrsdConfig) -> None:
    """A group to find peers in, and room for a response in the teacher's prompt."""
    key = f"algorithm.egrsd.privilege={egrsd.privilege}"
    if config.actor_rollout_ref.rollout.n < 2:
        raise ValueError(
            f"{key} shows the teacher another response to the same problem, and actor_rollout_ref.rollout.n="
            f"{config.actor_rollout_ref.rollout.n} samples one; set rollout.n to 2 or more."
        )
    if egrsd.privilege == "peer_contrast" and config.actor_rollout_ref.rollout.n < 3:
        raise ValueError(
            f"{key} shows the teacher of a response two others, a right and a wrong one, and actor_rollout_ref.rollout."
            f"n={config.actor_rollout_ref.rollout.n} leaves it one; set rollout.n to 3 or more."
        )
    data, limit = config.data, egrsd.teacher.max_prompt_length
    longest = data.max_prompt_length + data.max_response_length
    if limit < longest:
        raise ValueError(
            f"algorithm.egrsd.teacher.max_prompt_length={limit} cannot hold a problem and a response of up to "
            f"{longest} tokens (data.max_prompt_length={data.max_prompt_length} + data.max_response_length="
            f"{data.max_response_length}), which {key} puts into the teacher's prompt; raise it."
        )


def check_answers(config: Any, egrsd: EgrsdConfig) -> None:
    """A group in which a right response finds a wrong answer."""
    n = config.actor_rollout_ref.rollout.n
    if n < 2:
        raise ValueError(
            f"algorithm.egrsd.privilege={egrsd.privilege} holds a right response against the wrong answers of its "
            f"group, and actor_rollout_ref.rollout.n={n} samples one; set rollout.n to 2 or more."
        )


def check_prefix(config: Any, egrsd: EgrsdConfig) -> None:
    """Words at the start of the assistant's turn stand inside its thoughts, which a switch set to false has closed."""
    switches = {
        "data.apply_chat_template_kwargs.enable_thinking": config.data.apply_chat_template_kwargs.get(
            "enable_thinking"
        ),
        "algorithm.egrsd.teacher.enable_thinking": egrsd.teacher.enable_thinking,
    }
    for key, value in switches.items():
        if value is False and egrsd.assistant_prefix is not None:
            raise ValueError(
                f"{key}=false closes the thoughts that algorithm.egrsd.assistant_prefix={egrsd.assistant_prefix!r} is "
                "to begin; set it to true, or drop the words."
            )


def check_feedback(config: Any, egrsd: EgrsdConfig) -> None:
    """A reward function of the user's own, called where its feedback is kept: beside the rollout."""
    key, reward = f"algorithm.egrsd.privilege={egrsd.privilege}", config.reward
    path = reward.custom_reward_function.path
    if path in (None, OUR_REWARD):
        raise ValueError(
            f"{key} shows the teacher what the reward function says of a response, and "
            f"reward.custom_reward_function.path={path} says nothing; name a function of your own that returns "
            "{'score': ..., 'feedback': text} (docs/modes.md)."
        )
    if reward.reward_model.enable and not reward.reward_model.enable_resource_pool:
        raise ValueError(
            f"reward.reward_model.enable=true without enable_resource_pool scores a batch when all of it is there, and "
            f"verl then keeps no feedback, which {key} shows; set reward.reward_model.enable_resource_pool=true."
        )


def check_divergence(config: Any, egrsd: EgrsdConfig) -> None:
    """A divergence needs all logits of a token in one place, and, without a policy gradient, is the whole loss."""
    n = config.actor_rollout_ref.rollout.n
    _check_frontier(egrsd, n)
    _check_fading(config.trainer, egrsd)
    actor, ref = config.actor_rollout_ref.actor, config.actor_rollout_ref.ref
    required = [
        (f"actor_rollout_ref.{name}.ulysses_sequence_parallel_size", sequence_parallel_ranks(part), 1, "splits rows")
        for name, part in (("actor", actor), ("ref", ref))
    ]
    # A token's second score is the divergence, so that its entropy is not computed (engine/fsdp.py).
    entropy = "asks for an entropy beside the divergence, which is not computed"
    required += [
        ("actor_rollout_ref.actor.entropy_coeff", actor.entropy_coeff, 0, entropy),
        ("actor_rollout_ref.actor.calculate_entropy", actor.calculate_entropy, False, entropy),
    ]
    if not egrsd.rewards_count:
        reward_kl = config.algorithm.use_kl_in_reward
        required += [
            ("actor_rollout_ref.actor.use_kl_loss", actor.use_kl_loss, False, "adds a term to the loss"),
            ("algorithm.use_kl_in_reward", reward_kl, False, "changes rewards, which are not used"),
            ("actor_rollout_ref.actor.loss_agg_mode", actor.loss_agg_mode, "token-mean", "averages a policy gradient"),
        ]
    for key, value, good, reason in required:
        if value != good:
            raise ValueError(
                f"{key}={value} {reason}, which algorithm.egrsd.divergence={egrsd.divergence} does not allow; set it "
                f"to {str(good).lower()} (algorithm.egrsd.pull.weighting says how a divergence is averaged)."
            )


def _check_frontier(egrsd: EgrsdConfig, n: int) -> None:
    """A group that can be mixed, beside the response that is pulled and the one that its teacher is shown."""
    if egrsd.pull.weighting != "frontier":
        return
    if n < 2:
        raise ValueError(
            "algorithm.egrsd.pull.weighting=frontier weighs a problem by its right and its wrong responses, and "
            f"actor_rollout_ref.rollout.n={n} samples one, so that every weight is 0; set rollout.n to 2 or more."
        )
    kind = {"peer_correct": "correct", "peer_wrong": "wrong"}.get(egrsd.privilege)
    if kind and egrsd.pull.rows.endswith(kind) and n < 3:
        raise ValueError(
            f"algorithm.egrsd.pull.rows={egrsd.pull.rows} and algorithm.egrsd.privilege={egrsd.privilege} take two of "
            f"a kind, so that with actor_rollout_ref.rollout.n={n} no problem is mixed and every weight of "
            "algorithm.egrsd.pull.weighting=frontier is 0; set rollout.n to 3 or more."
        )


def _check_fading(trainer: Any, egrsd: EgrsdConfig) -> None:
    """A divergence that is the whole loss lasts as long as the run."""
    pull, steps = egrsd.pull, trainer.total_training_steps
    if pull.policy_gradient or pull.decay_steps is None:
        return
    last = (pull.warmup_steps or 0) + pull.decay_steps
    if steps is None or steps > last:
        raise ValueError(
            f"algorithm.egrsd.pull.decay_steps={pull.decay_steps} leaves no loss after step {last} with "
            f"algorithm.egrsd.pull.policy_gradient=false; set trainer.total_training_steps to {last} or less (it is "
            f"{'null' if steps is None else steps}), or the latter to true."
        )
