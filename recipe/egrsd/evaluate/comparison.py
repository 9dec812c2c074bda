"""Two evaluated folders, paired problem by problem."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from recipe.egrsd.evaluate import Refused, statistics, store
from recipe.egrsd.evaluate.summary import aligned

METRICS = {"accuracy": 100, "majority": 100, "tokens_mean": 1, "truncated": 100}  # name -> factor in the printed table
SHOWN = 5


def compare(before: Path, after: Path) -> dict[str, Any]:
    """Differences after - before of every benchmark that both folders hold, and of their mean.

    Raises:
        Refused: a folder without results, or a benchmark whose problems are not the same in both.
    """
    first, second = _load(before), _load(after)
    shared = [name for name in first if name in second]
    if not shared:
        raise Refused(
            f"{before} holds {', '.join(first)} and {after} holds {', '.join(second)}: no benchmark in common."
        )
    result = {name: _benchmark(name, first[name], second[name]) for name in shared}
    macro = {metric: statistics.macro_difference([result[name][metric] for name in shared]) for metric in METRICS}
    return {
        "before": str(before),
        "after": str(after),
        "left_out": sorted(set(first) ^ set(second)),
        "settings": _different_settings(before, after),
        "benchmarks": {name: {"problems": len(first[name]), **_as_dicts(result[name])} for name in shared},
        "macro": _as_dicts(macro),
    }


def table(result: Mapping[str, Any]) -> str:
    """The differences as text, with everything that makes them less than a plain comparison."""
    lines = [["after - before", "problems", "metric", "difference ± SE", "95 % interval", "p"]]
    for name, values in [*result["benchmarks"].items(), ("mean", result["macro"])]:
        for metric, factor in METRICS.items():
            d = {
                key: value if value is None or key == "p_value" else value * factor
                for key, value in values[metric].items()
            }
            known = d["se"] is not None
            interval = f"{d['low']:+,.1f} … {d['high']:+,.1f}" if known else "n/a"
            error, p_value = (
                f"{d['se']:,.1f}" if known else "n/a",
                "n/a" if d["p_value"] is None else f"{d['p_value']:.3f}",
            )
            count = str(values.get("problems", ""))
            lines.append([name, count, metric, f"{d['value']:+,.1f} ± {error}", interval, p_value])
    notes = [f"only in one of the two, left out: {', '.join(result['left_out'])}"] if result["left_out"] else []
    notes += [f"{key}: {old!r} before, {new!r} after" for key, (old, new) in result["settings"].items()]
    return "\n".join([aligned(lines), *notes])


def _load(folder: Path) -> dict[str, pd.DataFrame]:
    path = folder / store.PROBLEMS
    if not path.exists():
        raise Refused(
            f"{folder} has no {store.PROBLEMS}: nothing was evaluated there, or not to its end. Finish it first."
        )
    return {
        str(name): rows.set_index("index").sort_index() for name, rows in pd.read_parquet(path).groupby("benchmark")
    }


def _benchmark(name: str, first: pd.DataFrame, second: pd.DataFrame) -> dict[str, statistics.Difference]:
    union = first.index.union(second.index)
    differing = [i for i in union if i not in first.index or i not in second.index]
    differing += [
        i for i in first.index.intersection(second.index) if first["fingerprint"][i] != second["fingerprint"][i]
    ]
    if differing:
        raise Refused(
            f"{name}: {len(differing)} of {len(union)} problems are missing in one run or have another text there "
            f"(index {', '.join(differing[:SHOWN])}{', …' * (len(differing) > SHOWN)}); evaluate both runs on the same "
            "files."
        )
    return {
        metric: statistics.paired_difference(first[metric].to_numpy(), second[metric].to_numpy()) for metric in METRICS
    }


def _different_settings(before: Path, after: Path) -> dict[str, tuple[Any, Any]]:
    """What differs besides the model: sampling, versions, seed."""
    first, second = (json.loads((folder / store.SETTINGS).read_text()) for folder in (before, after))
    keys = [key for key in {**first, **second} if key not in ("model", "revision", "adapter", "weights")]
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def _as_dicts(differences: Mapping[str, statistics.Difference]) -> dict[str, Any]:
    return {name: asdict(difference) for name, difference in differences.items()}
