"""What a step's teachers are shown and which responses they score, decided once for the whole batch on the driver.

B  rows of the batch, padding samples included
"""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta

from recipe.egrsd import batches
from recipe.egrsd.config.schema import PEER_PRIVILEGES, EgrsdConfig
from recipe.egrsd.method.weights import entropy_scale
from recipe.egrsd.privilege.peers import chosen_peers, shown_ids, spliced
from recipe.egrsd.privilege.rows import teacher_prompts
from recipe.egrsd.teacher.kinds import Teacher
from recipe.egrsd.watch.metrics import teacher_metrics


def score(
    batch: KVBatchMeta, teacher: Teacher, egrsd: EgrsdConfig, config: DictConfig, *, step: int, tokenizer: Any
) -> tuple[float, dict[str, float]]:
    """Writes ``teacher_log_probs`` and ``teacher_entropy``, (B, jagged) float32, and ``teacher_mask``, the tokens that
    have a teacher, (B, jagged) int64; returns the batch's entropy scale, nats, and metrics."""
    data = batches.read(batch, "prompts", "teacher_prompt_ids", "responses", "response_mask", "rm_scores")
    shown, metrics = _shown(batch, data, egrsd, seed=f"{config.data.seed} {step}", tokenizer=tokenizer)
    scores = teacher.score(
        shown,
        data["responses"],
        data["response_mask"],
        temperature=config.actor_rollout_ref.rollout.temperature,
        divergence=egrsd.divergence and {"kind": egrsd.divergence, "clip": egrsd.divergence_clip},
        names=batch.keys,
    )
    mask = _where(data["response_mask"], [ids is not None for ids in shown])
    hidden = {} if scores.hidden is None else {"teacher_hidden": scores.hidden}
    batches.write(
        batch, teacher_log_probs=scores.log_probs, teacher_entropy=scores.entropy, teacher_mask=mask, **hidden
    )
    entropy, taught = scores.entropy.to_padded_tensor(0.0), mask.to_padded_tensor(0).bool()
    scale = entropy_scale(entropy, taught, min_nats=egrsd.min_entropy_scale)
    lengths = torch.tensor([len(ids) for ids in shown if ids is not None])
    return scale.item(), metrics | teacher_metrics(entropy, taught, scale, lengths)


def _shown(
    batch: KVBatchMeta, data: TensorDict, egrsd: EgrsdConfig, *, seed: str, tokenizer: Any
) -> tuple[list[list[int] | None], dict[str, float]]:
    """For each row the prompt of its teacher, None for none; and metrics. Padding samples have no teacher."""
    real, problems = batches.is_real(batch), [ids.tolist() for ids in data["prompts"].unbind()]
    prompts = teacher_prompts(batch.keys, data["prompts"].unbind(), list(data["teacher_prompt_ids"]))
    prompts = [ids if counts else None for ids, counts in zip(prompts, real, strict=True)]
    if egrsd.privilege not in PEER_PRIVILEGES:
        return prompts, {}
    control = set(tokenizer.all_special_ids)
    responses = [shown_ids(ids.tolist(), control_ids=control) for ids in data["responses"].unbind()]
    responses = [ids if counts else None for ids, counts in zip(responses, real, strict=True)]
    correct = (data["rm_scores"].to_padded_tensor(0.0).sum(-1) > 0).tolist()
    knobs = {"wanted": egrsd.privilege == "peer_correct", "rule": egrsd.teacher.peer, "seed": seed}
    peers = chosen_peers(batch.keys, problems, correct, responses, **knobs)
    shown = [
        None if frame is None or peer is None else spliced(frame, responses[peer])
        for frame, peer in zip(prompts, peers, strict=True)
    ]
    batches.write_lists(batch, teacher_prompt_ids=[ids or [] for ids in shown])  # what was shown, for whoever looks on
    alone = sum(ids is None for ids, counts in zip(shown, real, strict=True) if counts)
    return shown, {"egrsd/no_peer_frac": alone / sum(real)}


def _where(mask: Tensor, kept: Sequence[bool]) -> Tensor:
    """(B, jagged) -> the same, 0 in the rows that are not kept."""
    rows = [row * keep for row, keep in zip(mask.unbind(), kept, strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)
