"""The page: one HTML file that needs no other. Text that a model wrote reaches it escaped, or as JSON that no tag
can end."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from recipe.egrsd.report import figures, mechanism
from recipe.egrsd.report.leakage import NGRAM, StepAudit
from recipe.egrsd.report.runs import Estimate, Run
from recipe.egrsd.watch.metrics import METRICS

HERE = Path(__file__).parent
SHOWN_STEPS, SHOWN_RESPONSES, SHOWN_QUOTES = 8, 4, 10
"""What of the saved tokens goes into the page, which says so."""
PER_TOKEN = (
    "mask", "teacher_mask", "student_log_probs", "teacher_log_probs", "teacher_entropy", "lookahead_entropy", "gate",
    "gate_without_lookahead", "ratio_weight", "token_weight", "advantage", "kind", "token_ids", "tokens",
)  # fmt: skip
DIGITS = 4
OF_THE_PAST = {"egrsd/baseline_std"}
"""Of the steps before, of which the first has none: its 0 says nothing."""
RULES = {"last": "last", "validation": "best on validation"}


def render(runs: Sequence[Run], audits: Mapping[str, list[StepAudit]]) -> str:
    """The whole page."""
    settings = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), **settings)
    environment.filters |= {"number": _number, "percent": _percent, "share": _share, "printed": _printed, "part": _part}
    script = (HERE / "tokens.js").read_text()
    benchmarks = list(dict.fromkeys(name for run in runs for e in run.evaluations for name in e.benchmarks))
    tenths = mechanism.tenths(runs)
    has_evaluations, has_audits = any(run.evaluations for run in runs), any(audits.values())
    return environment.get_template("page.html.jinja").render(
        runs=runs,
        style=(HERE / "page.css").read_text(),
        script=script,
        # Nothing but this script runs, whatever a model has written.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        curves=_curves(runs),
        outside=_outside(runs),
        frontier=figures.svg((12, 4.8), figures.frontier, runs) if has_evaluations else None,
        benchmarks=benchmarks,
        other_benchmarks=not figures.on_the_papers_benchmarks(runs),
        paper_benchmarks=figures.PAPER_BENCHMARKS,
        evaluations=_evaluations(runs),
        tokens=[_tokens(run) for run in runs if run.tokens],
        kinds=[_kinds(run) for run in runs if run.tokens],
        tenths=tenths,
        mechanism=figures.svg((12, 4), figures.mechanism, tenths) if tenths else None,
        leakage=figures.svg((12, 4), figures.leakage, audits) if has_audits else None,
        audits=audits,
        paper=figures.PAPER,
        paper_names=figures.PAPER_NAMES,
        limits={"steps": SHOWN_STEPS, "responses": SHOWN_RESPONSES, "quotes": SHOWN_QUOTES, "ngram": NGRAM},
    )


def _curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    meanings = METRICS | figures.VERLS
    return [
        {
            "name": name,
            "text": meanings[name].text if name in meanings else "verl's validation",
            "svg": figures.svg((3.9, 2.3), figures.one_curve, runs, name),
        }
        for name in figures.curve_names(runs)
    ]


def _outside(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every metric of a run that has left its healthy range, with the steps at which it had."""
    found = []
    for run in runs:
        for name, meaning in METRICS.items():
            begin = 2 if name in OF_THE_PAST else 1
            values = {step: data[name] for step, data in run.metrics.items() if name in data and step >= begin}
            low, high = (
                (-math.inf if meaning.low is None else meaning.low),
                (math.inf if meaning.high is None else meaning.high),
            )
            steps = [step for step, value in values.items() if not low <= value <= high]
            if steps:
                numbers = {"steps": steps, "of": len(values), "last": values[max(values)]}
                found.append({"run": run.name, "metric": name, "meaning": meaning, **numbers})
    return found


def _evaluations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The models without a step, then what the rules have chosen; nothing else may enter the table."""
    rows = [("", run, evaluation) for run in runs for evaluation in run.evaluations if evaluation.step is None]
    rows += [(RULES[rule], run, evaluation) for run in runs for rule, evaluation in run.chosen().items()]
    return [{"rule": rule, "run": run.name, "evaluation": evaluation} for rule, run, evaluation in rows]


def _tokens(run: Run) -> dict[str, Any]:
    """What tokens.js shows of a run."""
    steps = _spread(list(run.tokens), SHOWN_STEPS)
    return {
        "run": run.name,
        "steps": [
            {"step": step, "responses": [_response(row) for row in run.tokens[step][:SHOWN_RESPONSES]]}
            for step in steps
        ],
        "settings": run.settings,
    }


def _response(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: row[name] for name in ("uid", "prompt", "teacher_prompt", "solution")}
    numbers = {name: _rounded(row[name]) for name in ("reward", "entropy_scale")}
    columns = {name: row[name] and [_rounded(value) for value in row[name]] for name in PER_TOKEN}
    return texts | numbers | columns  # None for what the run's weight does not have


def _kinds(run: Run) -> dict[str, Any]:
    """Share of each kind among all saved tokens of a run that a teacher has scored, and the mean of what the lookahead
    gives back to its gate, if its weight has one: by fixed bounds and by percentiles."""
    tokens = mechanism.sampled(run)
    settings = {key: run.settings.get(key) for key in ("window", "gamma")}
    return {"run": run.name, "total": len(tokens), **settings, **mechanism.kinds(tokens)}


def _spread(items: Sequence[int], limit: int) -> list[int]:
    """At most that many, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _rounded(value: Any) -> Any:
    """JSON has no NaN, which a masked position may hold."""
    if not isinstance(value, float):
        return value
    return round(value, DIGITS) if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{100 * estimate.value:.1f}" + ("" if estimate.se is None else f" ± {100 * estimate.se:.1f}")


def _part(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _share(share: Any) -> str:
    if share.mean is None:
        return "–"
    return f"{100 * share.mean:.1f} %" + ("" if share.se is None else f" ± {100 * share.se:.1f}")


def _printed(figures_: Mapping[str, float], benchmark: str) -> str:
    """The paper's figure, whatever the case of the benchmark's name."""
    return next((f"{value:.2f}" for name, value in figures_.items() if name.lower() == benchmark.lower()), "–")
