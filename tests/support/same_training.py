"""Whether two whole runs on the same rollouts are the same training: weights of every token, parameters, baseline."""

import pytest
import torch
from micro_batches import settings
from runs import Run, parameters

from recipe.egrsd.method.weights import token_weights
from recipe.egrsd.watch.metrics import METRICS, OF_DIVERGENCE, OF_PRIVILEGE

LOGGED = METRICS.keys() - OF_PRIVILEGE - OF_DIVERGENCE
"""By a run without a divergence and without peers."""
COLUMNS = ("old_log_probs", "teacher_log_probs", "teacher_entropy", "advantages")


def rows(result: Run, step: int) -> dict[tuple, dict[str, torch.Tensor]]:
    """Prompt and response -> what was recorded of that row; verl orders a batch as the responses happen to finish."""
    batch = result.probe(step)
    assert not any(batch["is_padding"])
    names = [tuple(torch.cat(pair).tolist()) for pair in zip(batch["prompts"], batch["responses"], strict=True)]
    assert len(set(names)) == len(names)
    return {name: {column: batch[column][i] for column in COLUMNS} for i, name in enumerate(names)}


def weights(result: Run, step: int, *, window: int, gamma: float = 0.3):
    """Ratio weight and gate of every recorded token, one row each."""
    egrsd, scalars = settings(gamma=gamma, window=window), {"mixing": 1.0}
    scalars |= {name: result.probe(step)[name] for name in ("entropy_scale", "gate_mean")}
    for name, row in rows(result, step).items():
        student, teacher, entropy, advantages = (row[column].float()[None] for column in COLUMNS)
        mask = torch.ones_like(student, dtype=torch.bool)
        yield (
            name,
            token_weights(student, teacher, entropy, advantages, mask, **scalars, **egrsd.weight_knobs),
        )


def assert_same_training(one: Run, other: Run) -> None:
    """Per-token weights within 1e-5 in every step, parameters within 1e-6 after three, and they did move."""
    for step in (1, 2, 3):
        ours, theirs = dict(weights(one, step, window=3)), dict(weights(other, step, window=3))
        assert ours.keys() == theirs.keys()
        for name, mine in ours.items():
            for field in ("ratio", "gate"):
                torch.testing.assert_close(getattr(mine, field), getattr(theirs[name], field), atol=1e-5, rtol=0)
        assert one.probe(step)["baseline"] == pytest.approx(other.probe(step)["baseline"], abs=1e-12)
    after, expected = parameters(one, 3), parameters(other, 3)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            after[name], tensor, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
