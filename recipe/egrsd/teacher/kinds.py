"""Which weights teach, and how they follow the student."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from recipe.egrsd.config.schema import TeacherConfig
from recipe.egrsd.teacher.readings import HiddenSum, Reading, contrast
from recipe.egrsd.teacher.scoring import Scores, score


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
        limits: of the scoring engine: max_shared_tokens and rows_of_micro_batch of the function ``score``.
    """

    def __init__(self, settings: TeacherConfig, workers: Any, *, uses_lora: bool, **limits: Any):
        self.settings, self.workers, self.limits = settings, workers, limits
        self.adapter_off = uses_lora and settings.kind == "frozen"
        if settings.kind == "live" or self.adapter_off:
            self.part, self.engine = "actor", workers.compute_log_prob
        elif uses_lora:
            self.part, self.engine = "actor", workers.compute_teacher_log_prob
        else:
            self.part, self.engine = "ref", workers.compute_ref_log_prob
        self.num_ranks = max(workers._query_dispatch_info(self.part)) + 1  # as verl asks (trainer_base.py:1613)
        if self.settings.moves:
            print(f"EGRSD keeps a {settings.kind} teacher of {workers.init_teacher()[0]:,} parameters on each rank.")

    def score(
        self,
        readings: Sequence[Sequence[Reading]],
        responses: Tensor,
        response_mask: Tensor,
        *,
        temperature: float,
        divergence: Mapping[str, Any] | None,
        names: Sequence[str],
    ) -> Scores:
        """What it says of B responses.

        Args:
            readings: B, under which prompts it reads a response, one a pass; none: the response has no teacher.
            divergence: its kind and clip, if the update will need the teacher's head.
            responses, response_mask, temperature, names: as of the function ``score``.

        Returns:
            Log-probs and entropy of the first reading; the sum of all readings' hidden states; what those against it
            say together.
        """
        hidden = HiddenSum(len(readings))

        def read(at: int) -> Scores:
            due = [row[at] if len(row) > at and row[at].coefficient else None for row in readings]
            scores = score(
                self.engine, [reading and reading.prompt for reading in due], responses, response_mask,
                num_ranks=self.num_ranks, adapter_off=self.adapter_off, temperature=temperature,
                keep_hidden=divergence is not None, names=names, **self.limits,
            )  # fmt: skip
            if scores.hidden is not None:
                hidden.add(scores.hidden, [reading and reading.coefficient for reading in due])
            return replace(scores, hidden=None)

        passes = [read(at) for at in range(max([1, *map(len, readings)]))]
        total = hidden.rounded()
        if divergence is not None and total is not None:
            self.workers.hold_teacher_head(part=self.part, **divergence)
        return replace(passes[0], hidden=total, contrast=contrast(readings, [each.log_probs for each in passes]))

    def score_student(self, prompt_ids: Sequence[Sequence[int]], *responses_and_mask: Tensor, **knobs: Any) -> Tensor:
        """(B, jagged) float32 log-probs under the student's own prompts, for whoever looks on: nothing trains on
        them."""
        knobs |= {"num_ranks": self.num_ranks, "row_by_row": True}
        return score(self.workers.compute_log_prob, prompt_ids, *responses_and_mask, **knobs).log_probs

    def follow(self, step: int) -> None:
        """Called after the student's update of that step, which counts from 1."""
        if self.settings.kind == "ema":
            self.workers.update_teacher(self.settings.ema_decay)
        elif self.settings.kind == "snapshot" and self.settings.sync_every and step % self.settings.sync_every == 0:
            self.workers.update_teacher(0.0)

    def save(self, folder: Path) -> None:
        if self.settings.moves:
            self.workers.save_teacher(str(folder))

    def load(self, folder: Path) -> None:
        if self.settings.moves:
            self.workers.load_teacher(str(folder))
