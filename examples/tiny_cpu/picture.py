"""comparison.png: how methods differ over seeds."""

from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from examples.tiny_cpu.paired import CONTROL, Runs, difference_of, mean_of

COLORS = matplotlib.color_sequences["petroff10"]  # chosen for readers who see colours differently
MARKERS = "osD^vP*Xph<"  # one more than colours: no pair of both comes twice before the 111th method


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
