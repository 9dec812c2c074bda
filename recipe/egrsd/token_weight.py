"""``algorithm.egrsd.token_weight``: the function of that name, ours or a user's: looked up, tried, called, checked.

B  responses      T  response positions, right-padded
"""

import os
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor
from verl.utils.import_utils import load_module

from recipe.egrsd.config.schema import WEIGHT_KNOBS, EgrsdConfig
from recipe.egrsd.config.strict import one_line
from recipe.egrsd.method.weights import (
    TokenWeights,
    entropy_scale,
    gate_mean,
    require_bool,
    require_float32,
    require_shape,
)

KEY = "algorithm.egrsd.token_weight"
INPUTS = ("student_log_probs", "teacher_log_probs", "teacher_entropy", "advantages", "teacher_mask")
"""What every weight is given, in this order."""
SETTINGS = ("entropy_scale", "gate_mean", "mixing", *WEIGHT_KNOBS)
"""What it is given by keyword, if it names it."""
SAME_ALONE = 1e-5
"""Largest difference between a response's weights alone and beside others: float32 sums in another order."""


class Weight(NamedTuple):
    function: Callable[..., Any]
    settings: tuple[str, ...]
    """Those of SETTINGS that it names."""
    file: Path
    """Of the module that holds it."""


@cache
def look_up(name: str) -> Weight:
    """
    Args:
        name: ``module:function``; the module may also be verl's ``pkg://module`` or the path of a file.

    Raises:
        Exception: whatever the import raises; AttributeError or TypeError if the function is missing, is no function,
            or cannot be called with INPUTS and settings.
    """
    path, _, attribute = name.rpartition(":")
    module: Any = load_module(path if _is_file(path) or "://" in path else f"pkg://{path}")
    function = getattr(module, attribute)
    if not callable(function):
        raise TypeError(f"{attribute} is {type(function).__name__} and no function")
    return Weight(function, _settings_of(function), Path(module.__file__))


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def absolute_file(config: Any) -> None:
    """Makes the path of a file absolute, in place: Ray's processes may stand elsewhere."""
    name = OmegaConf.select(config, KEY, throw_on_resolution_failure=False)
    module, _, attribute = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    path = module.removeprefix("file://")
    if _is_file(path) and "://" not in path:
        OmegaConf.update(config, KEY, f"{os.path.abspath(path)}:{attribute}")


def source(name: str) -> str:
    """What this machine finds under the name: a digest of the module's file, not of what that one imports."""
    return f"{KEY}={name} with {sha256(look_up(name).file.read_bytes()).hexdigest()[:12]}"


def said(name: str) -> str:
    """What a run says of it."""
    read = look_up(name).settings
    unread = [setting for setting in SETTINGS if setting not in read]
    nothing = f"; {', '.join(unread)} mean nothing to it" if unread else ""
    return f"weighs tokens by {name}, which reads {', '.join(read) or 'no setting'}{nothing}"


def of_batch(egrsd: EgrsdConfig, teacher_entropy: Tensor, teacher_mask: Tensor) -> dict[str, float]:
    """What a weight is told of the whole batch, (B, T) each of its responses: entropy_scale, nats, and gate_mean."""
    scale = entropy_scale(teacher_entropy, teacher_mask, min_nats=egrsd.min_entropy_scale)
    knobs = {"window": egrsd.window, "gamma": egrsd.gamma, "floor": egrsd.floor}
    return {"entropy_scale": scale.item(), "gate_mean": gate_mean(teacher_entropy, teacher_mask, scale=scale, **knobs)}


def require_gate(egrsd: EgrsdConfig) -> None:
    """ValueError if a control of the gate is asked of a weight that does not read it: the run would be no control."""
    if egrsd.gate != "token" and "gate" not in look_up(egrsd.token_weight).settings:
        raise ValueError(
            f"algorithm.egrsd.gate={egrsd.gate} means nothing to {KEY}={egrsd.token_weight}, which does not read it; "
            "leave it at token."
        )


def weigh(egrsd: EgrsdConfig, *tensors: Tensor, entropy_scale: float, gate_mean: float, mixing: float) -> TokenWeights:
    """The weights of a micro-batch by the function that the settings name.

    Args:
        tensors: INPUTS, each (B, T), float32, the mask bool: sampled tokens that have a teacher. The others weigh
            exactly 1, whatever the function says of them. It gets copies.
        entropy_scale: the batch's, nats.
        gate_mean: the batch's.
        mixing: the step's.

    Raises:
        TypeError, ValueError: if an input is not what INPUTS promises.
        ValueError: if the function fails or returns no weights; names key and reason.
    """
    given = dict(zip(INPUTS, tensors, strict=True))
    mask = given.pop("teacher_mask")
    require_float32(**given)
    require_bool(mask)
    require_shape(mask, **given)
    try:
        return _called(egrsd, tensors, entropy_scale=entropy_scale, gate_mean=gate_mean, mixing=mixing)
    except Exception as error:
        raise ValueError(f"{KEY}={egrsd.token_weight} fails: {one_line(error).rstrip('.')}; mend it.") from error


