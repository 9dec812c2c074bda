"""The paper's picture of its mechanism, from the saved tokens of a run: where teacher and student disagree, what the
weights make of it, and what the lookahead gives back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from recipe.egrsd.report.runs import Run
from recipe.egrsd.watch.kinds import HIGH, KINDS, LOW, MARKING_WINDOW, PERCENTILES, kinds_of

TENTHS = 10
WEIGHTS = ["ratio_weight", "gate", "gate_without_lookahead", "token_weight"]
COLUMNS = ["entropy", "now", "ahead", "distance", *WEIGHTS]


def tenths(runs: Sequence[Run]) -> dict[str, list[dict[str, float | None]]]:
    """``of_tenths`` of each run that has saved tokens which a teacher has scored, by its name."""
    found = {run.name: (sampled(run), run.settings.get("clip_range")) for run in runs if run.tokens}
    return {name: of_tenths(tokens, clip_range=clip or 0.0) for name, (tokens, clip) in found.items() if len(tokens)}


def sampled(run: Run) -> pd.DataFrame:
    """Every token of the saved responses that a teacher has scored.

    entropy           of the teacher, nats
    now, ahead        the same over the step's entropy scale; the smallest of now and the next tokens
    distance          |log p_T - log p_S|, nats
    ratio_weight ...  WEIGHTS, NaN for what the run's weight does not have
    """
    window = run.settings.get("window") or MARKING_WINDOW
    rows = [_columns(row, window) for rows in run.tokens.values() for row in rows]
    return pd.concat(rows or [pd.DataFrame(columns=COLUMNS, dtype=np.float32)])


def of_tenths(tokens: pd.DataFrame, *, clip_range: float) -> list[dict[str, float | None]]:
    """Tenths of the tokens by the teacher's entropy, the surest first: means, and the shares at the ratio's clip."""
    ratio = tokens["ratio_weight"].to_numpy(np.float32)
    clips = {"clipped_low": ratio <= np.float32(1 - clip_range), "clipped_high": ratio >= np.float32(1 + clip_range)}
    means = ["entropy", "distance", "ratio_weight", "gate", "token_weight", *clips]
    clipped = {name: np.where(np.isnan(ratio) | (clip_range == 0), np.nan, at) for name, at in clips.items()}
    ordered = tokens.assign(**clipped).sort_values("entropy", kind="stable")[means]
    return [_means(ordered.iloc[places]) for places in np.array_split(np.arange(len(ordered)), TENTHS)]


def kinds(tokens: pd.DataFrame) -> dict[str, dict[str, dict[str, float | None]]]:
    """Share of each kind, and what the lookahead gives back to its gate, by the bounds of both of the paper's
    figures: {"fixed", "percentiles"} -> kind -> {"share", "restored"}."""
    now, ahead = (tokens[name].to_numpy(np.float32) for name in ("now", "ahead"))
    restored = tokens["gate"] - tokens["gate_without_lookahead"]
    percentiles = np.percentile(now, PERCENTILES) if len(now) else (HIGH, LOW)
    found = {}
    for name, (high, low) in {"fixed": (HIGH, LOW), "percentiles": percentiles}.items():
        kind = kinds_of(now, ahead, high=float(high), low=float(low))
        parts = {of: pd.DataFrame({"restored": restored[kind == i]}) for i, of in enumerate(KINDS)}
        shares = {of: len(part) / len(now) if len(now) else None for of, part in parts.items()}
        found[name] = {of: {"share": shares[of], **_means(part)} for of, part in parts.items()}
    return found


def _columns(row: Mapping[str, Any], window: int) -> pd.DataFrame:
    """What of a saved response was scored."""
    mask = np.asarray(row["teacher_mask"], dtype=bool)
    names = ("teacher_entropy", "teacher_log_probs", "student_log_probs")
    entropy, teacher, student = (np.asarray(row[name], dtype=np.float32) for name in names)
    now = np.where(mask, entropy, np.float32(np.inf)) / np.float32(row["entropy_scale"])
    ahead = sliding_window_view(np.concatenate([now, np.full(window, np.inf, np.float32)]), window + 1).min(-1)
    weights = {name: np.nan if row[name] is None else np.asarray(row[name], dtype=np.float32) for name in WEIGHTS}
    columns = {"entropy": entropy, "now": now, "ahead": ahead, "distance": np.abs(teacher - student), **weights}
    return pd.DataFrame(columns)[mask]


def _means(part: pd.DataFrame) -> dict[str, float | None]:
    """In float64; None for what is not there."""
    means = part.astype(np.float64).mean()
    return {str(name): None if np.isnan(value) else float(value) for name, value in means.items()}
