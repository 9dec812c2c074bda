"""The loss hooks. egrsd_loss weights the advantages of a micro-batch and hands it to verl's ppo_loss; divergence_loss
pulls the student towards the teacher's distributions. training_loss takes one of them or adds both, as the preset says.

B  responses of the micro-batch      T  response positions, right-padded
"""

from collections import ChainMap
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding, response_to_nested

from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.method.divergence import CLIPPED
from recipe.egrsd.method.evidence import evidence_of
from recipe.egrsd.method.pull import propagation
from recipe.egrsd.token_weight import CONTRAST, SHARES, weigh
from recipe.egrsd.watch.sums import pull_sums, student_sums, teacher_sums, weight_metrics

SUM_PREFIX = "egrsd_sum/"
SCALARS = ("entropy_scale", "gate_mean", "mixing")
"""What every micro-batch is told of the whole batch and the step; with a teacher that contrasts SHARES, too."""
ROLLOUT_DISTANCE_MEAN, ROLLOUT_DISTANCE_MAX = "rollout_probs_diff_mean", "rollout_probs_diff_max"
"""verl's names under training/ for what it computes from its old_log_prob pass (utils/debug/metrics.py:63)."""


def egrsd_loss(
    config: Any, egrsd: EgrsdConfig, model_output: dict, data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict]:
    """verl's ppo_loss on advantages scaled by token_weight's function; same signature after the two bound arguments.

    The student's log-probs are those of the forward pass that is being trained, detached, so a single update per batch
    needs no scoring pass of its own (paper Alg. 1 computes w from the current policy).

    Args:
        config: verl's ActorConfig.
        egrsd: the recipe's settings.
        model_output: ``log_probs``, jagged over prompt + response.
        data: the micro-batch with every TransferQueue field, among them ``teacher_log_probs``, ``teacher_entropy``,
            ``advantages``, ``response_mask``, ``teacher_mask`` (sampled tokens that have a teacher; the others weigh
            exactly 1), jagged over the response, with a teacher that contrasts ``contrast_log_probs`` likewise, and the
            scalars of SCALARS, ``egrsd_`` before each.
    """
    student = no_padding_2_padding(model_output["log_probs"], data).detach()
    mask, taught = (data[name].to_padded_tensor(0).bool() for name in ("response_mask", "teacher_mask"))
    advantages, teacher, entropy = (
        data[field].to_padded_tensor(0.0) for field in ("advantages", "teacher_log_probs", "teacher_entropy")
    )
    scalars = {name: data[f"egrsd_{name}"] for name in (*SCALARS, *(SHARES if egrsd.contrasts else ()))}
    contrast = data[CONTRAST].to_padded_tensor(0.0) if egrsd.contrasts else None
    weights = weigh(egrsd, student, teacher, entropy, advantages, taught, contrast_log_probs=contrast, **scalars)
    weighted = advantages * weights.token
    weighted = torch.where(mask, weighted if weights.added is None else weighted + weights.added, advantages)
    data = data.copy()
    data["advantages"] = response_to_nested(weighted, data["response_mask"])
    if "old_log_probs" not in data:  # the only update of this batch: the old policy is the one being trained
        data["old_log_probs"] = response_to_nested(student, data["response_mask"])
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    per_token = weight_metrics(weights, clip_range=egrsd.clip_range, floor=egrsd.floor)
    if contrast is not None:
        evidence = evidence_of(teacher, contrast)
        per_token |= {"evidence_mean": evidence, "evidence_abs_mean": evidence.abs()}
    return loss, metrics | _logged(student, teacher, per_token, data)


def divergence_loss(egrsd: EgrsdConfig, model_output: dict, data: TensorDict) -> tuple[Tensor, dict]:
    """Sum of weight times divergence of teacher and student over the pulled tokens; no reward, no advantage.

    Args:
        egrsd: the recipe's settings.
        model_output: ``log_probs`` and ``divergence``, jagged over prompt + response; the latter is not there if
            nothing of the whole batch is pulled.
        data: the micro-batch, among its fields ``pull_weight``, (B, jagged) float32 over the response: a token's weight
            in the loss of the batch (method/pull.py), 0 where nothing is pulled.

    Raises:
        RuntimeError: if something is to be pulled and the engine returned no divergence.
    """
    weight = data["pull_weight"].to_padded_tensor(0.0)
    if "divergence" not in model_output:
        if pulled := int(weight.count_nonzero()):
            raise RuntimeError(
                f"{pulled} tokens are to be pulled, and the engine returned no divergence of them: the student would "
                "train without its teacher. Was engine/fsdp.py registered?"
            )
        return 0.0 * no_padding_2_padding(model_output["log_probs"], data).sum(), {}
    names = ("divergence", *(CLIPPED if egrsd.clips else ()))
    found, pulled = {name: no_padding_2_padding(model_output[name], data) for name in names}, weight > 0
    if (kappa := egrsd.pull.propagation) is not None:
        found["propagation_mean"] = propagation(found["divergence"], pulled, kappa=kappa)
        weight = weight * found["propagation_mean"]
    # Ranks are averaged, so that each must count for all (verl's agg_loss, token-sum).
    loss = torch.where(pulled, weight * found["divergence"], 0.0).sum() * data["dp_size"]
    found["divergence_mean"] = found.pop("divergence").detach()
    return loss, _sums(pull_sums(found, pulled))


def training_loss(
    config: Any, egrsd: EgrsdConfig, model_output: dict, data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict]:
    """What a run trains on: policy gradient, divergence, or both. Arguments as of ``egrsd_loss``."""
    parts = [egrsd_loss(config, egrsd, model_output, data, dp_group)] if egrsd.rewards_count else []
    if egrsd.pulls:
        parts.append(divergence_loss(egrsd, model_output, data))
    losses, metrics = [loss for loss, _ in parts], [logged for _, logged in parts]
    if not egrsd.rewards_count:
        student = no_padding_2_padding(model_output["log_probs"], data).detach()
        metrics.append(_logged(student, data["teacher_log_probs"].to_padded_tensor(0.0), {}, data))
    return sum(losses[1:], start=losses[0]), dict(ChainMap(*metrics))


def _logged(student: Tensor, teacher: Tensor, of_teacher: dict[str, Tensor], data: TensorDict) -> dict[str, Metric]:
    """Sums over the micro-batch's tokens, and the largest distance of the rollout's probabilities from the trained
    ones."""
    mask, taught = (data[name].to_padded_tensor(0).bool() for name in ("response_mask", "teacher_mask"))
    metrics, of_student = {}, {"student_surprise_mean": -student}
    if "rollout_log_probs" in data:
        distance = (data["rollout_log_probs"].to_padded_tensor(0.0).exp() - student.exp()).abs().masked_fill(~mask, 0.0)
        of_student[ROLLOUT_DISTANCE_MEAN] = distance
        metrics[ROLLOUT_DISTANCE_MAX] = Metric(AggregationType.MAX, distance.max())
    sums = student_sums(of_student, mask) | teacher_sums(teacher - student, of_teacher, taught)
    return metrics | _sums(sums)


def _sums(values: dict[str, Tensor]) -> dict[str, Metric]:
    return {SUM_PREFIX + name: Metric(AggregationType.SUM, value) for name, value in values.items()}
