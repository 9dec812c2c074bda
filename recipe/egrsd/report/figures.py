"""Every figure, drawn by one function: as PNG on white, and as SVG whose ink is the page's text colour, for light
and dark."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recipe.egrsd.report.leakage import NGRAM, Share, StepAudit
from recipe.egrsd.report.mechanism import TENTHS, tenths
from recipe.egrsd.report.runs import Evaluation, Run
from recipe.egrsd.watch.metrics import METRICS, Meaning

PAPER = json.loads(Path(__file__).parents[1].joinpath("config", "paper.json").read_text())
PAPER_BENCHMARKS = PAPER["columns"][:-2]  # then come their mean and the length
PAPER_MARKERS = {"none": "o", "sft": "v", "grpo": "s", "opsd": "D", "crisp": "P", "egrsd": "^", "cl_egrsd": "*"}
PAPER_NAMES = {"none": "untrained", "egrsd": "EGRSD", "cl_egrsd": "CL-EGRSD"}
# Okabe and Ito's colours that are told apart on white and on black, by eyes of every kind; the dashes repeat the
# message.
COLORS, DASHES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"), ("-", "--", "-.", ":")
HEALTHY, GREY = "#009E73", "#808080"
# What verl logs and a reader wants to see beside ours; no range is known to be healthy.
VERLS = {
    "response_length/mean": Meaning("response length, mean over responses", "tokens"),
    "actor/grad_norm": Meaning("gradient norm before clipping", "1"),
}
COLUMNS = 4
INK, INK_OF_SVG = "#1a1a1a", "#010203"


def pictures(runs: Sequence[Run], audits: Mapping[str, list[StepAudit]]) -> dict[str, Figure]:
    """The PNGs by name; one that would be empty is left out."""
    found = {}
    with matplotlib.rc_context(_style(INK)):
        if curve_names(runs):
            found["training"] = _curves(runs)
        if any(run.evaluations for run in runs):
            found["frontier"] = Figure(figsize=(12, 4.8), layout="constrained")
            frontier(found["frontier"], runs)
        if tables := tenths(runs):
            found["mechanism"] = Figure(figsize=(12, 4), layout="constrained")
            mechanism(found["mechanism"], tables)
        if any(audits.values()):
            found["leakage"] = Figure(figsize=(12, 4), layout="constrained")
            leakage(found["leakage"], audits)
    return found


def svg(size: tuple[float, float], draw: Callable[..., None], *args: Any) -> str:
    """What ``draw(figure, *args)`` draws, as an <svg> element without ids that two figures could share by accident."""
    with matplotlib.rc_context(_style(INK_OF_SVG)), StringIO() as file:
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, *args)
        figure.savefig(file, format="svg", transparent=True)
        text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", text).replace(INK_OF_SVG, "currentColor")


def curve_names(runs: Sequence[Run]) -> list[str]:
    """The metrics that some run has logged, ours first."""
    logged = {name for run in runs for data in run.metrics.values() for name in data}
    return [name for name in (*METRICS, *VERLS) if name in logged] + sorted(
        n for n in logged if n.startswith("val-core/")
    )


def one_curve(figure: Figure, runs: Sequence[Run], name: str) -> None:
    curve(figure.subplots(), runs, name)


def curve(axis: Axes, runs: Sequence[Run], name: str) -> None:
    """A metric over the steps, its healthy range shaded."""
    meaning = {**METRICS, **VERLS}.get(name, Meaning("", ""))
    values = []
    for i, run in enumerate(runs):
        if not run.metrics:  # its colour stays its own, its name out of the legend
            continue
        steps = [step for step, data in run.metrics.items() if name in data]
        points = [run.metrics[step][name] for step in steps]
        values += points
        axis.plot(
            steps, points, marker="o" if len(points) < 15 else None, markersize=3, label=_plain(run.name), **_look(i)
        )
    bottom, top = _limits(values, meaning)
    axis.set_ylim(bottom, top)
    if (meaning.low, meaning.high) != (None, None):
        low, high = max(bottom, _or(meaning.low, bottom)), min(top, _or(meaning.high, top))
        axis.axhspan(low, high, color=HEALTHY, alpha=0.13, linewidth=0, zorder=0)
    locator = cast(MaxNLocator, axis.xaxis.get_major_locator())
    locator.set_params(integer=True, min_n_ticks=1)
    axis.set_title(_plain(name.removeprefix("egrsd/")), loc="left")
    axis.set_ylabel("" if meaning.unit == "1" else meaning.unit)


def _limits(values: Sequence[float], meaning: Meaning) -> tuple[float, float]:
    """The data with a margin, and the bound of the healthy range that they have crossed."""
    bottom, top = min(values), max(values)
    if meaning.low is not None and bottom < meaning.low:
        top = max(top, meaning.low)
    if meaning.high is not None and top > meaning.high:
        bottom = min(bottom, meaning.high)
    largest, spread = max(-bottom, top), top - bottom
    margin = 0.07 * spread if spread > 1e-6 * largest else 0.1 * largest or 0.1  # less is a float32's rounding
    return bottom - margin, top + margin


def frontier(figure: Figure, runs: Sequence[Run]) -> None:
    """Accuracy against response length: ours, and on the paper's benchmarks ours beside the paper's."""
    axes = figure.subplots(1, 2 if on_the_papers_benchmarks(runs) else 1, squeeze=False)[0]
    for axis in axes:
        for i, run in enumerate(runs):
            if run.evaluations:
                _evaluations(axis, run, i, with_names=axis is axes[0])
        axis.set(xlabel="response tokens, mean", ylabel="accuracy, mean over benchmarks, %")
    axes[0].set_title("This report (bars: one standard error; hollow: chosen by the fixed rule)", loc="left")
    if axes[0].lines:
        axes[0].legend(loc="lower right", frameon=False)
    for axis in axes[1:]:
        paper = []
        for j, (model, methods) in enumerate(PAPER["results"].items()):
            for method, figures in methods.items():
                look = {"marker": PAPER_MARKERS[method], "s": 110 if "egrsd" in method else 40, "edgecolors": GREY}
                name = PAPER_NAMES.get(method, method.upper())
                look |= {"facecolors": GREY if j else "none", "label": f"{model} {name}"}
                paper.append(axis.scatter(figures["AvgLen"], figures["Avg"], **look))
        axis.set_title("Beside the paper's figures (grey, as printed there: no errors given)", loc="left")
        axis.legend(handles=paper, title="paper", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7)


def on_the_papers_benchmarks(runs: Sequence[Run]) -> bool:
    """Whether the means of these runs are over the paper's benchmarks, whatever the case of their names."""
    names = {name.lower() for run in runs for evaluation in run.evaluations for name in evaluation.benchmarks}
    return names == {name.lower() for name in PAPER_BENCHMARKS}


