"""Which weights teach, and the pass that scores with them: log-prob and entropy of every response token.

Rows are ``privileged prompt + response``. verl's engines return per-token outputs aligned with the row's end, so another
prompt in front of the same response needs no other alignment (workers/utils/padding.py:194).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested

from recipe.egrsd.schema import TeacherConfig


@dataclass(frozen=True)
class Scores:
    """What a teacher says about B responses, each field (B, jagged) over the response."""

    log_probs: Tensor
    """float32, nats."""
    entropy: Tensor
    """float32, nats, over the whole vocabulary."""
    hidden: Tensor | None
    """What the head was given, flattened to T * H for each response; for a divergence only."""


def scoring_batch(
    prompt_ids: Sequence[Sequence[int]],
    responses: Tensor,
    response_mask: Tensor,
    *,
    temperature: float,
    keep_hidden: bool = False,
) -> TensorDict:
    """Rows for verl's compute_log_prob / compute_ref_log_prob.

    Args:
        prompt_ids: B privileged prompts, token ids.
        responses: (B, jagged) int64 token ids, prompt excluded.
        response_mask: (B, jagged), the student's; the engine needs a loss mask even where it computes no loss.
        temperature: of the rollout; student and teacher are compared at the temperature the student is trained at.
        keep_hidden: also return what the head was given (engine.py), flattened to T * H for each response.
    """
    prompts = [torch.as_tensor(ids, dtype=torch.int64) for ids in prompt_ids]
    rows = [torch.cat([prompt, response]) for prompt, response in zip(prompts, responses.unbind(), strict=True)]
    columns = {
        "prompts": prompts,
        "responses": responses.unbind(),
        "response_mask": response_mask.unbind(),
        "loss_mask": response_mask.unbind(),
        "input_ids": rows,
        "position_ids": [torch.arange(len(row)) for row in rows],
    }
    batch = TensorDict({name: _nested(column) for name, column in columns.items()}, batch_size=len(rows))
    tu.assign_non_tensor(
        batch,
        calculate_entropy=True,
        compute_loss=False,
        temperature=temperature,
        egrsd_scores_responses=True,
        egrsd_keeps_hidden=keep_hidden,
    )
    return batch


class Teacher:
    """Which weights teach, and how they follow the student.

    | kind     | full parameters                    | LoRA                                 |
    | frozen   | verl's reference model             | the actor with its adapter off       |
    | snapshot | the reference model, moved         | a copy of the adapter, in float32    |
    | ema      | the same                           | the same                             |
    | live     | the actor                          | the actor                            |

    Args:
        settings: algorithm.egrsd.teacher.
        workers: verl's actor worker group, whose student still has its initial weights.
        uses_lora: whether the student is an adapter.
    """

    def __init__(self, settings: TeacherConfig, workers: Any, *, uses_lora: bool):
        self.settings, self.workers = settings, workers
        self.adapter_off = uses_lora and settings.kind == "frozen"
        if settings.kind == "live" or self.adapter_off:
            self.engine = workers.compute_log_prob
        elif uses_lora:
            self.engine = workers.compute_teacher_log_prob
        else:
            self.engine = workers.compute_ref_log_prob
        if self.settings.moves:
            print(f"EGRSD keeps a {settings.kind} teacher of {workers.init_teacher()[0]:,} parameters on each rank.")

    def score(self, batch: TensorDict, *, names: Sequence[str]) -> Scores:
        """Scores the rows of ``scoring_batch``; names are B sample names for error messages."""
        if self.adapter_off:
            tu.assign_non_tensor(batch, no_lora_adapter=True)
        output = self.engine(batch)
        hidden = output.get("teacher_hidden")
        if hidden is not None:
            self.workers.hold_teacher_head(batch["temperature"])
        return Scores(*checked(output, batch["response_mask"], names=names), hidden)

    def follow(self, step: int) -> None:
        """Called after the student's update of that step, which counts from 1."""
        if self.settings.kind == "ema":
            self.workers.update_teacher(self.settings.ema_decay)
        elif self.settings.kind == "snapshot" and step % self.settings.sync_every == 0:
            self.workers.update_teacher(0.0)

    def save(self, folder: Path) -> None:
        if self.settings.moves:
            self.workers.save_teacher(str(folder))

    def load(self, folder: Path) -> None:
        if self.settings.moves:
            self.workers.load_teacher(str(folder))


def checked(output: TensorDict, response_mask: Tensor, *, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What an engine returned, aligned with the response.

    Args:
        output: ``log_probs`` and ``entropy``, jagged over prompt + response.
        response_mask: (B, jagged).
        names: B sample names for error messages.

    Raises:
        TypeError: if the engine computed either in another dtype than float32.
        ValueError: if a value under the response mask is not finite; names the sample.
    """
    aligned = {}
    for name in ("log_probs", "entropy"):
        if output[name].dtype != torch.float32:
            raise TypeError(
                f"the engine returned the teacher's {name} in {output[name].dtype}; EGRSD needs float32. Was "
                "recipe.egrsd.engine registered, or are fused kernels of another backend than triton in use?"
            )
        aligned[name] = response_from_nested(output[name], response_mask)
        _refuse_non_finite(name, aligned[name], response_mask, names)
    return aligned["log_probs"], aligned["entropy"]


def _refuse_non_finite(name: str, values: Tensor, mask: Tensor, names: Sequence[str]) -> None:
    bad = ~values.values().isfinite() & mask.values().bool()
    if bad.any():
        token = int(bad.nonzero()[0])
        row = int((values.offsets() <= token).sum()) - 1
        raise ValueError(
            f"the teacher's {name} is {values.values()[token].item()} for sample {names[row]} at response token "
            f"{token - int(values.offsets()[row])}; the teacher's weights or the logits are broken."
        )


def _nested(rows: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
