"""What the trainer keeps beside verl's checkpoint and takes up again, without a run."""

from pathlib import Path

import pytest
import torch
from composing import composed, settings
from inputs import qwen3
from verl.trainer.ppo.v1 import PPOTrainerSync

from recipe.egrsd import checkpoint
from recipe.egrsd import trainer as module
from recipe.egrsd.config.resuming import method_of
from recipe.egrsd.machines.models import Model
from recipe.egrsd.method.advantage import RunningBaseline
from recipe.egrsd.trainer import EgrsdSync
from recipe.egrsd.watch.alarms import Alarms

KEY, OLD, NEW = "actor_rollout_ref.model.path", "f" * 40, "a" * 40
SNAPSHOT = ["algorithm.egrsd.teacher.kind=snapshot", "algorithm.egrsd.teacher.sync_every=20"]


class Teacher:
    """Stands for the workers' teacher: which folders it was told to write and to read."""

    def __init__(self, *args, **knobs):
        self.told = []

    def save(self, folder: Path) -> None:
        self.told.append(("save", folder))

    def load(self, folder: Path) -> None:
        self.told.append(("load", folder))


@pytest.fixture
def trainer(monkeypatch, tmp_path) -> EgrsdSync:
    for name in ("_save_checkpoint", "_load_checkpoint"):
        monkeypatch.setattr(PPOTrainerSync, name, lambda self: None)
    monkeypatch.setattr(module, "Teacher", Teacher)
    folder, made = tmp_path / "model", object.__new__(EgrsdSync)
    qwen3("0.6B").save_pretrained(folder)
    made.config = composed(f"trainer.default_local_dir={tmp_path}", f"{KEY}={folder}", *SNAPSHOT)
    made.egrsd, made.actor_rollout_wg, made.global_steps = settings(), None, 3
    made.baseline, made.alarms, made.resumed_from = RunningBaseline(warmup_steps=10), Alarms(settings()), None
    made.models = [Model(KEY, "some/tiny", Path("snapshots") / NEW, NEW), Model("other", "here", Path("here"), None)]
    made._load_checkpoint()
    return made


def test_what_is_saved_is_taken_up_again(trainer, tmp_path):
    """Baseline and alarms as they stood, the teacher's shards beside verl's, the models' commits, the method."""
    trainer.baseline.update(torch.tensor([0.0, 1.0, 1.0]))
    for _ in range(2):
        trainer.alarms.check({"response_length/mean": 100.0, "egrsd/correct_frac": 0.5, "egrsd/truncated_frac": 0.0})
    trainer._save_checkpoint()
    folder = tmp_path / "global_step_3"
    kept = checkpoint.load(folder)
    assert kept["commits"] == {KEY: NEW} and kept["method"] == method_of(trainer.config)
    assert kept["baseline"]["count"] == 3 and kept["alarms"]
    assert trainer.teacher.told == [("save", folder / "actor")]
    trainer.baseline, trainer.alarms = RunningBaseline(warmup_steps=10), Alarms(settings())
    assert trainer.alarms.state_dict() != kept["alarms"]
    trainer.resumed_from = folder
    trainer._load_checkpoint()
    assert (trainer.baseline.state_dict(), trainer.alarms.state_dict()) == (kept["baseline"], kept["alarms"])
    assert trainer.teacher.told == [("load", folder / "actor")]


def test_a_run_that_starts_takes_up_nothing(trainer):
    assert trainer.teacher.told == [] and trainer.baseline.state_dict()["count"] == 0


def test_a_name_that_has_come_to_mean_another_commit_stops_a_resumed_run(monkeypatch, tmp_path):
    """The frozen teacher would be another model."""
    folder = tmp_path / "global_step_3"
    checkpoint.save(folder, {"baseline": {}, "alarms": {}, "commits": {KEY: OLD}})
    monkeypatch.setattr(module.validation, "validate", lambda config: settings())
    monkeypatch.setattr(module.parts, "check", lambda *args: None)
    monkeypatch.setattr(module.checkpoint, "folder_to_resume", lambda config: folder)
    found = [Model(KEY, "some/tiny", Path("snapshots") / NEW, NEW)]
    monkeypatch.setattr(module.models, "located", lambda config: found)
    with pytest.raises(ValueError, match=rf"is not the commit {OLD} that this run began with"):
        EgrsdSync(composed(f"trainer.default_local_dir={tmp_path}"))