def weight_metrics(weights: TokenWeights, *, clip_range: float, floor: float) -> dict[str, Tensor]:
    """What is logged of a micro-batch's weights, each (B, T); nothing of a part that they lack."""
    logged = {"token_weight_mean": weights.token}
    if weights.gate is not None:
        logged |= {"gate_mean": weights.gate, "gate_floor_frac": weights.gate <= floor}
        if weights.gate_without_lookahead is not None:
            logged["lookahead_restored_mean"] = weights.gate - weights.gate_without_lookahead
    if weights.ratio is not None:
        logged |= {
            "ratio_weight_mean": weights.ratio,
            "ratio_clip_low_frac": weights.ratio <= 1.0 - clip_range,
            "ratio_clip_high_frac": weights.ratio >= 1.0 + clip_range,
        }
    return logged


def try_out(egrsd: EgrsdConfig) -> None:
    """Calls the function on made-up responses: a hole in the mask, one token, none, no advantage.

    Under False of the mask lies NaN. Each response is weighed once more alone, because verl splits a batch into
    micro-batches as memory allows.

    Raises:
        Exception: whatever the function raises, or what is wrong with its weights.
    """
    settings = {"entropy_scale": 2.5, "gate_mean": 0.8, "mixing": egrsd.mixing_at(1)}
    *values, mask = made_up()
    values = [value.masked_fill(~mask, torch.nan) for value in values]
    together = _called(egrsd, (*values, mask), **settings).token
    for row, length in enumerate(MADE_UP_LENGTHS):
        alone = _called(egrsd, [value[row : row + 1, :length] for value in (*values, mask)], **settings).token[0]
        differs = mask[row, :length] & ((alone - together[row, :length]).abs() > SAME_ALONE)
        if differs.any():
            t = int(differs.nonzero()[0])
            raise ValueError(
                f"token {t} of response {row} weighs {together[row, t]:.4g} beside others and {alone[t]:.4g} alone, so "
                "that the split into micro-batches would change the training; let a weight read its own response, and "
                "settings such as entropy_scale, which is the whole batch's"
            )


MADE_UP_LENGTHS = (5, 1, 3, 4)


def made_up() -> list[Tensor]:
    """INPUTS of four responses, each (4, 5)."""
    draw = torch.Generator().manual_seed(0)
    student, teacher, entropy = (torch.rand(4, 5, generator=draw) for _ in range(3))
    mask = torch.arange(5) < torch.tensor(MADE_UP_LENGTHS)[:, None]
    mask[0, 2] = False  # as a tool's answer leaves it
    mask[2] = False  # as a padding sample's
    advantages = torch.tensor([0.7, -1.2, 0.5, 0.0])[:, None].expand(4, 5).contiguous()
    return [-2 * student, -2 * teacher, 2.5 * entropy, advantages, mask]


def _settings_of(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = signature(function).parameters
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    chosen = tuple(name for name in SETTINGS if takes_any or name in parameters)
    inputs, settings = ", ".join(INPUTS), ", ".join(SETTINGS)
    order = f"the weight is called with ({inputs}) and by keyword with those of {settings} that it names"
    try:
        signature(function).bind(*INPUTS, **dict.fromkeys(chosen))
    except TypeError as error:
        raise TypeError(f"{error}; {order}") from error
    for place, name in zip(INPUTS, parameters, strict=False):
        if name in INPUTS and name != place:
            raise TypeError(f"it names {name} where {place} is given; {order}")
    return chosen


def _called(egrsd: EgrsdConfig, tensors: Any, **of_step: float) -> TokenWeights:
    weight, settings = look_up(egrsd.token_weight), {**egrsd.weight_knobs, **of_step}
    result = weight.function(
        *(tensor.detach().clone() for tensor in tensors), **{name: settings[name] for name in weight.settings}
    )
    weights = result if isinstance(result, TokenWeights) else TokenWeights(token=result)
    *values, mask = tensors
    sound = (torch.stack([value.isfinite() for value in values]).all(0) | ~mask).all(-1, keepdim=True)
    parts = {part: tensor for part, tensor in vars(weights).items() if part == "token" or tensor is not None}
    for part, tensor in parts.items():
        _check(part, tensor, mask, counted=mask & sound)
    return TokenWeights(**{part: torch.where(mask, tensor, 1.0) for part, tensor in parts.items()})


def _check(part: str, tensor: Any, mask: Tensor, *, counted: Tensor) -> None:
    """A row whose inputs are not finite says nothing about the function, and is verl's to skip."""
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise TypeError(f"it returns {kind}, not a (B, T) float32 tensor of weights (or method.weights.TokenWeights)")
    for what, found, expected in (
        ("shape", tuple(tensor.shape), tuple(mask.shape)),
        ("dtype", tensor.dtype, torch.float32),
        ("device", tensor.device, mask.device),
    ):
        if found != expected:
            raise ValueError(f"its {part} weight has {what} {found}, expected {expected}")
    if tensor.requires_grad:
        raise ValueError(f"its {part} weight carries a gradient; weights are data: detach it")
    bad = counted & ~tensor.isfinite()
    if bad.any():
        row, t = bad.nonzero()[0].tolist()
        raise ValueError(
            f"its {part} weight is {tensor[row, t].item()} at token {t} of response {row}; what lies under False of "
            "the mask may be NaN and must not be read, and an advantage may be 0"
        )
