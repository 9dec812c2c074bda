"""``algorithm.egrsd.token_weight``: the function of that name, ours or a user's: looked up, tried, called, checked.

B  responses      T  response positions, right-padded
"""

import os
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor
from verl.utils.import_utils import load_module

from recipe.egrsd.config.contrast import CONTRAST_PRIVILEGES
from recipe.egrsd.config.schema import WEIGHT_KNOBS, EgrsdConfig
from recipe.egrsd.config.strict import one_line
from recipe.egrsd.method.evidence import modulated_frac
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
CONTRAST = "contrast_log_probs"
SHARES = ("modulated_frac", "taught_frac")
OF_CONTRAST = (CONTRAST, "contrast_strength", "contrast_scale", "contrast_threshold", *SHARES)
"""What it is given by keyword besides, if it names it, under a privilege that contrasts."""


class Weight(NamedTuple):
    function: Callable[..., Any]
    settings: tuple[str, ...]
    """Those of SETTINGS and OF_CONTRAST that it names."""
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


def of_batch(
    egrsd: EgrsdConfig,
    teacher_entropy: Tensor,
    teacher_mask: Tensor,
    sides: tuple[Tensor, Tensor] | None = None,
    *,
    num_tokens: int = 0,
) -> dict[str, float]:
    """What a weight is told of the whole batch, (B, T) each of its responses: entropy_scale, nats, gate_mean, and
    SHARES if there are sides, log-probs under right and under wrong guides. num_tokens counts those without a teacher,
    too."""
    scale = entropy_scale(teacher_entropy, teacher_mask, min_nats=egrsd.min_entropy_scale)
    knobs = {"window": egrsd.window, "gamma": egrsd.gamma, "floor": egrsd.floor}
    told = {"entropy_scale": scale.item(), "gate_mean": gate_mean(teacher_entropy, teacher_mask, scale=scale, **knobs)}
    if sides is not None:
        told["modulated_frac"] = modulated_frac(*sides, teacher_mask, **egrsd.contrast.knobs)
        told["taught_frac"] = int(teacher_mask.sum()) / max(1, num_tokens)
    return told


def require_gate(egrsd: EgrsdConfig) -> None:
    """ValueError if a control of the gate is asked of a weight that does not read it: the run would be no control."""
    if egrsd.gate != "token" and "gate" not in look_up(egrsd.token_weight).settings:
        raise ValueError(
            f"algorithm.egrsd.gate={egrsd.gate} means nothing to {KEY}={egrsd.token_weight}, which does not read it; "
            "leave it at token."
        )


def require_contrast(egrsd: EgrsdConfig) -> None:
    """ValueError if a weight reads two sides of a teacher that has one, or the other way round."""
    asked = [name for name in look_up(egrsd.token_weight).settings if name in OF_CONTRAST]
    if asked and not egrsd.contrasts:
        raise ValueError(
            f"{KEY}={egrsd.token_weight} reads {asked[0]}, which algorithm.egrsd.privilege={egrsd.privilege} does not "
            f"have; use one of {CONTRAST_PRIVILEGES}."
        )
    if egrsd.contrasts and CONTRAST not in asked:
        raise ValueError(
            f"algorithm.egrsd.privilege={egrsd.privilege} has the teacher read right and wrong guides, and "
            f"{KEY}={egrsd.token_weight} does not read {CONTRAST}; name a weight that does (algorithm=rlcsd, sipo)."
        )
    threshold = egrsd.contrast.threshold
    if threshold and "contrast_threshold" not in asked:
        raise ValueError(
            f"algorithm.egrsd.contrast.threshold={threshold} means nothing to {KEY}={egrsd.token_weight}, which does "
            "not read it; leave it at 0."
        )


