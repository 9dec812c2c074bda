"""What a step's teachers are shown, which responses they score and which tokens they pull: decided once for the whole
batch, on the driver.

B  rows of the batch, padding samples included
"""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor
from torch.nn.functional import pad
from transfer_queue import KVBatchMeta

from recipe.egrsd import batches
from recipe.egrsd.config.schema import FEEDBACK_PRIVILEGES, PEER_PRIVILEGES, EgrsdConfig
from recipe.egrsd.method.pull import pull_weights, pulled_rows
from recipe.egrsd.privilege import feedback
from recipe.egrsd.privilege.peers import chosen_peers, shown_ids, spliced
from recipe.egrsd.privilege.rows import rollout_of, teacher_prompts
from recipe.egrsd.teacher.kinds import Teacher
from recipe.egrsd.teacher.scoring import nested
from recipe.egrsd.token_weight import of_batch
from recipe.egrsd.watch.metrics import teacher_metrics


def score(
    batch: KVBatchMeta, teacher: Teacher, egrsd: EgrsdConfig, config: DictConfig, *, step: int, tokenizer: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """Writes ``teacher_log_probs`` and ``teacher_entropy``, (B, jagged) float32, ``teacher_mask``, the tokens that have
    a teacher, (B, jagged) int64, and, for a divergence, ``pull_weight`` (loss.py) and ``teacher_hidden``. Returns what
    a token weight is told of the batch, and metrics."""
    data = batches.read(batch, "prompts", "teacher_prompt_ids", "responses", "response_mask", "rm_scores")
    shown, metrics = _shown(batch, data, egrsd, seed=f"{config.data.seed} {step}", tokenizer=tokenizer)
    responses, masks = list(data["responses"].unbind()), list(data["response_mask"].unbind())
    lengths, pulled = [*map(len, responses)], [0] * len(responses)
    if egrsd.pulls:
        weights, of_pull = _pulled(
            batch, data, egrsd, config, step=step, has_teacher=[ids is not None for ids in shown]
        )
        batches.write(batch, pull_weight=nested(weights))
        metrics |= of_pull
        pulled = [int(weight.nonzero().max()) + 1 if weight.any() else 0 for weight in weights]  # positions
    if egrsd.divergence and not egrsd.weighs:  # what is not pulled needs no teacher
        shown = [ids if count else None for ids, count in zip(shown, pulled, strict=True)]
        responses, masks = ([row[: n or 1] for row, n in zip(rows, pulled, strict=True)] for rows in (responses, masks))
    scores = teacher.score(
        shown,
        nested(responses),
        nested(masks),
        temperature=config.actor_rollout_ref.rollout.temperature,
        divergence=egrsd.divergence_knobs if egrsd.pulls else None,
        names=batch.keys,
    )
    masks = [mask * (ids is not None) for mask, ids in zip(masks, shown, strict=True)]
    columns = {"teacher_log_probs": scores.log_probs.unbind(), "teacher_entropy": scores.entropy.unbind()}
    columns = {name: _stretched(rows, lengths) for name, rows in (columns | {"teacher_mask": masks}).items()}
    if scores.hidden is not None:
        hidden = scores.hidden.unbind()
        columns["teacher_hidden"] = nested(
            [row[: len(row) // len(r) * n] for row, r, n in zip(hidden, responses, pulled, strict=True)]
        )
    batches.write(batch, **columns)
    entropy, taught = (columns[name].to_padded_tensor(0) for name in ("teacher_entropy", "teacher_mask"))
    told = of_batch(egrsd, entropy, taught.bool())
    prompt_lengths = torch.tensor([len(ids) for ids in shown if ids is not None])
    return told, metrics | teacher_metrics(entropy, taught.bool(), told["entropy_scale"], prompt_lengths)


def _stretched(rows: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """(B, jagged) of these lengths, 0 behind the end of a row."""
    return nested([pad(row, (0, length - len(row))) for row, length in zip(rows, lengths, strict=True)])


def _pulled(
    batch: KVBatchMeta, data: TensorDict, egrsd: EgrsdConfig, config: DictConfig, *, step: int, has_teacher: list[bool]
) -> tuple[list[Tensor], dict[str, float]]:
    """(T,) float32 for each row, a token's weight in the loss; and metrics. All 0 if the step's coefficient is."""
    pull, actor = egrsd.pull, config.actor_rollout_ref.actor
    groups, numbers = zip(*(rollout_of(key)[:2] for key in batch.keys), strict=True)
    masks = [row * real for row, real in zip(data["response_mask"].unbind(), batches.is_real(batch), strict=True)]
    correct = (data["rm_scores"].to_padded_tensor(0.0).sum(-1) > 0).tolist()
    coefficient = pull.coefficient_at(step)
    has_teacher = [has and coefficient > 0 and bool(mask.any()) for has, mask in zip(has_teacher, masks, strict=True)]
    rows = pulled_rows(groups, numbers, correct, [*map(len, masks)], has_teacher, rows=pull.rows)
    weights = pull_weights(masks, groups, correct, rows, tokens=pull.tokens, weighting=pull.weighting)
    # Each of several updates trains on a part of the batch alone.
    updates = config.data.train_batch_size // actor.ppo_mini_batch_size
    weights = [weight * (coefficient * updates) for weight in weights]
    tokens = sum(int(mask.count_nonzero()) for mask in masks)
    return weights, {
        "egrsd/pulled_responses_frac": len(rows) / max(1, sum(bool(mask.any()) for mask in masks)),
        "egrsd/pulled_tokens_frac": sum(int(weight.count_nonzero()) for weight in weights) / max(1, tokens),
        "egrsd/pull_weight_sum": sum(float(weight.sum()) for weight in weights) / updates,
    }


def _shown(
    batch: KVBatchMeta, data: TensorDict, egrsd: EgrsdConfig, *, seed: str, tokenizer: Any
) -> tuple[list[list[int] | None], dict[str, float]]:
    """For each row the prompt of its teacher, None for none; and metrics. Padding samples have no teacher."""
    real, problems = batches.is_real(batch), [ids.tolist() for ids in data["prompts"].unbind()]
    prompts = teacher_prompts(batch.keys, data["prompts"].unbind(), list(data["teacher_prompt_ids"]))
    prompts = [ids if counts else None for ids, counts in zip(prompts, real, strict=True)]
    if egrsd.privilege in FEEDBACK_PRIVILEGES:
        fillings, metrics = _told(batch, problems, prompts, egrsd, seed=seed, tokenizer=tokenizer)
    elif egrsd.privilege in PEER_PRIVILEGES:
        fillings, metrics = _peers(batch, data, problems, egrsd, seed=seed, tokenizer=tokenizer), {}
    else:
        return prompts, {}
    shown = [
        None if frame is None or ids is None else spliced(frame, ids)
        for frame, ids in zip(prompts, fillings, strict=True)
    ]
    batches.write_lists(batch, teacher_prompt_ids=[ids or [] for ids in shown])  # what was shown, for whoever looks on
    alone = sum(not ids for ids, counts in zip(fillings, real, strict=True) if counts)
    name = "no_feedback_frac" if egrsd.privilege in FEEDBACK_PRIVILEGES else "no_peer_frac"
    return shown, metrics | {f"egrsd/{name}": alone / sum(real)}


def _peers(
    batch: KVBatchMeta, data: TensorDict, problems: list[list[int]], egrsd: EgrsdConfig, *, seed: str, tokenizer: Any
) -> list[list[int] | None]:
    """For each row the response that its teacher is shown; without one None, or no token beside the answer."""
    control = set(tokenizer.all_special_ids)
    responses = [shown_ids(ids.tolist(), control_ids=control) for ids in data["responses"].unbind()]
    responses = [ids if counts else None for ids, counts in zip(responses, batches.is_real(batch), strict=True)]
    correct = (data["rm_scores"].to_padded_tensor(0.0).sum(-1) > 0).tolist()
    knobs = {"wanted": egrsd.privilege != "peer_wrong", "rule": egrsd.teacher.peer, "seed": seed}
    peers = chosen_peers(batch.keys, problems, correct, responses, **knobs)
    nobody: list[int] | None = [] if egrsd.privilege == "answer_and_peer" else None
    return [nobody if peer is None else responses[peer] for peer in peers]


def _told(
    batch: KVBatchMeta,
    problems: list[list[int]],
    frames: list[list[int] | None],
    egrsd: EgrsdConfig,
    *,
    seed: str,
    tokenizer: Any,
) -> tuple[list[list[int] | None], dict[str, float]]:
    """For each row the feedback that its teacher is told; and metrics. What cannot be shown is named in the log."""
    real = batches.is_real(batch)
    column = batches.read(batch, "extra_fields")["extra_fields"]
    said = feedback.said_of(batch.keys, [getattr(row, "data", row) for row in column])  # as verl (replay_buffer.py:297)
    said = [text if counts else "" for text, counts in zip(said, real, strict=True)]
    said, forged = feedback.without_forged(batch.keys, said, tokenizer)
    shuffled = egrsd.privilege == "feedback_shuffled"
    of = feedback.sources(batch.keys, problems, said, shuffled=shuffled, seed=seed)
    told, lengths = ["" if row is None else said[row] for row in of], [len(frame or []) - 1 for frame in frames]
    limit = egrsd.teacher.max_prompt_length
    found, too_long = feedback.told_ids(batch.keys, told, tokenizer, lengths=lengths, max_length=limit)
    if refused := forged + too_long:
        print(f"EGRSD shows no teacher the feedback of {len(refused)} of {sum(real)} responses; {refused[0]}.")
    return found, {"egrsd/unusable_feedback_frac": len(refused) / sum(real)}
