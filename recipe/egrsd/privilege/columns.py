"""Do the files have what a run reads of them: the columns that privilege and reward ask for, rows for a batch, an agent
loop that uses the tools? Asked before Ray starts; rows are read later."""

from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.privilege.texts import columns

OUR_ROWS = "pkg://recipe.egrsd.privilege.dataset"  # egrsd.yaml's own value; another class may add rows and columns
TOOLLESS_LOOP = "single_turn_agent"  # verl's default, which tells the student of no tools


def check(config: Any, egrsd: EgrsdConfig) -> None:
    """Looks at parquet files that this machine sees.

    Raises:
        ValueError: for the first file that lacks a column, naming what it has; for fewer training rows than a batch.
    """
    data, rows = config.data, 0
    tools = next((key for key in ("tool_config_path", "function_tool_path") if data.get(key)), None)
    for file, there, count in _parquet(data, "train_files"):
        _require_shown(file, there, egrsd)
        if tools and "agent_name" not in there.names:
            _require_loop(config, f"data.{tools}={data[tools]}")
        rows += count
    if data.custom_cls.path != OUR_ROWS:
        return
    if _reward_reads_rows(config.reward):
        trainer = config.trainer
        validates = trainer.get("val_before_train", True) or trainer.test_freq > 0  # trainer_base.py:439, 491
        for key in ["train_files", *["val_files"] * validates]:
            for file, there, _ in _parquet(data, key):
                _require_rewarded(f"data.{key}={file}", there)
    if rows and all(name.endswith(".parquet") for name in _files(data, "train_files")):
        require_batch(rows, data)


def require_batch(rows: int, data: Any, left: str = "") -> None:
    """ValueError if so many training rows make no batch: verl drops a part of one, and would divide by the 0 steps of
    an epoch once models and vLLM have started (trainer_base.py:450, 765)."""
    most = data.get("train_max_samples") or -1
    limited = f" (data.train_max_samples={most})" if 0 < most < rows else ""
    rows = most if limited else rows
    if rows < data.train_batch_size:
        raise ValueError(
            f"data.train_files has {rows} rows{left}{limited}, fewer than data.train_batch_size={data.train_batch_size}"
            ", so that verl would have no batch to train on; lower data.train_batch_size and "
            "actor_rollout_ref.actor.ppo_mini_batch_size, or add rows."
        )


def missing_steps(rows: int, config: Any) -> str:
    """A line if the epochs over so many training rows end before the steps that are asked for; otherwise empty. verl
    ends such a run without its last checkpoint and validation, which belong to the last step (trainer_base.py:467)."""
    trainer, asked = config.trainer, config.trainer.total_training_steps or 0
    made = rows // config.data.train_batch_size * trainer.total_epochs
    if made >= asked:
        return ""
    return (
        f"trainer.total_epochs={trainer.total_epochs} ends the run after {made} of "
        f"trainer.total_training_steps={asked} steps, without the checkpoint and the validation of a last step; raise "
        "trainer.total_epochs."
    )


def _files(data: Any, key: str) -> list[str]:
    files = data.get(key) or []
    return [files] if isinstance(files, str) else list(files)


def _parquet(data: Any, key: str) -> Iterator[tuple[str, pa.Schema, int]]:
    """Name, columns and number of rows of each parquet file that is here."""
    for pattern in (name for name in _files(data, key) if name.endswith(".parquet")):
        for file in glob(str(Path(pattern).expanduser())):
            try:
                found = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"data.{key}={file} is no parquet file ({error}); write it again.") from error
            yield file, found.schema.to_arrow_schema(), found.num_rows


def _require_shown(file: str, there: pa.Schema, egrsd: EgrsdConfig) -> None:
    fields = _fields(there, "extra_info")
    for key, column in columns(egrsd.privilege, egrsd.teacher).items():
        if column not in fields:
            raise ValueError(
                f"data.train_files={file} has no extra_info.{column}, which algorithm.egrsd.privilege="
                f"{egrsd.privilege} shows; extra_info holds {fields}: name the right one in {key}, or add it "
                "to the rows (docs/modes.md)."
            )


def _reward_reads_rows(reward: Any) -> bool:
    """True where verl's reward managers call a function; a reward model alone is asked with the chat
    (reward_loop.py:146)."""
    asks_model = reward.reward_model.enable and not reward.custom_reward_function.path
    return not asks_model and reward.reward_manager.source == "register"


def _require_rewarded(where: str, there: pa.Schema) -> None:
    """naive.py:42, and the others likewise: a row without these fails in the reward worker, and its prompt is lost."""
    missing = [] if "data_source" in there.names else ["data_source"]
    missing += [] if "ground_truth" in _fields(there, "reward_model") else ["reward_model.ground_truth"]
    if missing:
        raise ValueError(
            f"{where} has no {missing[0]}, which every reward is asked with; add it to the rows "
            "(python -m recipe.egrsd.prepare_data writes it)."
        )


def _require_loop(config: Any, tools: str) -> None:
    if config.actor_rollout_ref.rollout.agent.default_agent_loop == TOOLLESS_LOOP:
        raise ValueError(
            f"the tools of {tools} are told to the teacher alone: actor_rollout_ref.rollout.agent.default_agent_loop="
            f"{TOOLLESS_LOOP} tells the student of none, and the rows have no agent_name; set it to tool_agent, or "
            "drop the tools."
        )


def _fields(there: pa.Schema, column: str) -> list[str]:
    kind = there.field(column).type if column in there.names else None
    return [field.name for field in kind] if kind is not None and pa.types.is_struct(kind) else []
