"""A look inside the weights: real responses with all that was decided about each of their tokens, one parquet file a
step.

``python -m recipe.egrsd.report`` shows them. B  responses      T  response positions, right-padded
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tensordict import TensorDict
from torch import Tensor

from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.method.weights import lookahead_entropy
from recipe.egrsd.token_weight import CONTRAST, weigh
from recipe.egrsd.watch.kinds import HIGH, KINDS, LOW, MARKING_WINDOW, kinds_of

SAVED_RESPONSES = 16
"""Of a step; at 1,024 tokens they take about 1 MB."""
FIELDS = (
    "uid", "extra_info", "prompts", "teacher_prompt_ids", "responses", "response_mask", "teacher_mask", "rm_scores",
    "teacher_log_probs", "teacher_entropy", "advantages",
)  # fmt: skip
"""What is read from TransferQueue of every run."""
OF_TEACHER = ("teacher_log_probs", CONTRAST, "teacher_entropy", "lookahead_entropy", "kind")
"""Columns that are null where no teacher has scored the token, whatever fills its place in the batch."""
UNFINISHED_CHARACTER, CHARACTER_BYTES = "\ufffd", 4


def fields(egrsd: EgrsdConfig) -> list[str]:
    """What is read from TransferQueue of a run with these settings."""
    return [*FIELDS, *[CONTRAST] * egrsd.contrasts]


def is_due(step: int, every: int | None) -> bool:
    """step counts from 1; the first is always shown, so that a run can be looked into at once."""
    return every is not None and (step == 1 or step % every == 0)


def chosen(keys: Sequence[str], real: Sequence[bool]) -> list[str]:
    """Which samples are saved: real ones, in the order of their random names, as verl has sorted the batch by
    length."""
    return sorted(key for key, is_real in zip(keys, real, strict=True) if is_real)[:SAVED_RESPONSES]


def save(folder: Path, data: TensorDict, *, step: int, **settings: Any) -> Path:
    """Writes ``<folder>/step_<step>.parquet``, whole or not at all; data and settings as for ``table``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step}.parquet"
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table(data, step=step, **settings), partial)
    os.replace(partial, path)
    return path


def table(
    data: TensorDict, *, step: int, tokenizer: Any, egrsd: EgrsdConfig, entropy_scale: float, **scalars: float
) -> pa.Table:
    """One row for each response, one list entry for each of its tokens; the settings travel as metadata.

    The student's log-probs are those of the policy before the step's update: what the loss sees, too, as long as a
    batch is trained on once. A run with a divergence has no weights, so that its columns gate ... token_weight are 1,
    as those of a token that no teacher has scored.

    Args:
        data: the samples, with what ``fields`` names and ``student_log_probs``.
        entropy_scale, scalars: the batch's of ``token_weight.of_batch``, and the step's mixing.
    """
    prompts, privileged = data["prompts"].unbind(), data["teacher_prompt_ids"]
    solutions = [(info or {}).get(egrsd.teacher.solution_key) for info in list(data["extra_info"])]
    responses = [ids.tolist() for ids in data["responses"].unbind()]
    rows = {
        "step": [step] * len(responses),
        "uid": [str(uid) for uid in list(data["uid"])],
        "prompt": [tokenizer.decode(ids.tolist()) for ids in prompts],
        "teacher_prompt": [tokenizer.decode(list(ids)) for ids in list(privileged)],
        "solution": pa.array([text if isinstance(text, str) else None for text in solutions], pa.string()),
        "reward": data["rm_scores"].to_padded_tensor(0.0).sum(-1).tolist(),
        "entropy_scale": [entropy_scale] * len(responses),
        "mixing": [scalars["mixing"]] * len(responses),
        "tokens": [token_strings(tokenizer, ids) for ids in responses],
        "token_ids": responses,
    }
    taught = data["teacher_mask"].to_padded_tensor(0).bool()
    columns = _per_token(data, taught, egrsd, entropy_scale, scalars)
    return pa.table(rows | _listed(columns, taught, [*map(len, responses)])).replace_schema_metadata(
        {"egrsd": json.dumps(asdict(egrsd))}
    )


def _listed(columns: dict[str, Tensor | None], taught: Tensor, lengths: Sequence[int]) -> dict[str, pa.Array]:
    """(B, T) -> lists of these lengths: null for what the run does not have, and in them where OF_TEACHER says so."""
    offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
    real, found = torch.arange(taught.size(1)) < torch.tensor(lengths)[:, None], {}
    for name, values in columns.items():
        if values is None:
            found[name] = pa.nulls(len(lengths), pa.list_(pa.float32()))
            continue
        flat = values[real].numpy()
        flat = np.array(KINDS)[flat] if name == "kind" else flat
        unscored = ~taught[real].numpy() if name in OF_TEACHER else None
        found[name] = pa.ListArray.from_arrays(offsets, pa.array(flat, mask=unscored))
    return found


def _per_token(
    data: TensorDict, taught: Tensor, egrsd: EgrsdConfig, entropy_scale: float, scalars: dict[str, float]
) -> dict[str, Tensor | None]:
    """Each (B, T), as taught is, by the functions that the loss calls; None for what the run's weight does not have."""
    student, teacher, entropy, advantages = (
        data[name].to_padded_tensor(0.0)
        for name in ("student_log_probs", "teacher_log_probs", "teacher_entropy", "advantages")
    )
    contrast = data[CONTRAST].to_padded_tensor(0.0) if egrsd.contrasts else None
    scalars = {"entropy_scale": entropy_scale, **scalars}
    weights = weigh(egrsd, student, teacher, entropy, advantages, taught, contrast_log_probs=contrast, **scalars)
    return {
        "mask": data["response_mask"].to_padded_tensor(0).bool(),
        "teacher_mask": taught,
        "student_log_probs": student,
        "teacher_log_probs": teacher,
        CONTRAST: contrast,
        "teacher_entropy": entropy,
        "lookahead_entropy": lookahead_entropy(entropy, taught, window=egrsd.window),
        "gate": weights.gate,
        "gate_without_lookahead": weights.gate_without_lookahead,
        "ratio_weight": weights.ratio,
        "token_weight": weights.token,
        "added": weights.added,
        "advantage": advantages,
        "kind": token_kinds(entropy, taught, entropy_scale=entropy_scale, window=egrsd.window or MARKING_WINDOW),
    }


def token_kinds(entropy: Tensor, teacher_mask: Tensor, *, entropy_scale: float, window: int) -> Tensor:
    """The kinds of kinds.py by the bounds of the paper's figure A5.

    Args:
        entropy: (B, T) teacher entropy, nats.
        teacher_mask: (B, T) bool, True: a sampled token that has a teacher.
        entropy_scale: nats.
        window: tokens.

    Returns:
        (B, T) int64, indices of KINDS.
    """
    ahead = lookahead_entropy(entropy, teacher_mask, window=window)
    return kinds_of(entropy / entropy_scale, ahead / entropy_scale, high=HIGH, low=LOW)


def token_strings(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token. A character whose bytes span tokens stands at its last one, the others are empty."""
    strings, held = [], []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        finished = not text.endswith(UNFINISHED_CHARACTER) or len(held) == CHARACTER_BYTES
        strings.append(text if finished else "")
        if finished:
            held = []
    if held:
        strings[-1] = tokenizer.decode(held)
    return strings
