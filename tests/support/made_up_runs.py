"""A run folder with made-up numbers and hostile texts, as the recipe would write it: what the report is tested on."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from micro_batches import jagged, settings
from tensordict import NonTensorStack, TensorDict

from recipe.egrsd.watch import tokens
from recipe.egrsd.watch.metrics import METRICS, OF_DIVERGENCE, OF_GROUPS, OF_PRIVILEGE

HOSTILE = [
    "</script><script>document.title='broken'</script>", "<img src=x onerror=\"document.title='broken'\">", "<!--",
    "]]>", "&lt;b&gt;", "\u2028", "'\"`", "{{ 7 * 7 }}", "\n", "", "  ", "\u202e", "$x_1$", "</style>",
    "<svg onload=alert(1)>", "\x00",
]  # fmt: skip
WORDS = [
    "First ",
    "add ",
    "the ",
    "ones: ",
    "3+",
    "4=",
    "7, ",
    "then ",
    "carry ",
    "0",
    ". ",
    "So ",
    "x ",
    "is ",
    "57",
    ".\n",
]


class Spelling:
    """A tokenizer whose ids are places in a list of texts."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.texts[i] for i in ids)


def write_tokens(
    folder: Path,
    step: int,
    *,
    texts: Sequence[str] = (),
    solutions: Sequence[str] = (),
    scored: Sequence[int] | None = None,
    **keys: Any,
) -> Path:
    """Four responses, the second with a hole in its mask and a NaN under it; entropies of locks, forks and pivots.

    scored: of how many of each one's tokens, the first ones, the teacher says something; None: of all. As teaching.py
    writes it, the scores of the others are 0.
    """
    vocabulary = [*WORDS, *HOSTILE, *texts]
    draw = torch.Generator().manual_seed(step)
    responses = [torch.randint(len(WORDS), (length,), generator=draw) for length in (160, 40, 90)]
    responses.append(torch.arange(len(WORDS), len(vocabulary)))
    masks = [torch.ones(len(ids), dtype=torch.int64) for ids in responses]
    masks[1][5:9] = 0
    entropy = [
        torch.where(torch.rand(len(ids), generator=draw) < 0.4, 2.5 * torch.rand(len(ids), generator=draw), 0.001)
        for ids in responses
    ]
    entropy[0][30:42] = 1.8  # a fork
    entropy[1][6] = math.nan
    student = [-2 * torch.rand(len(ids), generator=draw) for ids in responses]
    teacher = [row + 0.4 * torch.randn(len(row), generator=draw) for row in student]
    taught = [mask.clone() for mask in masks]
    for mask, row, log_probs, number in zip(taught, entropy, teacher, scored or (), strict=bool(scored)):
        mask[number:], row[number:], log_probs[number:] = 0, 0.0, 0.0
    signs = (1.2, -0.8, 0.6, -0.5)
    columns = {
        "prompts": [torch.arange(4)] * 4, "responses": responses, "response_mask": masks, "teacher_mask": taught,
        "student_log_probs": student,
        "teacher_log_probs": teacher, "teacher_entropy": entropy,
        "advantages": [torch.full((len(ids),), sign) for ids, sign in zip(responses, signs, strict=True)],
        "rm_scores": [torch.cat([torch.zeros(len(ids) - 1), torch.tensor([max(sign, 0)])])
                      for ids, sign in zip(responses, signs, strict=True)],
    }  # fmt: skip
    solutions = solutions or ["First add the ones: 3+4=7, then carry nothing. So x is 57.", HOSTILE[0], "", "5 = 5"]
    data = TensorDict({name: jagged(rows) for name, rows in columns.items()}, batch_size=4)
    data["uid"] = NonTensorStack(*(f"row-{i}" for i in range(4)))
    data["teacher_prompt_ids"] = NonTensorStack(*[[0, 1, 2, len(WORDS)]] * 4)
    data["extra_info"] = NonTensorStack(*({"s": text} for text in solutions))
    decided = {
        "egrsd": settings(**{"gamma": 0.7, "window": 3, **keys}),
        "entropy_scale": 2.6,
        "gate_mean": 0.8,
        "mixing": 1.0,
    }
    return tokens.save(folder / "checkpoints" / "tokens", data, step=step, tokenizer=Spelling(vocabulary), **decided)


def write_metrics(folder: Path, steps: int = 30, *, shift: float = 0.0) -> None:
    """Waves around the middle of each healthy range; the truncated share leaves its own."""
    lines = []
    for step in range(1, steps + 1):
        data = {
            name: _middle(meaning) + 0.05 * math.sin(step / 3 + len(name)) + shift
            for name, meaning in METRICS.items()
            if name not in OF_PRIVILEGE | OF_DIVERGENCE | OF_GROUPS
        }
        data |= {
            "egrsd/truncated_frac": 0.3 + step / 60,
            "response_length/mean": 700 - 5 * step,
            "training/global_step": step,
        }
        if step % 10 == 0:
            data["val-core/aime/acc/mean@4"] = {10: 0.4, 20: 0.6, 30: 0.6}[step]
        lines.append(json.dumps({"step": step, "data": data}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_evaluation(
    folder: Path, step: int | None, accuracy: float, tokens_mean: float, *, se: float | None = 0.02
) -> None:
    """As recipe.egrsd.evaluate writes it."""
    folder.mkdir(parents=True)
    figures = {
        "samples": 4,
        "accuracy": {"value": accuracy, "se": se},
        "tokens_mean": {"value": tokens_mean, "se": 300.0},
    }
    name = "models/Qwen3-4B" if step is None else f"run/checkpoints/global_step_{step}"
    macro = {key: figures[key] for key in ("accuracy", "tokens_mean")}
    results = {"model": name, "settings": {}, "benchmarks": {"aime24": figures, "HMMT25": figures}, "macro": macro}
    (folder / "results.json").write_text(json.dumps(results))


def write_run(folder: Path, *, shift: float = 0.0) -> Path:
    write_metrics(folder, shift=shift)
    for step in (1, 10, 20, 30):
        leak = ["According to the reference solution <b>x</b> is 57."] if step > 10 else []
        write_tokens(folder, step, texts=leak)
    write_evaluation(folder / "evaluations" / "start", None, 0.60 + shift, 11000.0)
    for step, accuracy in ((10, 0.61), (20, 0.66), (30, 0.64)):
        write_evaluation(folder / "evaluations" / f"{step}", step, accuracy + shift, 11000.0 + 10 * step)
    return folder


def _middle(meaning) -> float:
    low = 0.0 if meaning.low is None else meaning.low
    return (low + (low + 1.0 if meaning.high is None else meaning.high)) / 2
