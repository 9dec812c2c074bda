"""What a run must have logged, whatever the machine: pure functions from metrics to findings.

tests/examples/test_rehearsal_checks_on_cpu.py makes each of them fail. Metrics are by step, as examples/training.py
reads them.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from recipe.egrsd.watch.metrics import (
    INERT_NATS,
    METRICS,
    OF_DIVERGENCE,
    OF_GROUPS,
    OF_PRIVILEGE,
    OF_PROPAGATION,
)

Metrics = Mapping[int, Mapping[str, float]]

OF_WEIGHTS = {
    *("egrsd/gate_mean", "egrsd/gate_floor_frac", "egrsd/lookahead_restored_mean", "egrsd/ratio_weight_mean"),
    *("egrsd/ratio_clip_low_frac", "egrsd/ratio_clip_high_frac", "egrsd/token_weight_mean"),
}
"""Not logged where a divergence alone is trained on, which has no weights."""
NOT_JUDGED = {
    *("egrsd/reward_mean", "egrsd/reward_std", "egrsd/baseline_mean", "egrsd/baseline_std", "egrsd/correct_frac"),
    *("egrsd/truncated_frac", "egrsd/first_token_log_ratio", "egrsd/mixed_problems_frac"),
}
"""How well a model does on a few problems, and how much it wants to think first, says nothing about the machine."""
OF_WHAT_IT_KNOWS = {"egrsd/log_ratio_mean", "egrsd/log_ratio_abs_mean"}
"""Not judged of the rehearsal's model, which was taught no arithmetic: what a solution does to it is chance. In one
step of 8 responses it was -0.63 nats a token."""
ROUNDING = 1e-5
"""What a float32 sum of equal weights may be above 1."""
TIMES = ("gen", "teacher", "update_actor", "update_weights", "step")
"""verl's ``timing_s/...`` of every step; the last contains the others."""
COST = 2.0
"""Times GRPO's scoring pass and update: the most that teacher and update may take, short prompts of one rollout
each."""


class Finding(NamedTuple):
    """One row of the table."""

    check: str
    measured: str
    expected: str
    ok: bool


def steps_logged(metrics: Metrics, *, first: int, last: int) -> Finding:
    """All of them and no other; a step 0 is the validation before training."""
    found = sorted(step for step in metrics if step)
    return Finding("steps", _list(found), _list(range(first, last + 1)), found == [*range(first, last + 1)])


def complete(metrics: Metrics, *, divergence: bool) -> Finding:
    """Every metric of recipe/egrsd/watch/metrics.py in every step, and finite. divergence: opsd's."""
    names = set(METRICS) - OF_PRIVILEGE - OF_GROUPS - OF_PROPAGATION - (OF_WEIGHTS if divergence else OF_DIVERGENCE)
    wrong = [
        f"{name} is {data.get(name, 'missing')} in step {step}"
        for step, data in _steps(metrics)
        for name in sorted(names)
        if not math.isfinite(data.get(name, math.nan))
    ]
    return _complaints("metrics", wrong, f"{len(names)} names, finite", metrics)


def healthy(metrics: Metrics, *, pretrained: bool) -> Finding:
    """Within the ranges of recipe/egrsd/watch/metrics.py, but for NOT_JUDGED and, unless the model is pretrained,
    OF_WHAT_IT_KNOWS."""
    not_judged = NOT_JUDGED if pretrained else NOT_JUDGED | OF_WHAT_IT_KNOWS
    wrong = [
        f"{name} = {data[name]:.4g} in step {step}, healthy {low} … {high}"
        for step, data in _steps(metrics)
        for name, (_, _, low, high) in METRICS.items()
        if name in data and name not in not_judged and not _within(data[name], low, high)
    ]
    return _complaints("ranges", wrong, "healthy", metrics)


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (-math.inf if low is None else low - ROUNDING) <= value <= (math.inf if high is None else high + ROUNDING)


