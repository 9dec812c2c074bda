"""Wrong versions of the functions of recipe/egrsd/method/weights.py: ratio weight, lookahead, scale, gate."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# ---------------------------------------------------------------- magnitude


def _ratio(log_ratio: Tensor, clip_range: float) -> Tensor:
    return log_ratio.exp().clamp(1 - clip_range, 1 + clip_range)


def _sign_of_0_is_plus(student: Tensor, teacher: Tensor, advantages: Tensor, *, clip_range: float) -> Tensor:
    return _ratio(torch.where(advantages >= 0, 1.0, -1.0) * (teacher - student), clip_range)


def _one_weight_per_response(student: Tensor, teacher: Tensor, advantages: Tensor, *, clip_range: float) -> Tensor:
    mean = (advantages.sign() * (teacher - student)).nanmean(dim=-1, keepdim=True)
    return _ratio(mean, clip_range).expand_as(student)


RATIO_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "sign dropped": lambda s, t, a, *, clip_range: _ratio(t - s, clip_range),
    "teacher and student swapped": lambda s, t, a, *, clip_range: _ratio(a.sign() * (s - t), clip_range),
    "advantage instead of its sign": lambda s, t, a, *, clip_range: _ratio(a * (t - s), clip_range),
    "sign(0) is plus": _sign_of_0_is_plus,
    "clip in log space": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).clamp(-clip_range, clip_range).exp(),
    "clip to 1 / (1 + eps) below": lambda s, t, a, *, clip_range: (
        (a.sign() * (t - s)).exp().clamp(1 / (1 + clip_range), 1 + clip_range)
    ),
    "no clip": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).exp(),
    "no upper clip": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).exp().clamp(min=1 - clip_range),
    "no lower clip": lambda s, t, a, *, clip_range: (a.sign() * (t - s)).exp().clamp(max=1 + clip_range),
    "linear instead of exponential": lambda s, t, a, *, clip_range: (1 + a.sign() * (t - s)).clamp(
        1 - clip_range, 1 + clip_range
    ),
    "sign after the clip": lambda s, t, a, *, clip_range: a.sign() * _ratio(t - s, clip_range),
    "difference of probabilities": lambda s, t, a, *, clip_range: _ratio(a.sign() * (t.exp() - s.exp()), clip_range),
    "one weight per response": _one_weight_per_response,
    "clip range ignored": lambda s, t, a, *, clip_range: _ratio(a.sign() * (t - s), 0.2),
}


# ---------------------------------------------------------------- lookahead


def _over_window(
    entropy: Tensor, mask: Tensor, offsets: Sequence[int], fn: Callable[[list[float]], float] = min, skip: bool = True
) -> Tensor:
    """fn over the positions t + offset of the same row; masked ones are left out unless skip is False."""
    result = entropy.clone()
    length = entropy.size(-1)
    for i, row in enumerate(entropy.tolist()):
        is_token = mask[i].tolist()
        for t in range(length):
            inside = [j for j in (t + offset for offset in offsets) if 0 <= j < length]
            values = [row[j] for j in inside if is_token[j] or not skip]
            if values:
                result[i, t] = fn(values)
    return result


def _capped(entropy: Tensor, window: int) -> int:
    return min(window, entropy.size(-1))


def _faithful(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    return _over_window(entropy, mask, range(_capped(entropy, window) + 1))


def _across_rows(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    return _faithful(entropy.reshape(1, -1), mask.reshape(1, -1), window=window).reshape(entropy.shape)


def _wraps_around(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    twice = _over_window(entropy.repeat(1, 2), mask.repeat(1, 2), range(_capped(entropy, window) + 1))
    return twice[:, : entropy.size(-1)]


def _stops_at_a_hole(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    result = entropy.clone()
    for i, t in mask.nonzero().tolist():
        for j in range(t, min(t + window, entropy.size(-1) - 1) + 1):
            if not mask[i, j]:
                break
            result[i, t] = torch.minimum(result[i, t], entropy[i, j])
    return result


def _window_counts_tokens(entropy: Tensor, mask: Tensor, *, window: int) -> Tensor:
    result = entropy.clone()
    for i in range(entropy.size(0)):
        tokens = entropy[i][mask[i]].unsqueeze(0)
        result[i][mask[i]] = _faithful(tokens, torch.ones_like(tokens, dtype=torch.bool), window=window).squeeze(0)
    return result


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


LOOKAHEAD_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "no lookahead": lambda h, m, *, window: h,
    "max instead of min": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 1), max),
    "mean instead of min": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 1), _mean),
    "window one short": lambda h, m, *, window: _over_window(h, m, range(max(1, _capped(h, window)))),
    "window one long": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 2)),
    "without the token itself": lambda h, m, *, window: _over_window(h, m, range(1, _capped(h, window) + 1)),
    "window reads the past": lambda h, m, *, window: _over_window(h, m, range(-_capped(h, window), 1)),
    "window reads both sides": lambda h, m, *, window: _over_window(
        h, m, range(-_capped(h, window), _capped(h, window) + 1)
    ),
    "reads masked positions": lambda h, m, *, window: _over_window(h, m, range(_capped(h, window) + 1), skip=False),
    "masked positions count as 0": lambda h, m, *, window: _over_window(
        h.masked_fill(~m, 0.0), m, range(_capped(h, window) + 1), skip=False
    ),
    "stops at a hole": _stops_at_a_hole,
    "window counts tokens, not positions": _window_counts_tokens,
    "crosses rows": _across_rows,
    "wraps around": _wraps_around,
    "whole rest of the response": lambda h, m, *, window: _faithful(h, m, window=h.size(-1)),
}


# ---------------------------------------------------------------- scale and gate


def _largest(entropy: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, entropy, -torch.inf).flatten().max() if mask.any() else torch.tensor(0.0)


def _mean_scale(entropy: Tensor, mask: Tensor, *, min_nats: float) -> Tensor:
    return entropy[mask].mean().clamp(min=min_nats) if mask.any() else torch.tensor(min_nats)


SCALE_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "no 1-nat bound": lambda h, m, *, min_nats: _largest(h, m),  # noqa: PLW0108  it drops min_nats
    "bound added, not compared": lambda h, m, *, min_nats: _largest(h, m) + min_nats,
    "min instead of max with the bound": lambda h, m, *, min_nats: _largest(h, m).clamp(max=min_nats),
    "bound of 1 nat hard-coded": lambda h, m, *, min_nats: _largest(h, m).clamp(min=1.0),
    "log of the vocabulary size": lambda h, m, *, min_nats: torch.tensor(math.log(151_936)),
    "mean instead of max": _mean_scale,
    "padding included": lambda h, m, *, min_nats: torch.cat([h.flatten(), torch.tensor([min_nats])]).max(),
    "first response only": lambda h, m, *, min_nats: _largest(h[:1], m[:1]).clamp(min=min_nats),
    "entropy in bits": lambda h, m, *, min_nats: (_largest(h, m) / math.log(2)).clamp(min=min_nats),
}

GATE_MUTANTS: dict[str, Callable[..., Tensor]] = {
    "no gate": lambda h, scale, *, gamma, floor: torch.ones_like(h),
    "floor forgotten": lambda h, scale, *, gamma, floor: (1 - gamma * h / scale).clamp(0.0, 1.0),
    "nothing clipped": lambda h, scale, *, gamma, floor: 1 - gamma * h / scale,
    "floor hard-coded": lambda h, scale, *, gamma, floor: (1 - gamma * h / scale).clamp(0.1, 1.0),
    "floor by interpolation": lambda h, scale, *, gamma, floor: (
        floor + (1 - floor) * (1 - gamma * h / scale).clamp(0, 1)
    ),
    "not normalised": lambda h, scale, *, gamma, floor: (1 - gamma * h).clamp(floor, 1.0),
    "normalised by log V": lambda h, scale, *, gamma, floor: (1 - gamma * h / math.log(151_936)).clamp(floor, 1.0),
    "entropy in bits": lambda h, scale, *, gamma, floor: (1 - gamma * h / math.log(2) / scale).clamp(floor, 1.0),
    "gamma ignored": lambda h, scale, *, gamma, floor: (1 - h / scale).clamp(floor, 1.0),
    "hyperbola": lambda h, scale, *, gamma, floor: (1 / (1 + gamma * h / scale)).clamp(floor, 1.0),
    "exponential": lambda h, scale, *, gamma, floor: (-gamma * h / scale).exp().clamp(floor, 1.0),
    "rises with entropy": lambda h, scale, *, gamma, floor: (1 - gamma * (1 - h / scale)).clamp(floor, 1.0),
    "squared": lambda h, scale, *, gamma, floor: (1 - gamma * (h / scale) ** 2).clamp(floor, 1.0),
}
