"""What the doctor looks at: the config as main_ppo composes it, and the model and rows that the trainer would build
from it.

Lengths are tokens. A student's prompt is the row's own, a teacher's the privileged one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, cast

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.device import auto_set_device

import recipe.egrsd.hydra_plugin  # noqa: F401  opens the config group
from recipe.egrsd.config.schema import FEEDBACK_PRIVILEGES, PEER_PRIVILEGES
from recipe.egrsd.config.strict import resolved
from recipe.egrsd.machines import models
from recipe.egrsd.privilege import prefix, prompts
from recipe.egrsd.privilege.dataset import check_rows
from recipe.egrsd.privilege.prompts import SLOT
from recipe.egrsd.reward import MAX_ANSWER_CHARS


class Level(Enum):
    """How serious a finding is; the value is its colour."""

    GREEN = "green"
    YELLOW = "yellow"
    """Look at it; a run is possible."""
    RED = "red"
    """The run would stop, or train on something else than was meant."""


class Finding(NamedTuple):
    level: Level
    text: str


def graded(*, red: bool = False, yellow: bool = False) -> Level:
    """Red before yellow before green."""
    return Level.RED if red else Level.YELLOW if yellow else Level.GREEN


@dataclass
class Case:
    """Filled from left to right: without the model no rows, without either no finding that needs it."""

    config: DictConfig
    gpu_gib: float
    host_gib: float | None = None
    """Of a node; None: as much as this machine has."""
    model: Any = None
    """verl's HFModelConfig: tokenizer, processor, hf_config."""
    rows: Any = None
    """The training EgrsdDataset."""
    student_ids: list[list[int]] = field(default_factory=list)
    """Of every training row."""
    validation_ids: list[list[int]] = field(default_factory=list)

    @property
    def student_template(self) -> dict[str, Any]:
        """What the student's chat template is told."""
        return cast(dict[str, Any], OmegaConf.to_container(self.config.data.apply_chat_template_kwargs))

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    @property
    def teacher_ids(self) -> Sequence[list[int]]:
        """With a peer's response or feedback to be shown: what stands around it."""
        ids = self.rows.dataframe["teacher_prompt_ids"]
        return [[token for token in row if token != SLOT] for row in ids] if self.rows.kind.known_in_step else ids

    @property
    def longest_student_prompt(self) -> int:
        """Of the rows, or the limit if there are none."""
        return max(map(len, self.student_ids), default=self.config.data.max_prompt_length)

    @property
    def longest_teacher_prompt(self) -> int:
        """Of the rows, with the longest response as peer or the longest answer that a response may box, its characters
        a token each; or the limit, to which feedback may reach."""
        privilege, limit = self.config.algorithm.egrsd.privilege, self.config.algorithm.egrsd.teacher.max_prompt_length
        if self.rows is None or privilege in FEEDBACK_PRIVILEGES:
            return limit
        response, around = self.config.data.max_response_length, max(map(len, self.teacher_ids))
        shown = response if privilege in PEER_PRIVILEGES else 0
        if privilege == "answer_contrast":
            shown = min(response, MAX_ANSWER_CHARS, limit - around)
        own = f"teacher_{self.rows.kind.own_guide}_ids"
        if own in self.rows.id_columns:
            shown = max(shown, *map(len, self.rows.dataframe[own]))
        return around + shown

    def load_model(self, *, weights: bool = False) -> None:
        """As the trainer does (trainer_base.py:701), from folders; ValueError and ``weights`` as of
        ``models.found``."""
        models.use_folders(self.config, models.found(self.config, weights=weights))
        prefix.use(self.config)
        self.model = omega_conf_to_dataclass(self.config.actor_rollout_ref.model)

    def load_rows(self) -> Any:
        """As the trainer does (trainer_base.py:708). Returns the validation rows."""
        data = self.config.data
        both: list[Any] = [
            create_rl_dataset(
                files, data, self.tokenizer, self.model.processor, is_train=is_train, max_samples=max_samples
            )
            for files, is_train, max_samples in (
                (data.train_files, True, data.get("train_max_samples", -1)),
                (data.val_files, False, data.get("val_max_samples", -1)),
            )
        ]
        check_rows(both[0])
        student = self.student_template
        self.student_ids, self.validation_ids = (
            [prompts.prompt_ids(self.tokenizer, messages, **student) for messages in rows.dataframe[rows.prompt_key]]
            for rows in both
        )
        self.rows = both[0]
        return both[1]


def composed(overrides: Sequence[str]) -> DictConfig:
    """verl's primary config with these overrides, as main_ppo has it."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return settled(compose("ppo_trainer", overrides=list(overrides)))


def settled(config: DictConfig) -> DictConfig:
    """What main_ppo makes of a composed config, in place: device set, every interpolation resolved."""
    resolved(config)  # its error names the key, the next line's does not
    auto_set_device(config)
    OmegaConf.resolve(config)
    return config
