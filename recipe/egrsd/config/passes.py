"""Do the rows fit into the passes that read them? Packs by tokens, micro-batches of a fixed number of rows, and the
lengths that vLLM is told: checks across keys, with the limits of the update, of student scores and of teacher scores.
"""

import re
from typing import Any

from recipe.egrsd.config.derived import scoring_engine, sequence_parallel_ranks, student_scores_needed
from recipe.egrsd.config.schema import EgrsdConfig

PARTS = "actor_rollout_ref"


def check(config: Any, egrsd: EgrsdConfig) -> None:
    """ValueError for the first limit that a run could exceed, hours later; the student's limits come first, because
    verl lets those of the scoring passes follow them."""
    _check_lengths(config)
    _check_ways(config)
    _check_student_rows(config)
    _check_micro_batches(config)
    _check_teacher_rows(config, egrsd)


def _check_lengths(config: Any) -> None:
    """verl's agent loops cut at rollout's lengths, while rewards, limits and teacher's prompts go by data's."""
    for length in ("prompt_length", "response_length"):
        given, meant = config.actor_rollout_ref.rollout[length], config.data[f"max_{length}"]
        if given != meant:
            raise ValueError(
                f"{PARTS}.rollout.{length}={given} is not data.max_{length}={meant}, by which rewards and limits go; "
                "drop the first, which follows the second."
            )


def _check_ways(config: Any) -> None:
    """verl asserts that the actor's two passes form micro-batches alike (engine_workers.py:616)."""
    update, scores = config.actor_rollout_ref.actor.use_dynamic_bsz, config.actor_rollout_ref.rollout
    if update != scores.log_prob_use_dynamic_bsz:
        raise ValueError(
            f"{PARTS}.rollout.log_prob_use_dynamic_bsz={str(scores.log_prob_use_dynamic_bsz).lower()} is not "
            f"{PARTS}.actor.use_dynamic_bsz={str(update).lower()}, which verl does not allow; drop the first, which "
            "follows the second."
        )


def _check_student_rows(config: Any) -> None:
    """verl asserts in the first step with a row that is longer than a pack (seqlen_balancing.py:384)."""
    actor, rollout, data = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, config.data
    ranks, longest = sequence_parallel_ranks(actor), data.max_prompt_length + data.max_response_length
    limits = {f"{PARTS}.actor.ppo_max_token_len_per_gpu": actor.ppo_max_token_len_per_gpu}
    if student_scores_needed(config):
        limits[f"{PARTS}.rollout.log_prob_max_token_len_per_gpu"] = rollout.log_prob_max_token_len_per_gpu
    for key, limit in limits.items() if actor.use_dynamic_bsz else ():
        if limit * ranks < longest:
            raise ValueError(
                f"{key}={limit} (x {ranks} sequence-parallel ranks) cannot hold one student row of up to {longest} "
                f"tokens (data.max_prompt_length={data.max_prompt_length} + data.max_response_length="
                f"{data.max_response_length}); raise it to {-(-longest // ranks)} or more."
            )


def _check_micro_batches(config: Any) -> None:
    """verl asserts that a rank's rows are whole micro-batches (engine/utils.py:125)."""
    actor, rollout, trainer = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, config.trainer
    if actor.use_dynamic_bsz:
        return
    ranks = max(1, trainer.n_gpus_per_node * trainer.nnodes // sequence_parallel_ranks(actor))
    mini, batch = (size * rollout.n // ranks for size in (actor.ppo_mini_batch_size, config.data.train_batch_size))
    sizes = {
        f"{PARTS}.actor.ppo_micro_batch_size_per_gpu": (actor.ppo_micro_batch_size_per_gpu, mini, "a mini-batch"),
        f"{PARTS}.rollout.log_prob_micro_batch_size_per_gpu": (
            rollout.log_prob_micro_batch_size_per_gpu, batch if student_scores_needed(config) else None, "a batch",
        ),
    }  # fmt: skip
    for key, (size, rows, whole) in sizes.items():
        _require_size(key, size)
        if rows is not None and rows % size:
            fitting = next(number for number in range(min(size, rows), 0, -1) if rows % number == 0)
            raise ValueError(
                f"{key}={size} does not divide the {rows} rows of {whole} that each of {ranks} data-parallel ranks "
                f"has; set it to {fitting}."
            )


def _check_teacher_rows(config: Any, egrsd: EgrsdConfig) -> None:
    """The micro-batch limit of the scoring engine must hold one teacher row, which is longer than any student row."""
    prefix, engine, ranks = scoring_engine(config)
    if not engine.log_prob_use_dynamic_bsz:
        _require_size(f"{prefix}_micro_batch_size_per_gpu", engine.log_prob_micro_batch_size_per_gpu)
        return
    longest = egrsd.teacher.max_prompt_length + config.data.max_response_length
    limit = engine.log_prob_max_token_len_per_gpu
    if limit * ranks < longest:
        raise ValueError(
            f"{prefix}_max_token_len_per_gpu={limit} (x {ranks} sequence-parallel ranks) cannot hold one teacher row "
            f"of up to {longest} tokens (algorithm.egrsd.teacher.max_prompt_length={egrsd.teacher.max_prompt_length} + "
            f"data.max_response_length={config.data.max_response_length}); raise the first or lower the second."
        )


def _require_size(key: str, size: int | None) -> None:
    """verl's engines read this key alone; the older one without _per_gpu passes its checks and fails in the first pass
    (engine_workers.py:582)."""
    if size is None:
        dynamic = re.sub("(ppo_)?micro_batch_size_per_gpu$", "use_dynamic_bsz", key)
        raise ValueError(f"{key} is not set, and with {dynamic}=false the rows are read in such batches; set it.")
