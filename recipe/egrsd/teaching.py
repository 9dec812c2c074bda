"""Which responses a step's teachers score and which tokens they pull: decided once for the whole batch, on the driver.

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
from recipe.egrsd.config.derived import mini_batches
from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.method.pull import pull_weights, pulled_rows
from recipe.egrsd.privilege.rows import rollout_of
from recipe.egrsd.privilege.texts import KINDS
from recipe.egrsd.showing import correct_rows, readings_of
from recipe.egrsd.teacher.kinds import Teacher
from recipe.egrsd.teacher.readings import Reading
from recipe.egrsd.teacher.scoring import nested
from recipe.egrsd.token_weight import CONTRAST, of_batch
from recipe.egrsd.watch.metrics import teacher_metrics

FIELDS = ("prompts", "teacher_prompt_ids", "responses", "response_mask", "rm_scores")


def score(
    batch: KVBatchMeta, teacher: Teacher, egrsd: EgrsdConfig, config: DictConfig, *, step: int, tokenizer: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """Writes ``teacher_log_probs`` and ``teacher_entropy``, (B, jagged) float32, ``teacher_mask``, the tokens that have
    a teacher, (B, jagged) int64, for a divergence ``pull_weight`` (loss.py) and ``teacher_hidden``, and with a teacher
    that contrasts ``contrast_log_probs``, float32. Returns what a token weight is told of the batch, and metrics."""
    own = KINDS[egrsd.privilege].own_guide
    data = batches.read(batch, *FIELDS, *[f"teacher_{own}_ids"] * bool(own))
    readings, metrics = readings_of(batch, data, egrsd, seed=config.data.seed, step=step, tokenizer=tokenizer)
    responses, masks = list(data["responses"].unbind()), list(data["response_mask"].unbind())
    lengths, pulled = [*map(len, responses)], [0] * len(responses)
    if egrsd.pulls:
        weights, of_pull = _pulled(batch, data, egrsd, config, step=step, has_teacher=[*map(bool, readings)])
        batches.write(batch, pull_weight=nested(weights))
        metrics |= of_pull
        pulled = [int(weight.nonzero().max()) + 1 if weight.any() else 0 for weight in weights]  # positions
    if egrsd.divergence and not egrsd.weighs:  # what is not pulled needs no teacher
        readings = [of_row if count else [] for of_row, count in zip(readings, pulled, strict=True)]
        responses, masks = ([row[: n or 1] for row, n in zip(rows, pulled, strict=True)] for rows in (responses, masks))
    scores = teacher.score(
        readings,
        nested(responses),
        nested(masks),
        temperature=config.actor_rollout_ref.rollout.temperature,
        divergence=egrsd.divergence_knobs if egrsd.pulls else None,
        names=batch.keys,
    )
    # The distribution that several readings make together has no log-probs before the update.
    alone = [sum(not reading.against for reading in of_row) == 1 for of_row in readings]
    masks = [mask * counts for mask, counts in zip(masks, alone, strict=True)]
    columns = {"teacher_log_probs": scores.log_probs.unbind(), "teacher_entropy": scores.entropy.unbind()}
    if egrsd.contrasts:
        columns[CONTRAST] = (scores.log_probs if scores.contrast is None else scores.contrast).unbind()
    columns = {name: _stretched(rows, lengths) for name, rows in (columns | {"teacher_mask": masks}).items()}
    if scores.hidden is not None:
        hidden = scores.hidden.unbind()
        columns["teacher_hidden"] = nested(
            [row[: len(row) // len(r) * n] for row, r, n in zip(hidden, responses, pulled, strict=True)]
        )
    batches.write(batch, **columns)
    told, of_teacher = _told(egrsd, columns, readings, num_tokens=int(data["response_mask"].values().sum()))
    return told, metrics | of_teacher


def _told(
    egrsd: EgrsdConfig, columns: dict[str, Tensor], readings: Sequence[Sequence[Reading]], *, num_tokens: int
) -> tuple[dict[str, float], dict[str, float]]:
    """What a token weight is told of the batch, and what is logged of it."""
    entropy, taught = (columns[name].to_padded_tensor(0) for name in ("teacher_entropy", "teacher_mask"))
    sides = None
    if egrsd.contrasts:
        sides = columns["teacher_log_probs"].to_padded_tensor(0.0), columns[CONTRAST].to_padded_tensor(0.0)
    told = of_batch(egrsd, entropy, taught.bool(), sides, num_tokens=num_tokens)
    lengths = torch.tensor([len(reading.prompt) for of_row in readings for reading in of_row if reading.coefficient])
    return told, teacher_metrics(entropy, taught.bool(), told["entropy_scale"], lengths)


def _stretched(rows: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """(B, jagged) of these lengths, 0 behind the end of a row."""
    return nested([pad(row, (0, length - len(row))) for row, length in zip(rows, lengths, strict=True)])


def _pulled(
    batch: KVBatchMeta, data: TensorDict, egrsd: EgrsdConfig, config: DictConfig, *, step: int, has_teacher: list[bool]
) -> tuple[list[Tensor], dict[str, float]]:
    """(T,) float32 for each row, a token's weight in the loss; and metrics. All 0 if the step's coefficient is."""
    pull = egrsd.pull
    groups, numbers = zip(*(rollout_of(key)[:2] for key in batch.keys), strict=True)
    masks = [row * real for row, real in zip(data["response_mask"].unbind(), batches.is_real(batch), strict=True)]
    correct = correct_rows(batch.keys, data)
    coefficient = pull.coefficient_at(step)
    has_teacher = [has and coefficient > 0 and bool(mask.any()) for has, mask in zip(has_teacher, masks, strict=True)]
    rows = pulled_rows(groups, numbers, correct, [*map(len, masks)], has_teacher, rows=pull.rows)
    weights = pull_weights(masks, groups, numbers, correct, rows, tokens=pull.tokens, weighting=pull.weighting)
    # Each of several updates trains on a part of the batch alone.
    parts = mini_batches(config, len(masks))
    weights = [weight * (coefficient * parts) for weight in weights]
    tokens = sum(int(mask.count_nonzero()) for mask in masks)
    return weights, {
        "egrsd/pulled_responses_frac": sum(bool(weight.any()) for weight in weights)
        / max(1, sum(bool(mask.any()) for mask in masks)),
        "egrsd/pulled_tokens_frac": sum(int(weight.count_nonzero()) for weight in weights) / max(1, tokens),
        "egrsd/pull_weight_sum": sum(float(weight.sum()) for weight in weights) / parts,
    }
