"""training.png: how one run went over its steps."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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


def draw(steps: dict[int, dict[str, float]], summary: dict, path: Path, *, rows: int = 2) -> None:
    """Panels over the training steps, three a row; faint lines are single batches, strong ones running means."""
    figure, axes = plt.subplots(rows, 3, figsize=(13, 3.5 * rows), constrained_layout=True)
    numbers = sorted(steps)
    for axis, (name, curves) in zip(axes.flat, PANELS[: 3 * rows], strict=True):
        logged = {
            metric: label for metric, label in curves.items() if all(metric in steps[number] for number in numbers)
        }
        for color, (metric, label) in zip(("tab:blue", "tab:orange"), logged.items(), strict=False):
            values = [steps[number][metric] for number in numbers]
            axis.plot(numbers, values, color=color, alpha=0.3)
            axis.plot(numbers, _running_mean(values), color=color, label=label)
        axis.set(title=name if logged else f"{name}: none", xlabel="training step")
        axis.grid(alpha=0.3)
        if len(logged) > 1:
            axis.legend(frameon=False)
    before, after = summary["accuracy_before"], summary["accuracy_after"]
    axes.flat[1].axhline(before, color="gray", linestyle=":", label=f"held out, before: {before:.0%}")
    axes.flat[1].axhline(after, color="gray", linestyle="--", label=f"held out, after: {after:.0%}")
    axes.flat[1].legend(loc="lower right", edgecolor="none")  # opaque, as its lines run there
    figure.suptitle(summary["title"])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _running_mean(values: list[float]) -> list[float]:
    windows = (values[max(0, end - SMOOTHING) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
