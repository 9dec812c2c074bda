"""What follows from several keys of a whole verl config: which passes a run makes, on which engine, in which limits."""

from math import ceil
from typing import Any


def mini_batches(config: Any, rows: int | None = None) -> int:
    """Into how many parts verl splits a batch, each of which makes an update in every epoch.

    Args:
        rows: of the batch, which verl fills up to whole mini-batches (trainer_base.py:1589); None: one for each
            rollout.
    """
    mini, rollouts = config.actor_rollout_ref.actor.ppo_mini_batch_size, config.actor_rollout_ref.rollout.n
    return ceil((config.data.train_batch_size * rollouts if rows is None else rows) / (mini * rollouts))


def student_scores_needed(config: Any, rows: int | None = None) -> str:
    """Why verl's old_log_prob pass must run; empty if one update a batch makes it the training pass over again.

    Args:
        rows: as of ``mini_batches``.
    """
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    correction = algorithm.get("rollout_correction") or {}
    updates = mini_batches(config, rows) * actor.ppo_epochs
    reasons = {
        "algorithm.egrsd.score_student=always": algorithm.egrsd.score_student == "always",
        f"a batch makes {updates} updates": updates > 1,
        "algorithm.use_kl_in_reward=true": algorithm.use_kl_in_reward,
        "algorithm.rollout_correction is on": correction.get("rollout_is") or correction.get("rollout_rs"),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def scoring_engine(config: Any) -> tuple[str, Any, int]:
    """The engine that scores teacher rows: key of its limits, the node they stand in, its sequence-parallel ranks."""
    parts, reference = config.actor_rollout_ref, uses_reference(config)
    key = "ref" if reference else "rollout"
    ranks = sequence_parallel_ranks(parts["ref" if reference else "actor"])
    return f"actor_rollout_ref.{key}.log_prob", parts[key], ranks


def sequence_parallel_ranks(part: Any) -> int:
    """Ranks that share a row of ``actor_rollout_ref.actor`` or ``ref``; verl reads two keys, the first that is set."""
    ranks = part.get("ulysses_sequence_parallel_size", 1)
    return ranks if ranks > 1 else part.fsdp_config.ulysses_sequence_parallel_size


def scoring_limits(config: Any) -> dict[str, Any]:
    """Tokens of a scoring micro-batch in which the responses of a group share their prompt, 0 if they cannot; rows of
    one, where their number is fixed."""
    _, engine, ranks = scoring_engine(config)
    if engine.log_prob_use_dynamic_bsz:
        return {"max_shared_tokens": engine.log_prob_max_token_len_per_gpu * (ranks == 1), "rows_of_micro_batch": 1}
    return {"max_shared_tokens": 0, "rows_of_micro_batch": engine.log_prob_micro_batch_size_per_gpu}


def uses_reference(config: Any) -> bool:
    """True if the teacher is verl's reference model: a full-parameter run whose teacher is not the student itself."""
    return not uses_lora(config) and config.algorithm.egrsd.teacher.kind != "live"


def uses_lora(config: Any) -> bool:
    """True if the actor trains an adapter, by FSDP's one switch (transformer_impl.py:162): the frozen teacher is then
    the actor with it off (trainer_base.py:234)."""
    return config.actor_rollout_ref.model.lora_rank > 0


def sends_adapter(config: Any) -> bool:
    """True if vLLM reads the base itself and is sent the adapter alone, so that an adapter is not merged for it."""
    return uses_lora(config) and not (config.actor_rollout_ref.model.get("lora") or {}).get("merge", False)