def possible_entropies(metrics: Metrics, *, vocabulary: int) -> Finding:
    """0 < mean <= largest <= log(vocabulary), and a gate's denominator that is the largest, or 1 if that is less."""
    bound, wrong = math.log(vocabulary), []
    names = ("egrsd/teacher_entropy_mean", "egrsd/teacher_entropy_max", "egrsd/entropy_scale")
    for step, data in _steps(metrics):
        mean, largest, scale = (data.get(name, math.nan) for name in names)
        if not (0 < mean <= largest <= bound and math.isclose(scale, max(largest, 1.0), rel_tol=1e-6)):
            wrong.append(f"mean {mean:.4g}, largest {largest:.4g}, scale {scale:.4g} in step {step}")
    return _complaints("teacher's entropy", wrong, f"0 < mean ≤ largest ≤ {bound:.2f} nats", metrics)


def unrounded(metrics: Metrics) -> Finding:
    """No figure in nats is a bfloat16 number: one in 65,536 is so by chance, every one that was rounded on its way."""
    names = [name for name, meaning in METRICS.items() if meaning.unit == "nats"]
    wrong = [
        f"{name} = {data[name]!r} in step {step}"
        for step, data in _steps(metrics)
        for name in names
        if data.get(name, 0.0) not in (0.0, 1.0) and on_bfloat16_grid(data[name])  # 1: the denominator's lower bound
    ]
    return _complaints("precision", wrong, "no nats on bfloat16's grid", metrics)


def on_bfloat16_grid(value: float) -> bool:
    """True if the float32 nearest to the value has nothing in its low 16 bits."""
    return struct.unpack("<I", struct.pack("<f", value))[0] & 0xFFFF == 0


def timed(metrics: Metrics) -> Finding:
    """Each of TIMES is there and above 0, and a step is no shorter than its parts."""
    wrong = []
    for step, data in _steps(metrics):
        *parts, whole = (data.get(f"timing_s/{name}", math.nan) for name in TIMES)
        if not (min(parts) > 0 and sum(parts) <= whole):
            wrong.append(f"{dict(zip(TIMES, [*parts, whole], strict=True))} in step {step}")
    return _complaints("times", wrong, " + ".join(TIMES[:-1]) + " ≤ step", metrics)


def near_rollout(metrics: Metrics, *, bound: float) -> Finding:
    """Mean |p_vLLM - p_FSDP| of the sampled tokens; a rollout that does not follow its student is off by the size of p.

    The largest is shown and not judged: kernels differ, and one token of thousands may stand where rounding decides.
    """
    (_, mean), (_, largest) = (_extremes(metrics, f"training/rollout_probs_diff_{kind}") for kind in ("mean", "max"))
    return Finding("rollout = student", f"mean {mean:.3g}, largest {largest:.3g}", f"mean ≤ {bound:g}", mean <= bound)


def privileged(metrics: Metrics) -> Finding:
    """The solution moves the teacher's log-probs by more than rounding does."""
    least, _ = _extremes(metrics, "egrsd/log_ratio_abs_mean")
    return Finding("solution matters", f"|log ratio| {least:.3g} nats", f"> {INERT_NATS}", least > INERT_NATS)


def inert(metrics: Metrics) -> Finding:
    """A teacher that sees what the student sees, and has its weights, says what it says, but for rounding."""
    _, most = _extremes(metrics, "egrsd/log_ratio_abs_mean")
    return Finding("null test", f"|log ratio| {most:.3g} nats", f"≤ {INERT_NATS}", most <= INERT_NATS)


def within_memory(metrics: Metrics, *, gib: float) -> Finding:
    """What torch has reserved at most, vLLM aside; gib: the GPU's, 0 on a CPU, where verl logs 0."""
    least, most = _extremes(metrics, "actor/perf/max_memory_reserved_gb")
    ok = 0 < least <= most < gib if gib else least == most == 0
    return Finding(
        "memory", f"{least:.1f} … {most:.1f} GiB", f"0 < reserved < {gib:.0f} GiB" if gib else "0 on a CPU", ok
    )


