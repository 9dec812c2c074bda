"""The formulas of EGRSD and CL-EGRSD once more, in Python floats and loops: the oracle of the tests.

Written from the definitions, not from the implementation. A row is a list of floats (the positions of one
response), a batch is a list of rows; masks are lists of bools, True = this token takes part in the loss.
Log-probabilities and entropies are in nats. A value that is never read is returned as None.
"""

import math
from collections.abc import Sequence

Row = list[float]
MaskRow = list[bool]
MaybeRow = list[float | None]


def clip(value: float, low: float, high: float) -> float:
    if value < low:
        return low
    if value > high:
        return high
    return value


def sign(value: float) -> int:
    if value > 0.0:
        return 1
    if value < 0.0:
        return -1
    return 0


def ratio_weight(student: list[Row], teacher: list[Row], advantages: Sequence[float], clip_range: float) -> list[Row]:
    """w = clip(exp(sign(A) * (log p_T - log p_S)), 1 - eps, 1 + eps), one sign for the whole row."""
    result = []
    for student_row, teacher_row, advantage in zip(student, teacher, advantages, strict=True):
        weights = []
        for log_p_student, log_p_teacher in zip(student_row, teacher_row, strict=True):
            direction = sign(advantage)
            exponent = 0.0 if direction == 0 else direction * (log_p_teacher - log_p_student)
            ratio = math.exp(min(exponent, 700.0))  # exp(700) is 1e304: beyond every clip, yet still a float
            weights.append(clip(ratio, 1.0 - clip_range, 1.0 + clip_range))
        result.append(weights)
    return result


def lookahead_entropy(entropy: list[Row], mask: list[MaskRow], window: int) -> list[MaybeRow]:
    """Minimum over positions t ... t + window of the same row, masked ones skipped; None where t itself is masked."""
    result = []
    for entropy_row, mask_row in zip(entropy, mask, strict=True):
        minima: MaybeRow = []
        for t in range(len(entropy_row)):
            if not mask_row[t]:
                minima.append(None)
                continue
            smallest = entropy_row[t]
            for j in range(t, min(t + window, len(entropy_row) - 1) + 1):
                if mask_row[j] and entropy_row[j] < smallest:
                    smallest = entropy_row[j]
            minima.append(smallest)
        result.append(minima)
    return result


def entropy_scale(entropy: list[Row], mask: list[MaskRow], min_nats: float) -> float:
    """The largest entropy of any token of any row, but at least min_nats."""
    largest = min_nats
    for entropy_row, mask_row in zip(entropy, mask, strict=True):
        for value, is_token in zip(entropy_row, mask_row, strict=True):
            if is_token and value > largest:
                largest = value
    return largest


def entropy_gate(entropy: Sequence[Sequence[float | None]], scale: float, gamma: float, floor: float) -> list[MaybeRow]:
    """g = clip(1 - gamma * H / scale, floor, 1)."""
    return [[None if h is None else clip(1.0 - gamma * h / scale, floor, 1.0) for h in row] for row in entropy]


def token_advantages(
    student: list[Row],
    teacher: list[Row],
    entropy: list[Row],
    mask: list[MaskRow],
    advantages: Sequence[float],
    *,
    gamma: float,
    window: int,
    clip_range: float = 0.2,
    floor: float = 0.1,
    min_nats: float = 1.0,
) -> list[MaybeRow]:
    """A * w * g. The gate reads the lookahead entropy; its scale is the maximum of the raw entropy."""
    scale = entropy_scale(entropy, mask, min_nats)
    gate = entropy_gate(lookahead_entropy(entropy, mask, window), scale, gamma, floor)
    weight = ratio_weight(student, teacher, advantages, clip_range)
    result = []
    for i, advantage in enumerate(advantages):
        row: MaybeRow = []
        for t, g in enumerate(gate[i]):
            row.append(None if g is None else advantage * weight[i][t] * g)
        result.append(row)
    return result


def rlsd_token_advantages(
    student: list[Row], teacher: list[Row], advantages: Sequence[float], *, clip_range: float, mixing: float
) -> list[Row]:
    """RLSD as published (arXiv 2604.03128): A * ((1 - lambda) + lambda * clip((p_T / p_S)^sign(A), 1 - eps, 1 +
    eps))."""
    result = []
    for i, advantage in enumerate(advantages):
        row = []
        for log_p_student, log_p_teacher in zip(student[i], teacher[i], strict=True):
            log_ratio = log_p_teacher - log_p_student if advantage >= 0 else log_p_student - log_p_teacher
            ratio = math.exp(min(log_ratio, 700.0))
            row.append(advantage * ((1.0 - mixing) + mixing * clip(ratio, 1.0 - clip_range, 1.0 + clip_range)))
        result.append(row)
    return result


def token_mean_loss(token_advantage: list[MaybeRow], log_probs: list[Row], mask: list[MaskRow]) -> float:
    """-(1 / number of tokens) * sum of token advantage * log p: one mean over the batch, not one for each row."""
    terms = []
    for i, mask_row in enumerate(mask):
        for t, is_token in enumerate(mask_row):
            value = token_advantage[i][t]
            if is_token and value is not None:
                terms.append(value * log_probs[i][t])
    if not terms:
        return 0.0
    return -math.fsum(terms) / len(terms)


def shaped_reward(
    correct: Sequence[float], length: Sequence[float], max_length: float, length_bonus: float
) -> list[float]:
    """correct * (1 + length_bonus * (1 - length / max_length))."""
    result = []
    for is_correct, num_tokens in zip(correct, length, strict=True):
        if is_correct == 1:
            result.append(1.0 + length_bonus * (1.0 - num_tokens / max_length))
        else:
            result.append(0.0)
    return result


def mean_and_population_std(values: Sequence[float]) -> tuple[float, float]:
    """Two passes, divided by n; (0, 0) for no values."""
    if len(values) == 0:
        return 0.0, 0.0
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return mean, math.sqrt(variance)


def running_advantages(
    batches: Sequence[Sequence[float]], warmup_steps: int, warmup_mean: float, min_std: float
) -> list[Row]:
    """Advantages of each batch of a run; batch number s is whitened by the rewards of batches 0 ... s - 1 only.

    Before any reward has been seen there is nothing to whiten with, so warmup_steps = 0 treats batch 0 as warm-up.
    """
    seen: list[float] = []
    result = []
    for step, batch in enumerate(batches):
        if step < warmup_steps or not seen:
            result.append([reward - warmup_mean for reward in batch])
        else:
            mean, std = mean_and_population_std(seen)
            result.append([(reward - mean) / max(std, min_std) for reward in batch])
        seen.extend(batch)
    return result
