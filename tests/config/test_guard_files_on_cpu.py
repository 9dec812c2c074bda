"""Rows, models and checkpoints that are not there, or not whole, stop main_ppo's own command line before Ray starts."""

from pathlib import Path

import pytest
import torch
from composing import refusal
from omegaconf import OmegaConf

from recipe.egrsd.config import validation

ENOUGH = "ray_kwargs.ray_init.num_cpus=64"


def test_a_pattern_of_files_is_taken(tmp_path):
    """verl's reader expands it."""
    (tmp_path / "part-1.parquet").touch()
    validation.check_data_files(OmegaConf.create({"train_files": f"{tmp_path}/part-*.parquet", "val_files": []}))
    with pytest.raises(ValueError, match=r"data.train_files=.*/other-\*.parquet is not here"):
        validation.check_data_files(OmegaConf.create({"train_files": f"{tmp_path}/other-*.parquet"}))


def test_files_that_are_not_there_stop_the_command_line(monkeypatch, tmp_path):
    """Rows, then the model, each within a second of the composed config, before Ray starts."""
    nowhere, model = f"{tmp_path}/train.parquet", f"actor_rollout_ref.model.path={tmp_path}/model"
    message = refusal(monkeypatch, tmp_path / "run", ENOUGH, f"data.train_files={nowhere}", model)
    assert (
        f"data.train_files={nowhere} is not here; write it with python -m recipe.egrsd.prepare_data, or correct"
        in message
    )
    Path(nowhere).touch()
    files = [f"data.{name}_files=[{nowhere}]" for name in ("train", "val")]
    message = refusal(monkeypatch, tmp_path / "run", ENOUGH, *files, model)
    assert f"{model} is no folder here, and cannot be a name on the hub (owner/model); correct it." in message


def test_a_relative_model_folder_reaches_the_run_as_an_absolute_one(monkeypatch, tmp_path):
    """Ray's processes may stand elsewhere; an empty folder is refused under the name that they would have been
    given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.parquet").touch()
    files = [f"data.{name}_files={tmp_path}/rows.parquet" for name in ("train", "val")]
    message = refusal(monkeypatch, tmp_path / "run", ENOUGH, *files, "actor_rollout_ref.model.path=model")
    assert f"actor_rollout_ref.model.path={tmp_path}/model holds no weights" in message


def test_a_torn_checkpoint_stops_the_command_line(monkeypatch, tmp_path):
    """Here where the launching machine sees the folder, in the trainer's constructor in any case
    (test_checkpoint_on_cpu.py)."""
    (tmp_path / "global_step_2" / "actor").mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    message = refusal(monkeypatch, tmp_path / "run", f"trainer.default_local_dir={tmp_path}")
    assert "the checkpoint is torn or was not written by EGRSD" in message
    assert all(f"no {file}" in message for file in ("egrsd.json", "data.pt"))


def test_checkpoints_without_a_tracker_stop_the_command_line(monkeypatch, tmp_path):
    (tmp_path / "global_step_2").mkdir()
    torch.save({}, tmp_path / "global_step_2" / "data.pt")
    message = refusal(monkeypatch, tmp_path / "run", f"trainer.default_local_dir={tmp_path}")
    assert (
        f"{tmp_path}/global_step_2 is a complete checkpoint, but there is no latest_checkpointed_iteration.txt"
        in message
    )