def require_token_mean(egrsd: EgrsdConfig, loss_agg_mode: str) -> None:
    """ValueError if a weight makes its own means of SHARES and verl would take another one than over all tokens."""
    shares = [name for name in SHARES if name in look_up(egrsd.token_weight).settings]
    if shares and loss_agg_mode != "token-mean":
        raise ValueError(
            f"{KEY}={egrsd.token_weight} reads {shares[0]}, a share of the batch's tokens, and "
            f"actor_rollout_ref.actor.loss_agg_mode={loss_agg_mode} takes another mean; set that to token-mean."
        )


def weigh(
    egrsd: EgrsdConfig, *tensors: Tensor, contrast_log_probs: Tensor | None = None, **of_step: float
) -> TokenWeights:
    """The weights of a micro-batch by the function that the settings name.

    Args:
        tensors: INPUTS, each (B, T), float32, the mask bool: sampled tokens that have a teacher. The others weigh
            exactly 1, whatever the function says of them. It gets copies.
        contrast_log_probs: (B, T) float32, nats, of a teacher that contrasts.
        of_step: the batch's of ``of_batch``, and the step's mixing.

    Raises:
        TypeError, ValueError: if an input is not what INPUTS promises.
        ValueError: if the function fails or returns no weights; names key and reason.
    """
    given: dict[str, Tensor] = dict(zip(INPUTS, tensors, strict=True))
    if contrast_log_probs is not None:
        given[CONTRAST] = contrast_log_probs
    mask = given["teacher_mask"]
    require_float32(**{name: tensor for name, tensor in given.items() if tensor is not mask})
    require_bool(teacher_mask=mask)
    require_shape(mask, **given)
    try:
        return called(egrsd, given, **of_step)
    except Exception as error:
        raise ValueError(f"{KEY}={egrsd.token_weight} fails: {one_line(error).rstrip('.')}; mend it.") from error


def _settings_of(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = signature(function).parameters
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    chosen = tuple(name for name in SETTINGS if takes_any or name in parameters)
    chosen += tuple(name for name in OF_CONTRAST if name in parameters)
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


def called(egrsd: EgrsdConfig, given: Mapping[str, Tensor], **of_step: float) -> TokenWeights:
    """As ``weigh``, of inputs that need no check, by name; raises whatever the function raises, or what is wrong with
    its weights."""
    weight, copies = look_up(egrsd.token_weight), {name: tensor.detach().clone() for name, tensor in given.items()}
    of_contrast = {f"contrast_{name}": value for name, value in egrsd.contrast.knobs.items()}
    settings = {**egrsd.weight_knobs, **of_contrast, **of_step, **copies}
    named = {name: settings[name] for name in weight.settings}
    result = weight.function(*(copies[name] for name in INPUTS), **named)
    weights = result if isinstance(result, TokenWeights) else TokenWeights(token=result)
    mask = given["teacher_mask"]
    sound = (torch.stack([value.isfinite() for value in given.values()]).all(0) | ~mask).all(-1, keepdim=True)
    parts = {part: tensor for part, tensor in vars(weights).items() if part == "token" or tensor is not None}
    for part, tensor in parts.items():  # before any value is looked at: tensors of the trial's other device have none
        _check_kind(part, tensor, mask)
    for part, tensor in parts.items():
        _check_values(part, tensor, counted=mask & sound)
    without = dict.fromkeys(parts, 1.0) | {"added": 0.0}
    return TokenWeights(**{part: torch.where(mask, tensor, without[part]) for part, tensor in parts.items()})


def _check_kind(part: str, tensor: Any, mask: Tensor) -> None:
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


def _check_values(part: str, tensor: Tensor, *, counted: Tensor) -> None:
    """A row whose inputs are not finite says nothing about the function, and is verl's to skip."""
    bad = counted & ~tensor.isfinite()
    if bad.any():
        row, t = bad.nonzero()[0].tolist()
        raise ValueError(
            f"its {part} weight is {tensor[row, t].item()} at token {t} of response {row}; what lies under False of "
            "the mask may be NaN and must not be read, and an advantage may be 0"
        )
