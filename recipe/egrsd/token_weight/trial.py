"""A weight tried on made-up responses, before Ray starts."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.token_weight import CONTRAST, INPUTS, called

SAME_ALONE = 1e-5
"""Largest difference between a response's weights alone and beside others: float32 sums in another order."""
MADE_UP_LENGTHS = (5, 1, 3, 4)


def try_out(egrsd: EgrsdConfig) -> None:
    """Calls the function on made-up responses: a hole in the mask, one token, none, no advantage.

    Under False of the mask lies NaN. Each response is weighed once more alone, because verl splits a batch into
    micro-batches as memory allows.

    Raises:
        Exception: whatever the function raises, or what is wrong with its weights.
    """
    shares = {"modulated_frac": 0.75, "taught_frac": 0.5}
    settings = {"entropy_scale": 2.5, "gate_mean": 0.8, "mixing": egrsd.mixing_at(1), **shares}
    given = made_up()
    mask = given["teacher_mask"]
    given |= {name: value.masked_fill(~mask, torch.nan) for name, value in given.items() if value is not mask}

    def of(*part: slice) -> Tensor:
        weights = called(egrsd, {name: value[part] for name, value in given.items()}, **settings)
        return weights.token if weights.added is None else weights.token + weights.added

    together = of(slice(None))
    for row, length in enumerate(MADE_UP_LENGTHS):
        alone = of(slice(row, row + 1), slice(length))[0]
        differs = mask[row, :length] & ((alone - together[row, :length]).abs() > SAME_ALONE)
        if differs.any():
            t = int(differs.nonzero()[0])
            raise ValueError(
                f"token {t} of response {row} weighs {together[row, t]:.4g} beside others and {alone[t]:.4g} alone, so "
                "that the split into micro-batches would change the training; let a weight read its own response, and "
                "settings such as entropy_scale, which is the whole batch's"
            )
    _on_another_device(egrsd, given, settings)


def _on_another_device(egrsd: EgrsdConfig, given: Mapping[str, Tensor], settings: Mapping[str, float]) -> None:
    """torch's meta device stands for a GPU: it has no numbers, and refuses most tensors that were made on the CPU; not
    an index, nor a part of a matrix product, a convolution, a scatter."""
    try:
        called(egrsd, {name: value.to("meta") for name, value in given.items()}, **settings)
    except Exception as problem:  # most of what is raised there says that there are no numbers
        if "not on the expected device" in str(problem) or "weight has device" in str(problem):
            raise ValueError(
                "it makes a tensor on the CPU, which does not go with those on a GPU; give torch.arange and the like "
                "device=advantages.device"
            ) from problem


def made_up() -> dict[str, Tensor]:
    """INPUTS and contrast_log_probs of four responses, each (4, 5)."""
    draw = torch.Generator().manual_seed(0)
    student, teacher, entropy, contrast = (torch.rand(4, 5, generator=draw) for _ in range(4))
    mask = torch.arange(5) < torch.tensor(MADE_UP_LENGTHS)[:, None]
    mask[0, 2] = False  # as a tool's answer leaves it
    mask[2] = False  # as a padding sample's
    advantages = torch.tensor([0.7, -1.2, 0.5, 0.0])[:, None].expand(4, 5).contiguous()
    tensors = (-2 * student, -2 * teacher, 2.5 * entropy, advantages, mask, -2 * contrast)
    return dict(zip((*INPUTS, CONTRAST), tensors, strict=True))
