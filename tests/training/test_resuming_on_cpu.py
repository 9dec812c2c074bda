"""A run finds checkpoints in a folder whose name says nothing of the method, and goes on from its own alone."""

import json
from pathlib import Path

import pytest
import torch
from composing import composed
from omegaconf import DictConfig

from recipe.egrsd import checkpoint
from recipe.egrsd.config import resuming

CONTENTS = "actor_rollout_ref.actor.checkpoint.save_contents=[model]"


def run(folder: Path, *overrides: str, algorithm: str = "egrsd") -> DictConfig:
    return composed(CONTENTS, f"trainer.default_local_dir={folder}", *overrides, algorithm=algorithm)


@pytest.fixture
def written(tmp_path) -> Path:
    """The checkpoint of step 20 of a run with algorithm=egrsd."""
    folder = tmp_path / "global_step_20"
    checkpoint.save(folder, {"baseline": {}, "alarms": {}, "method": resuming.method_of(run(tmp_path))})
    (folder / "actor").mkdir()
    for name in ("data.pt", "actor/model_world_size_8_rank_0.pt"):
        torch.save({}, folder / name)
    for rank in range(1, 8):
        torch.save({}, folder / "actor" / f"model_world_size_8_rank_{rank}.pt")
    (tmp_path / checkpoint.TRACKER).write_text("20")
    return folder


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["actor_rollout_ref.actor.optim.lr=1e-7", "trainer.total_training_steps=2000"],
        ["algorithm.egrsd.save_tokens_every=5", "algorithm.egrsd.score_student=always"],
        ["algorithm.egrsd.teacher.max_prompt_length=4096"],
    ],
)
def test_the_same_method_goes_on(overrides, written):
    assert checkpoint.folder_to_resume(run(written.parent, *overrides)) == written


@pytest.mark.parametrize(
    ("algorithm", "overrides", "said"),
    [
        ("opsd", [], r"algorithm\.egrsd\.\w+(\.\w+)?=\S+, now \S+ and \d+ more"),
        ("egrsd", ["algorithm.egrsd.privilege=none"], r"algorithm\.egrsd\.privilege=solution, now none"),
        ("egrsd", ["algorithm.egrsd.gamma=0"], r"algorithm\.egrsd\.gamma=0\.3, now 0"),
    ],
)
def test_another_method_is_refused_and_its_ways_out_are_taken(algorithm, overrides, said, written):
    """The control of caveats.md, privilege=none, in the folder of the run that it is held against."""
    with pytest.raises(ValueError, match=rf"^{written} was written with {said}: trainer.resume_mode=auto") as refused:
        checkpoint.folder_to_resume(run(written.parent, *overrides, algorithm=algorithm))
    assert str(refused.value).isprintable()
    on_purpose = str(refused.value).rstrip(".").rpartition(" with ")[2].split()
    given = [*overrides, *on_purpose]
    assert checkpoint.folder_to_resume(run(written.parent, *given, algorithm=algorithm)) == written
    elsewhere = [*overrides, f"trainer.default_local_dir={written.parent / 'another'}"]
    assert checkpoint.folder_to_resume(run(written.parent, *elsewhere, algorithm=algorithm)) is None


def test_checkpoints_from_before_methods_were_kept_go_on(written):
    state = json.loads((written / checkpoint.STATE_FILE).read_text())
    del state["method"]
    checkpoint.save(written, state)
    assert checkpoint.folder_to_resume(run(written.parent, algorithm="opsd")) == written


def test_a_key_that_the_older_recipe_did_not_have_says_nothing(written):
    state = json.loads((written / checkpoint.STATE_FILE).read_text())
    del state["method"]["gate"]
    checkpoint.save(written, state | {"method": {**state["method"], "gone": 1}})
    assert checkpoint.folder_to_resume(run(written.parent)) == written
