"""Says once, in the log of the run, that training has gone wrong: what is seen, with numbers, and what to do about it.

The thresholds are thresholds.ALARMS. Nothing here stops a run or changes it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.method.advantage import WARMUP_MEAN
from recipe.egrsd.watch.thresholds import ALARM_STEPS, ALARMS, Alarm


def switched_off(egrsd: EgrsdConfig) -> set[str]:
    """Names of the alarms that would speak of what the settings switch off or intend."""
    off = set()
    if egrsd.gamma == 0 or egrsd.floor == 1:
        off |= {"gate at its floor"}
    if egrsd.clip_range == 0 or egrsd.mixing == 0:
        off |= {"ratio clip saturated"}
    if egrsd.privilege == "none":
        off |= {"privilege inert"}
    if egrsd.privilege == "concise":
        off |= {"length collapse"}
    if not egrsd.compares_within_groups:
        off |= {"no mixed problem"}
    if not egrsd.rewards_count and egrsd.pull.rows == "all":  # rewards are only watched
        off |= {"all correct", "all wrong"}
    return off


@dataclass
class Course:
    """What a metric was in its last steps, and on average before them."""

    recent: list[float] = field(default_factory=list)
    earlier: float = 0.0
    """Sum of the steps before the recent ones."""
    num_earlier: int = 0

    def add(self, value: float, *, keep: int) -> None:
        self.recent.append(value)
        if len(self.recent) > keep:
            self.earlier += self.recent.pop(0)
            self.num_earlier += 1

    @property
    def mean(self) -> float:
        return sum(self.recent) / len(self.recent)

    @property
    def start(self) -> float:
        return self.earlier / self.num_earlier if self.num_earlier else self.recent[0]


class Alarms:
    """Fed with the metrics of each step, in order.

    A run that is resumed knows how it began: it would else take a student that is already going wrong for a healthy
    start. What was said before is said again, because the resumed run has a log of its own.

    Args:
        egrsd: the settings of the run.
    """

    def __init__(self, egrsd: EgrsdConfig):
        self.watched = {name: alarm for name, alarm in ALARMS.items() if name not in switched_off(egrsd)}
        self.steps_in_a_row = dict.fromkeys(self.watched, 0)
        self.start: dict[str, float] = {}
        self.courses = {name: Course() for name, alarm in self.watched.items() if alarm.mean_of > 1}
        self.warms_up, self.warmup_steps = egrsd.warms_up, egrsd.warmup_steps

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """The sentences that are new with this step. A metric that is not logged raises no alarm."""
        warnings = self._warmup_note(metrics) if self.warms_up and not self.start else []
        for name, alarm in list(self.watched.items()):
            if any(metric not in metrics for metric in alarm.metrics):
                continue
            value, start = self._value_and_start(name, alarm, metrics)
            limit = _limit(alarm, start)
            reached = value >= limit if alarm.rises else value <= limit
            self.steps_in_a_row[name] = self.steps_in_a_row[name] + 1 if reached else 0
            if self.steps_in_a_row[name] == ALARM_STEPS:
                del self.watched[name]
                warnings.append(_sentence(name, alarm, value, start))
        return warnings

    def state_dict(self) -> dict[str, Any]:
        """How the run began and went, as JSON."""
        return self.start | {name: asdict(course) for name, course in self.courses.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.courses |= {name: Course(**state[name]) for name in self.courses if name in state}
        firsts = {name: value for name, value in state.items() if not isinstance(value, dict)}
        # A list is an earlier version's, of ten steps: its first is the start, if it had one.
        firsts = {name: value[:1] if isinstance(value, list) else [value] for name, value in firsts.items()}
        self.start.update({name: first[0] for name, first in firsts.items() if first})

    def _warmup_note(self, metrics: Mapping[str, float]) -> list[str]:
        """Of the first step: what the paper's first advantages do to a model that is mostly wrong."""
        mean = metrics.get("egrsd/reward_mean", WARMUP_MEAN)
        if mean >= WARMUP_MEAN:
            return []
        right = metrics["egrsd/correct_frac"]
        note = (
            f"EGRSD note, warm-up: {right:.0%} of the first step's responses are right and the mean reward is "
            f"{mean:.2f}, so that the advantage of the first {self.warmup_steps} steps, reward - {WARMUP_MEAN}, pushes "
            f"down on balance, here by {WARMUP_MEAN - mean:.2f} a response. It is the paper's; for such a model take "
            "algorithm.egrsd.warmup_steps=1, which whitens from the second step on, or easier problems."
        )
        return [note]

    def _value_and_start(self, name: str, alarm: Alarm, metrics: Mapping[str, float]) -> tuple[float, float]:
        """What is watched and what it is compared with. The first step's rollouts are those of the initial weights."""
        value = sum(float(metrics[metric]) for metric in alarm.metrics)
        if course := self.courses.get(name):
            course.add(value, keep=alarm.mean_of)
            return course.mean, course.start
        if not alarm.of_start:
            return value, 0.0
        beside = prod(metrics.get(metric, 0.0) for metric in alarm.beside) if alarm.beside else 0.0
        return value, self.start.setdefault(name, value - beside)


def _limit(alarm: Alarm, start: float) -> float:
    if not alarm.of_start:
        return alarm.threshold
    multiple = alarm.threshold * start
    return max(multiple, start + alarm.margin) if alarm.rises else min(multiple, start - alarm.margin)


def _sentence(name: str, alarm: Alarm, value: float, start: float) -> str:
    side = "at least" if alarm.rises else "at most"
    over = f", mean of {alarm.mean_of} steps" if alarm.mean_of > 1 else ""
    away = f", and {alarm.margin:g} from it" if alarm.margin else ""
    of_start = f" ({alarm.threshold:g} times the start, {start:.4g}{away})" if alarm.of_start else ""
    return (
        f"EGRSD alarm, {name}: {' + '.join(alarm.metrics)}{over} = {value:.4g}, {side} {_limit(alarm, start):.4g}"
        f"{of_start}, for {ALARM_STEPS} steps. {alarm.advice} (Said once; the metrics go on.)"
    )
