"""The loss hook: weights the advantages of a micro-batch and hands it to verl's ppo_loss.

B  responses of the micro-batch      T  response positions, right-padded
"""

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding, response_to_nested

from recipe.egrsd.metrics import token_sums
from recipe.egrsd.schema import EgrsdConfig
from recipe.egrsd.weights import entropy_gate, lookahead_entropy, mixed_weight, ratio_weight

SUM_PREFIX = "egrsd_sum/"


@dataclass(frozen=True)
class TokenWeights:
    """The weights of a micro-batch, each (B, T) float32 and detached."""

    ratio: Tensor
    gate: Tensor
    gate_without_lookahead: Tensor
    token: Tensor
    """What the advantage is multiplied by."""


def token_weights(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    teacher_entropy: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    entropy_scale: float,
    mixing: float,
    egrsd: EgrsdConfig,
) -> TokenWeights:
    """Ratio weight and gate of every token; all inputs (B, T), log-probs and entropies in nats.

    entropy_scale is the batch's, in nats, mixing the step's.
    """
    gate_knobs = {"scale": entropy_scale, "gamma": egrsd.gamma, "floor": egrsd.floor}
    ratio = ratio_weight(student_log_probs, teacher_log_probs, advantages, clip_range=egrsd.clip_range)
    calm = lookahead_entropy(teacher_entropy, response_mask, window=egrsd.window)
    gate = entropy_gate(calm, **gate_knobs)
    return TokenWeights(
        ratio=ratio,
        gate=gate,
        gate_without_lookahead=entropy_gate(teacher_entropy, **gate_knobs),
        token=mixed_weight(ratio, mixing=mixing) * gate,
    )


def egrsd_loss(
    config: Any, egrsd: EgrsdConfig, model_output: dict, data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict]:
    """verl's ppo_loss on advantages scaled by ratio weight and gate; same signature after the two bound arguments.

    The student's log-probs are those of the forward pass that is being trained, detached, so a single update per batch needs
    no scoring pass of its own (paper Alg. 1 computes w from the current policy).

    Args:
        config: verl's ActorConfig.
        egrsd: the recipe's settings.
        model_output: ``log_probs``, jagged over prompt + response.
        data: the micro-batch with every TransferQueue field, among them ``teacher_log_probs``, ``teacher_entropy``,
            ``advantages``, ``response_mask``, jagged over the response, and the scalars ``egrsd_entropy_scale`` and
            ``egrsd_mixing``.
    """
    student = no_padding_2_padding(model_output["log_probs"], data).detach()
    mask = data["response_mask"].to_padded_tensor(0).bool()
    advantages, teacher, entropy = (
        data[field].to_padded_tensor(0.0) for field in ("advantages", "teacher_log_probs", "teacher_entropy")
    )
    scalars = {"entropy_scale": data["egrsd_entropy_scale"], "mixing": data["egrsd_mixing"]}
    weights = token_weights(student, teacher, entropy, advantages, mask, **scalars, egrsd=egrsd)
    weighted = torch.where(mask, advantages * weights.token, advantages)
    data = data.copy()
    data["advantages"] = response_to_nested(weighted, data["response_mask"])
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    sums = token_sums(student, teacher, weights, mask, clip_range=egrsd.clip_range, floor=egrsd.floor)
    metrics.update({SUM_PREFIX + name: Metric(AggregationType.SUM, value) for name, value in sums.items()})
    return loss, metrics
