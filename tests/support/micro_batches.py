"""Settings of EGRSD and small micro-batches as verl's engine and TransferQueue hand them to the loss."""

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig

from recipe.egrsd.config.contrast import ContrastConfig
from recipe.egrsd.config.pull import PullConfig
from recipe.egrsd.config.schema import TOKEN_WEIGHT, EgrsdConfig, TeacherConfig
from recipe.egrsd.config.steering import SteeringConfig
from recipe.egrsd.loss import SUM_PREFIX, egrsd_loss

PROMPTS, RESPONSES = [3, 5, 2, 4], [4, 1, 6, 3]


SCALE, GATE_MEAN = 2.5, 0.625
EVERYWHERE = {
    "policy_gradient": False,
    "coefficient": 1.0,
    "warmup_steps": None,
    "decay_steps": None,
    "rows": "all",
    "tokens": None,
    "weighting": "token_mean",
    "propagation": None,
}
PULL = PullConfig(**EVERYWHERE)
CONTRAST = ContrastConfig(strength=0.0, scale=0.2, threshold=0.0, wrong_guides=4)


def settings(**changes) -> EgrsdConfig:
    teacher = TeacherConfig(
        kind="frozen", sync_every=None, ema_decay=None, enable_thinking=True, solution_key="s", problem_key="p",
        instruction="", template=None, max_prompt_length=9, peer="shortest",
    )  # fmt: skip
    knobs = {
        "token_weight": TOKEN_WEIGHT,
        "gamma": 0.7,
        "window": 2,
        "floor": 0.1,
        "min_entropy_scale": 1.0,
        "clip_range": 0.2,
        "gate": "token",
        "advantage": "running",
    }
    knobs |= {
        "mixing": 1.0,
        "mixing_decay_steps": None,
        "divergence": None,
        "divergence_beta": 0.5,
        "divergence_clip": None,
        "divergence_clip_low": None,
        "pull": PULL,
        "steering": SteeringConfig(strength=0.0, warmup_steps=None, own_response=True),
        "contrast": CONTRAST,
        "privilege": "solution",
    }
    knobs |= {"score_student": "auto", "save_tokens_every": None, "assistant_prefix": None}
    return EgrsdConfig(**(knobs | {"length_bonus": 0.5, "warmup_steps": 10} | changes), teacher=teacher)


def jagged(rows: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def rows(seed: int = 0) -> dict[str, list[Tensor]]:
    """Four samples as TransferQueue holds them; the third has a hole in its mask, as a tool call leaves it."""
    generator = torch.Generator().manual_seed(seed)

    def random(length: int) -> Tensor:
        return torch.rand(length, generator=generator)

    mask = [torch.ones(length, dtype=torch.int64) for length in RESPONSES]
    mask[2][2] = 0
    return {
        "prompts": [torch.ones(length, dtype=torch.int64) for length in PROMPTS],
        "responses": [torch.ones(length, dtype=torch.int64) for length in RESPONSES],
        "response_mask": mask,
        "teacher_mask": [row.clone() for row in mask],
        "old_log_probs": [-random(length) for length in RESPONSES],
        "teacher_log_probs": [-random(length) for length in RESPONSES],
        "teacher_entropy": [3 * random(length) for length in RESPONSES],
        "advantages": [sign * random(1).expand(length) for sign, length in zip((1, -1, -1, 1), RESPONSES, strict=True)],
    }


def micro_batch(samples: dict[str, list[Tensor]], chosen: Sequence[int], *, dp_size: int = 1) -> TensorDict:
    batch = TensorDict(
        {name: jagged([column[i] for i in chosen]) for name, column in samples.items()}, batch_size=len(chosen)
    )
    num_tokens = sum(int(mask.sum()) for mask in samples["response_mask"])
    tu.assign_non_tensor(batch, dp_size=dp_size, batch_num_tokens=num_tokens, global_batch_size=4)
    tu.assign_non_tensor(batch, egrsd_entropy_scale=SCALE, egrsd_gate_mean=GATE_MEAN, egrsd_mixing=1.0)
    return batch


def output(samples: dict[str, list[Tensor]], chosen: Sequence[int], shift: float = 0.0) -> tuple[dict, Tensor]:
    """What the engine returns for log-probs equal to old_log_probs + shift, and the leaf that gradients arrive at."""
    packed = [torch.cat([torch.zeros(PROMPTS[i] - 1), samples["old_log_probs"][i], torch.zeros(1)]) for i in chosen]
    leaf = (torch.cat(packed) + shift).requires_grad_()
    offsets = torch.tensor([0, *(len(row) for row in packed)]).cumsum(0)
    return {"log_probs": torch.nested.nested_tensor_from_jagged(leaf, offsets)}, leaf


def actor_config() -> FSDPActorConfig:
    return FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True)


def trained(
    keys: Sequence[str],
    columns: dict[str, list[Tensor]],
    split: Sequence[Sequence[int]],
    egrsd: EgrsdConfig,
    *,
    of_batch: dict[str, float],
    num_tokens: int,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The loss hook on a batch in these micro-batches: row name -> gradient of each log-prob, and the logged sums."""
    gradients, sums = {}, {}
    for chosen in split:
        micro = TensorDict({n: jagged([column[i] for i in chosen]) for n, column in columns.items()}, [len(chosen)])
        tu.assign_non_tensor(micro, dp_size=1, batch_num_tokens=num_tokens, global_batch_size=len(keys))
        tu.assign_non_tensor(micro, egrsd_mixing=1.0, **{f"egrsd_{name}": value for name, value in of_batch.items()})
        before = [torch.zeros(len(columns["prompts"][i]) - 1) for i in chosen]
        rows = zip(before, (columns["old_log_probs"][i] for i in chosen), strict=True)
        leaves = [torch.cat([*row, torch.zeros(1)]).requires_grad_() for row in rows]
        loss, metrics = egrsd_loss(actor_config(), egrsd, {"log_probs": jagged(leaves)}, micro)
        loss.backward()
        for i, nothing, leaf in zip(chosen, before, leaves, strict=True):
            gradients[keys[i]] = leaf.grad[len(nothing) : -1].tolist()
        for name in (name for name in metrics if name.startswith(SUM_PREFIX)):
            bare = name.removeprefix(SUM_PREFIX)
            sums[bare] = sums.get(bare, 0.0) + metrics[name].aggregate()
    return gradients, sums
