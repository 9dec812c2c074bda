"""Rows of responses -> figures, and the table that is printed. Shares lie between 0 and 1; the table shows percent."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from recipe.egrsd.evaluate import statistics
from recipe.egrsd.evaluate.responses import UNGRADED
from recipe.egrsd.evaluate.statistics import Estimate

COLUMNS = [
    *("benchmark", "index", "sample", "fingerprint", "pred", "score", "tokens", "truncated", "has_answer", *UNGRADED),
    *("think_opened", "think_closed", "think_tokens"),
]
MACRO = ("accuracy", "tokens_mean", "truncated")


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Everything about one benchmark, from its responses: the same number of each problem."""
    samples = int(rows["sample"].max()) + 1
    rows = rows.sort_values(["index", "sample"])
    score, tokens = (_by_problem(rows, column, samples) for column in ("score", "tokens"))
    powers = [2**i for i in range(samples.bit_length())]
    passed = {k: statistics.pass_at(score > 0, k)[:, None] for k in sorted({*powers, samples})}
    votes = np.array([[problem["majority"]] for problem in by_problem(rows)])
    return {
        "problems": len(score),
        "samples": samples,
        "accuracy": {**asdict(statistics.clustered_mean(score)), "se_sampling": statistics.sampling_error(score)},
        "pass_at": {str(k): asdict(statistics.clustered_mean(values)) for k, values in passed.items()},
        "majority": asdict(statistics.clustered_mean(votes)),
        "tokens_mean": asdict(statistics.clustered_mean(tokens)),
        "tokens_median": float(np.median(tokens)),
        "tokens_p90": float(np.quantile(tokens, 0.9)),
        "truncated": asdict(statistics.clustered_mean(_by_problem(rows, "truncated", samples))),
        "no_answer": float(1 - rows["has_answer"].mean()),
        "ungraded": {flag: int(rows[flag].sum()) for flag in UNGRADED},
        "think": _think(rows),
    }


def by_problem(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One row for each problem: what a comparison of two runs needs."""
    problems = []
    for (benchmark, index), own in rows.groupby(["benchmark", "index"], sort=True):
        answers = own["pred"].where(own["has_answer"] & (own["pred"] != ""), None)
        problems.append(
            {
                "benchmark": benchmark,
                "index": index,
                "fingerprint": own["fingerprint"].iloc[0],
                "samples": len(own),
                "accuracy": float(own["score"].mean()),
                "majority": statistics.majority(answers.tolist(), own["score"].tolist()),
                "tokens_mean": float(own["tokens"].mean()),
                "truncated": float(own["truncated"].mean()),
            }
        )
    return problems


def macro(benchmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over benchmarks."""
    estimates = {name: [Estimate(b[name]["value"], b[name]["se"]) for b in benchmarks.values()] for name in MACRO}
    return {name: asdict(statistics.macro_mean(values)) for name, values in estimates.items()}


def table(results: Mapping[str, Any]) -> str:
    """The figures as text."""
    head = [
        "benchmark",
        "problems",
        "k",
        "avg@k ± SE",
        "(sampling)",
        "pass@k",
        "maj@k",
        "tokens ± SE",
        "median",
        "90 %",
    ]
    lines = [[*head, "cut", "think closed", "tokens in it"]]
    for name, b in results["benchmarks"].items():
        k, think = b["samples"], b["think"]
        lines.append(
            [
                *(
                    name,
                    str(b["problems"]),
                    str(k),
                    _percent(b["accuracy"]),
                    f"(± {_number(b['accuracy']['se_sampling'], 100)})",
                ),
                *(
                    _number(b["pass_at"][str(k)]["value"], 100),
                    _number(b["majority"]["value"], 100),
                    _tokens(b["tokens_mean"]),
                ),
                *(f"{b['tokens_median']:,.0f}", f"{b['tokens_p90']:,.0f}", _number(b["truncated"]["value"], 100)),
                *(_number(think["closed"], 100), _number(think["tokens_mean"], 1)),
            ]
        )
    total = results["macro"]
    macro_row = ["mean", "", "", _percent(total["accuracy"]), "", "", "", _tokens(total["tokens_mean"]), "", ""]
    lines.append([*macro_row, _number(total["truncated"]["value"], 100), "", ""])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of the same width, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _by_problem(rows: pd.DataFrame, column: str, samples: int) -> np.ndarray:
    return rows[column].to_numpy(dtype=float).reshape(-1, samples)


def _think(rows: pd.DataFrame) -> dict[str, float | None]:
    """Shares of all responses, and tokens inside a block over those that opened one; None for a model without the
    tags."""
    if rows["think_opened"].isna().any():
        return {"opened": None, "closed": None, "tokens_mean": None}
    inside = rows["think_tokens"].dropna()
    return {
        "opened": float(rows["think_opened"].astype(float).mean()),
        "closed": float(rows["think_closed"].astype(float).mean()),
        "tokens_mean": float(inside.mean()) if len(inside) else None,
    }


def _percent(estimate: Mapping[str, float | None]) -> str:
    return f"{_number(estimate['value'], 100)} ± {_number(estimate['se'], 100)}"


def _tokens(estimate: Mapping[str, float | None]) -> str:
    return f"{estimate['value']:,.0f} ± {_number(estimate['se'], 1)}"


def _number(value: float | None, factor: float) -> str:
    if value is None:
        return "n/a"
    return f"{value * factor:,.1f}" if factor != 1 else f"{value:,.0f}"