def cost(egrsd: Metrics, grpo: Metrics) -> Finding:
    """Teacher and update against scoring pass and update of GRPO's, each in its fastest step: the first pays for the
    start."""
    ours = _seconds(egrsd, "teacher", "update_actor")
    theirs = _seconds(grpo, "old_log_prob", "update_actor")
    ratio = ours / theirs
    return Finding(
        "step against GRPO's", f"{ours:.2f} s / {theirs:.2f} s = {ratio:.2f}", f"≤ {COST}", 0 < ratio <= COST
    )


def resumed(metrics: Metrics, *, step: int, baseline: float) -> Finding:
    """The step that was resumed into starts from the running mean in the checkpoint of the step before."""
    found = metrics.get(step, {}).get("egrsd/baseline_mean", math.nan)
    return Finding("baseline after resume", f"{found:.6g}", f"{baseline:.6g}", abs(found - baseline) <= 1e-12)


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, lr: float, adapter: bool) -> Finding:
    """One step of Adam moves some parameter by about the learning rate, and none by much more; of a LoRA run the
    adapter alone.

    Adam's step is at most lr * (1 - beta1) / sqrt(1 - beta2) = 3.2 lr.
    """
    distances = {name: (after[name] - tensor).abs().max().item() for name, tensor in before.items() if tensor.numel()}
    trained = {name: d for name, d in distances.items() if "lora_" in name or not adapter}
    still = {name: d for name, d in distances.items() if name not in trained}
    most, base = max(trained.values(), default=0.0), max(still.values(), default=0.0)
    ok = before.keys() == after.keys() and lr / 2 < most < 4 * lr and base == 0
    measured = f"{most:.2g}" + (f", base {base:.2g}" if adapter else "")
    return Finding("parameters moved", measured, f"{lr / 2:.2g} … {4 * lr:.2g}" + (", base 0" if adapter else ""), ok)


def evaluated(results: Mapping[str, Any], *, benchmark: str, problems: int) -> Finding:
    """Every problem answered and graded."""
    found = results.get("benchmarks", {}).get(benchmark, {})
    accuracy, tokens = (found.get(name, {}).get("value", math.nan) for name in ("accuracy", "tokens_mean"))
    ungraded = sum(found.get("ungraded", {"": 1}).values())
    ok = found.get("problems") == problems and 0 <= accuracy <= 1 and tokens > 0 and ungraded == 0
    measured = f"{found.get('problems')} problems, {accuracy:.0%} right, {tokens:.0f} tokens, {ungraded} ungraded"
    return Finding("evaluation", measured, f"{problems} problems, 0 ungraded", ok)


def _steps(metrics: Metrics) -> Iterator[tuple[int, Mapping[str, float]]]:
    yield from ((step, data) for step, data in sorted(metrics.items()) if step)


def _extremes(metrics: Metrics, name: str) -> tuple[float, float]:
    """Over the steps; NaN, which passes no comparison, if it is missing in one of them."""
    values = [data.get(name, math.nan) for _, data in _steps(metrics)]
    return (math.nan, math.nan) if not values or any(map(math.isnan, values)) else (min(values), max(values))


def _seconds(metrics: Metrics, *names: str) -> float:
    """Of these parts of a step, in the fastest of them; NaN if one was not timed."""
    sums = [sum(data.get(f"timing_s/{name}", math.nan) for name in names) for _, data in _steps(metrics)]
    return math.nan if not sums or any(map(math.isnan, sums)) else min(sums)


def _complaints(check: str, wrong: Sequence[str], expected: str, metrics: Metrics) -> Finding:
    """The first of them; no step is no success."""
    if not any(metrics):
        return Finding(check, "no step was logged", expected, False)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return Finding(check, wrong[0] + more if wrong else "as expected", expected, not wrong)


def _list(steps: Sequence[int]) -> str:
    return " ".join(map(str, steps)) or "none"
