"""The loss hooks. egrsd_loss weights the advantages of a micro-batch and hands it to verl's ppo_loss; divergence_loss,
of the presets opsd and crisp, pulls the student towards the teacher's distributions instead.

B  responses of the micro-batch      T  response positions, right-padded
"""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding, response_to_nested

from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.token_weight import weigh, weight_metrics
from recipe.egrsd.watch.metrics import student_sums, teacher_sums

SUM_PREFIX = "egrsd_sum/"
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
            exactly 1), jagged over the response, and the scalars ``egrsd_entropy_scale`` and ``egrsd_mixing``.
    """
    student = no_padding_2_padding(model_output["log_probs"], data).detach()
    mask, taught = (data[name].to_padded_tensor(0).bool() for name in ("response_mask", "teacher_mask"))
    advantages, teacher, entropy = (
        data[field].to_padded_tensor(0.0) for field in ("advantages", "teacher_log_probs", "teacher_entropy")
    )
    scalars = {"entropy_scale": data["egrsd_entropy_scale"], "mixing": data["egrsd_mixing"]}
    weights = weigh(egrsd, student, teacher, entropy, advantages, taught, **scalars)
    weighted = torch.where(mask, advantages * weights.token, advantages)
    data = data.copy()
    data["advantages"] = response_to_nested(weighted, data["response_mask"])
    if "old_log_probs" not in data:  # the only update of this batch: the old policy is the one being trained
        data["old_log_probs"] = response_to_nested(student, data["response_mask"])
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    per_token = weight_metrics(weights, clip_range=egrsd.clip_range, floor=egrsd.floor)
    return loss, metrics | _logged(student, teacher, per_token, data)


def divergence_loss(
    config: Any, egrsd: EgrsdConfig, model_output: dict, data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict]:
    """Mean divergence of teacher and student over the response tokens, aggregated by verl's agg_loss; no reward, no
    advantage.

    Arguments as of ``egrsd_loss``; ``model_output`` holds ``divergence``, too, jagged over prompt + response.
    """
    student = no_padding_2_padding(model_output["log_probs"], data).detach()
    divergence = no_padding_2_padding(model_output["divergence"], data)
    mask = data["response_mask"].to_padded_tensor(0).bool()
    for key in (
        "dp_size",
        "batch_num_tokens",
        "global_batch_size",
    ):  # as ppo_loss does, so that the split does not matter
        config.global_batch_info[key] = data[key]
    config.global_batch_info["loss_scale_factor"] = config.loss_scale_factor
    loss = agg_loss(divergence, mask, loss_agg_mode=config.loss_agg_mode, **config.global_batch_info)
    teacher = data["teacher_log_probs"].to_padded_tensor(0.0)
    return loss, _logged(student, teacher, {"divergence_mean": divergence.detach()}, data)


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
    return metrics | {SUM_PREFIX + name: Metric(AggregationType.SUM, value) for name, value in sums.items()}
