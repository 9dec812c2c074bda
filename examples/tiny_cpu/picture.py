"""The pictures: training.png, how one run went over its steps, and comparison.png, how methods differ over seeds."""

from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from examples.tiny_cpu.paired import CONTROL, Runs, difference_of, mean_of
from examples.tiny_cpu.task import TASKS

PANELS = (
    ("Reward (length-shaped)", {"egrsd/reward_mean": "batch mean", "egrsd/baseline_mean": "running baseline"}),
    ("Accuracy of the rollouts", {"egrsd/correct_frac": "batch"}),
    ("Response length, tokens", {"response_length/mean": "batch mean"}),
    ("Entropy gate", {"egrsd/gate_mean": "mean gate", "egrsd/token_weight_mean": "mean gate × ratio weight"}),
    ("Teacher entropy, nats", {"egrsd/teacher_entropy_mean": "mean", "egrsd/teacher_entropy_max": "largest"}),
    (
        "Ratio weight at its clip, share",
        {"egrsd/ratio_clip_low_frac": "low (0.8)", "egrsd/ratio_clip_high_frac": "high (1.2)"},
    ),
)
SMOOTHING = 5  # steps
COLORS = matplotlib.color_sequences["petroff10"]  # chosen for readers who see colours differently
MARKERS = "osD^vP*Xph<"  # one more than colours: no pair of both comes twice before the 111th method


def draw(steps: dict[int, dict[str, float]], summary: dict, path: Path, *, rows: int = 2) -> None:
    """Panels over the training steps, three a row; faint lines are single batches, strong ones running means."""
    figure, axes = plt.subplots(rows, 3, figsize=(13, 3.5 * rows), constrained_layout=True)
    numbers = sorted(steps)
    for axis, (title, curves) in zip(axes.flat, PANELS[: 3 * rows], strict=True):
        logged = {
            metric: label for metric, label in curves.items() if all(metric in steps[number] for number in numbers)
        }
        for color, (metric, label) in zip(("tab:blue", "tab:orange"), logged.items(), strict=False):
            values = [steps[number][metric] for number in numbers]
            axis.plot(numbers, values, color=color, alpha=0.3)
            axis.plot(numbers, _running_mean(values), color=color, label=label)
        axis.set(title=title if logged else f"{title}: none", xlabel="training step")
        axis.grid(alpha=0.3)
        if len(logged) > 1:
            axis.legend(frameon=False)
    before, after = summary["accuracy_before"], summary["accuracy_after"]
    axes.flat[1].axhline(before, color="gray", linestyle=":", label=f"held out, before: {before:.0%}")
    axes.flat[1].axhline(after, color="gray", linestyle="--", label=f"held out, after: {after:.0%}")
    axes.flat[1].legend(loc="lower right", edgecolor="none")  # opaque, as its lines run there
    figure.suptitle(f"{summary['algorithm']} on a tiny Qwen3, {TASKS[summary['task']].TITLE}, seed {summary['seed']}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _running_mean(values: list[float]) -> list[float]:
    windows = (values[max(0, end - SMOOTHING) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def draw_comparison(runs: Runs, path: Path, *, title: str) -> None:
    """Left: accuracy against length, a point for each method with its standard errors over seeds. Right: accuracy
    minus the control's, paired by seed: 95 % interval and single seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), constrained_layout=True)
    shared = {"capsize": 3, "markersize": 8, "linestyle": "none"}
    looks = zip(runs, cycle(COLORS), cycle(MARKERS))
    styles = {method: {"color": color, "marker": marker, **shared} for method, color, marker in looks}
    for method, style in styles.items():
        accuracy, length = (mean_of(runs, method, measure) for measure in ("accuracy", "length"))
        left.errorbar(length.value, accuracy.value, xerr=length.error, yerr=accuracy.error, label=method, **style)
    left.set(
        xlabel="response length, tokens",
        ylabel="accuracy on held-out problems",
        title="mean ± standard error over seeds",
    )
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(frameon=False)
    compared = {method: found for method in styles if (found := difference_of(runs, method, "accuracy"))}
    for row, (method, found) in enumerate(compared.items()):
        right.errorbar(found.value, row, xerr=[[found.value - found.low], [found.high - found.value]], **styles[method])
        right.plot(found.each, [row + 0.2] * len(found.each), "|", color="gray")
    right.axvline(0, color="gray", linewidth=1)
    right.set_yticks(range(len(compared)), compared)
    right.invert_yaxis()
    right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set(xlabel=f"accuracy minus {CONTROL}", title="paired by seed: 95 % interval, and the seeds")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