def _evaluations(axis: Axes, run: Run, i: int, *, with_names: bool) -> None:
    """A run's checkpoints, joined in the order of training, and the models without a step, which stand alone."""
    chosen = {id(evaluation) for evaluation in run.chosen().values()}
    look = _look(i)
    path = list(run.checkpoints.values())
    points = [e.tokens.value for e in path], [100 * e.accuracy.value for e in path]
    axis.plot(*points, alpha=0.5, label=_plain(run.name), **look)
    for evaluation in run.evaluations:
        errors = {"xerr": evaluation.tokens.se, "yerr": 100 * (evaluation.accuracy.se or 0.0)}
        point = (evaluation.tokens.value, 100 * evaluation.accuracy.value)
        fill: dict[str, Any] = (
            {"markerfacecolor": "none", "markersize": 9} if id(evaluation) in chosen else {"markersize": 5}
        )
        axis.errorbar(*point, **errors, marker="o", color=look["color"], capsize=2, linewidth=1, **fill)
        if with_names:
            axis.annotate(_short(evaluation), point, xytext=(6, 6), textcoords="offset points")


def leakage(figure: Figure, audits: Mapping[str, list[StepAudit]]) -> None:
    """Overlap with the reference and telling phrases over the steps; bars are one standard error."""
    overlap, phrases = figure.subplots(1, 2)
    for i, (name, steps) in enumerate(audits.items()):
        if not steps:
            continue
        _shares(
            overlap,
            steps,
            [audit.own for audit in steps],
            label=f"{_plain(name)}: own reference",
            marker="o",
            **_look(i),
        )
        control = {"color": _look(i)["color"], "linestyle": ":", "alpha": 0.7}
        _shares(
            overlap, steps, [audit.others for audit in steps], label="other problems' references", marker="s", **control
        )
        _shares(phrases, steps, [audit.phrases for audit in steps], marker="o", **_look(i))
    overlap.set_title(f"Responses' {NGRAM}-grams that stand in the reference, %", loc="left")
    phrases.set_title("Responses that speak of a reference, %", loc="left")
    for axis in (overlap, phrases):
        axis.set_xlabel("training step")
        axis.set_ylim(0.0, max(5.0, axis.get_ylim()[1]))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(*overlap.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def mechanism(figure: Figure, tables: Mapping[str, Sequence[Mapping[str, float | None]]]) -> None:
    """By tenths of the teacher's entropy: how far teacher and student are apart, and what the weights make of it."""
    panels = {"distance": "|log p_T − log p_S|, nats", "token_weight": "token weight = ratio weight × gate"}
    for axis, (name, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for i, (run, rows) in enumerate(tables.items()):
            values = [row[name] for row in rows]
            axis.plot(range(1, len(rows) + 1), values, marker="o", markersize=3, label=_plain(run), **_look(i))
        printed = PAPER["mechanism"][name]
        axis.plot([*map(int, printed)], [*printed.values()], "*", color=GREY, markersize=9, label="the paper")
        axis.set(title=title, xlabel="tenth of the tokens by the teacher's entropy, the surest first")
        axis.set_xticks(range(1, TENTHS + 1))
    figure.axes[0].set_yscale("log", nonpositive="mask")
    figure.axes[0].legend(frameon=False, loc="best")


def _shares(axis: Axes, audits: Sequence[StepAudit], shares: Sequence[Share], **look: Any) -> None:
    pairs = zip(audits, shares, strict=True)
    known = [(audit.step, 100 * share.mean, 100 * (share.se or 0)) for audit, share in pairs if share.mean is not None]
    steps, means, errors = ([entry[column] for entry in known] for column in range(3))
    axis.errorbar(steps, means, yerr=errors, capsize=2, elinewidth=0.8, markersize=4, **look)


def _curves(runs: Sequence[Run]) -> Figure:
    names = curve_names(runs)
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.4 * rows), layout="constrained")
    for axis, name in zip_longest(figure.subplots(rows, COLUMNS, squeeze=False).flat, names):
        if name is None:
            axis.set_visible(False)
        else:
            curve(axis, runs, name)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6, frameon=False)
    figure.supxlabel("training step; the healthy range is shaded", fontsize=10)
    return figure


def _look(i: int) -> dict[str, Any]:
    return {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]}


def _short(evaluation: Evaluation) -> str:
    return _plain(Path(evaluation.model).name) if evaluation.step is None else str(evaluation.step)


def _plain(text: str) -> str:
    """Text as it stands: a dollar sign would start a formula, a first underscore would hide a label."""
    return text.replace("$", r"\$").removeprefix("_")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _style(ink: str) -> dict[Any, Any]:
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    return {
        **dict.fromkeys(inks, ink), "grid.alpha": 0.2, "axes.grid": True, "axes.spines.top": False,
        "axes.spines.right": False, "axes.formatter.useoffset": False,
        "font.size": 8, "axes.titlesize": 9, "lines.linewidth": 1.6, "svg.fonttype": "none", "svg.hashsalt": "egrsd",
    }  # fmt: skip
