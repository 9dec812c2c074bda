"""Which checkpoint a run resumes from; a torn one is named, with ways out that are taken."""

import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from composing import composed
from made_up_checkpoints import write_checkpoint
from omegaconf import DictConfig, OmegaConf

from recipe.egrsd import checkpoint
from recipe.egrsd.config import contents

WAYS_OUT = (
    r"Resume from the last one that is whole with (trainer.resume_mode=resume_path trainer.resume_from_path=\S+), or "
)
START_OVER = r"tart over with (trainer.resume_mode=disable) \(and another (trainer.default_local_dir), to keep"


@pytest.fixture(scope="module")
def pickled() -> bytes:
    """A config of two ranks whose teacher moves, as hydra composes it."""
    teacher = ["algorithm.egrsd.teacher.kind=snapshot", "algorithm.egrsd.teacher.sync_every=20"]
    return pickle.dumps(composed(*teacher, "trainer.n_gpus_per_node=2", "data.train_files=[]", "data.val_files=[]"))


@pytest.fixture
def saved(pickled, tmp_path) -> DictConfig:
    """A config whose folder holds complete checkpoints of steps 1 and 2, of which the tracker names the second, and one
    of step 3 that was being written."""
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / f"global_step_{step}")
    (tmp_path / "global_step_3" / "data.pt").unlink()
    (tmp_path / checkpoint.TRACKER).write_text("2")
    config = pickle.loads(pickled)
    config.trainer.default_local_dir = str(tmp_path)
    return config


def refused(config: DictConfig) -> str:
    with pytest.raises(ValueError, match=r".") as refusal:
        checkpoint.folder_to_resume(config)
    assert str(refusal.value).isprintable()  # one line
    return str(refusal.value)


def followed(config: DictConfig, ways: str) -> Path | None:
    """The checkpoint that is taken by who types what the refusal names."""
    config = config.copy()
    for way in ways.split(" "):
        key, value = way.split("=", 1)
        OmegaConf.update(config, key, int(value) if value.isdigit() else value)
    return checkpoint.folder_to_resume(config)


def check_ways_out(config: DictConfig, message: str, *, resume: str | None) -> None:
    """Both ways that the message names are taken: the checkpoint of that name, and a start from scratch."""
    folder = Path(config.trainer.default_local_dir)
    if resume:
        assert followed(config, re.search(WAYS_OUT, message)[1]) == folder / resume
    else:
        assert f"No other checkpoint in {folder} can be resumed from by this run" in message
    disable, local_dir = re.search(START_OVER, message).groups()
    assert followed(config, disable) is None
    assert followed(config, f"{disable} {local_dir}={folder / 'another'}") is None


def test_the_last_complete_checkpoint_is_taken(saved):
    assert checkpoint.folder_to_resume(saved) == Path(saved.trainer.default_local_dir) / "global_step_2"
    saved.trainer.resume_mode = "disable"
    assert checkpoint.folder_to_resume(saved) is None
    assert checkpoint.beginning(saved.trainer, None) == "starts from the initial weights"


def test_complete_checkpoints_without_a_tracker_are_not_written_over(saved):
    """So does async_save=true leave them; verl starts at step 0 in the same folder."""
    folder = Path(saved.trainer.default_local_dir)
    (folder / checkpoint.TRACKER).unlink()
    newest = folder / "global_step_10"  # another trainer's: as precious, and by number the last
    newest.mkdir()
    torch.save({}, newest / "data.pt")
    message = refused(saved)
    assert re.search(rf"{newest} is a complete checkpoint, but .* start at step 0 and write over it", message)
    check_ways_out(saved, message, resume="global_step_2")


def test_a_run_killed_in_its_first_save_starts_over_and_says_so(saved):
    """Before data.pt, within it, or in an asynchronous mode while TransferQueue's part was being written behind it."""
    folder = Path(saved.trainer.default_local_dir)
    (folder / checkpoint.TRACKER).unlink()
    data = folder / "global_step_2" / "data.pt"
    data.write_bytes(data.read_bytes()[:-1])
    (folder / "global_step_1" / "transfer_queue.tmp").mkdir()
    assert checkpoint.folder_to_resume(saved) is None
    torn = f"{folder}/global_step_3 holds no complete checkpoint (a run was killed in its first"
    assert checkpoint.beginning(saved.trainer, None).startswith(f"starts from the initial weights; {torn}")


def test_a_checkpoint_of_another_number_of_ranks_is_named(saved):
    """verl's shards are of one number of ranks; on another one it misses a file."""
    folder = Path(saved.trainer.default_local_dir)
    shutil.rmtree(folder / "global_step_2" / "actor")
    write_checkpoint(folder / "global_step_2", ranks=8)
    message = refused(saved)
    assert "global_step_2 was written by 8 ranks, and trainer.nnodes=1 x trainer.n_gpus_per_node=2 are 2: " in message
    number = re.search(r"Resume with (\d+)\.", message)[1]
    assert followed(saved, f"trainer.n_gpus_per_node={number}") == folder / "global_step_2"
    check_ways_out(saved, message, resume="global_step_1")


def test_a_torn_checkpoint_of_another_number_of_ranks_is_not_recommended(saved):
    folder = Path(saved.trainer.default_local_dir)
    shutil.rmtree(folder / "global_step_2" / "actor")
    write_checkpoint(folder / "global_step_2", ranks=8)
    (folder / "global_step_2" / "actor" / "optim_world_size_8_rank_3.pt").unlink()
    message = refused(saved)
    assert "has no actor/model_world_size_2_rank_0.pt" in message and "Resume with 8" not in message
    check_ways_out(saved, message, resume="global_step_1")


def test_each_node_may_have_the_shards_of_its_own_ranks_alone(saved):
    """Two nodes of two ranks, whose disks are their own: the trainer's has ranks 0 and 1."""
    folder = Path(saved.trainer.default_local_dir) / "global_step_2"
    shutil.rmtree(folder / "actor")
    write_checkpoint(folder, ranks=4)
    saved.trainer.nnodes = 2
    for path in folder.glob("actor/*_rank_[23].pt"):
        path.unlink()
    assert checkpoint.folder_to_resume(saved) == folder
    (folder / "actor" / "model_world_size_4_rank_1.pt").unlink()
    assert "has no actor/model_world_size_4_rank_1.pt" in refused(saved)


def test_a_full_disk_names_what_it_left(saved):
    """/dev/full answers every write as a full disk does."""
    folder = Path(saved.trainer.default_local_dir) / "global_step_4"
    folder.mkdir()
    (folder / f"{checkpoint.STATE_FILE}.partial").symlink_to("/dev/full")
    (folder / "data.pt").write_bytes(bytes(3 << 20))
    said = r"global_step_4 \(3 MiB so far\) is not complete: .*No space left on device.*; delete it .* the step before"
    with pytest.raises(RuntimeError, match=said), checkpoint.named_if_it_fails(folder):
        checkpoint.save(folder, {"baseline": {}})


PARTS = ["egrsd.json", "data.pt", *(f"actor/{name}_world_size_2_rank_1.pt" for name in checkpoint.SHARDS.values())]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("left", [None, 0, 20])
def test_a_torn_checkpoint_is_named(saved, part, left):
    """Gone, or cut to so many bytes."""
    path = Path(saved.trainer.default_local_dir) / "global_step_2" / part
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    message = refused(saved)
    fault = f"no {part}" if left is None else f"an unreadable {part} ({left} bytes)"
    assert (
        f"global_step_2, named by {saved.trainer.default_local_dir}/latest_checkpointed_iteration.txt, has {fault}: "
        in message
    )
    check_ways_out(saved, message, resume="global_step_1")


@pytest.mark.parametrize(
    ("gone", "fault"),
    [
        (["actor"], "no actor"),  # as verl leaves a checkpoint beyond max_actor_ckpt_to_keep
        (
            ["egrsd.json", "actor/egrsd_teacher*"],
            "no egrsd.json and no actor/egrsd_teacher_world_size_2_rank_0.pt",
        ),  # verl's
        (
            ["actor/*_rank_0.pt"],
            "no actor/model_world_size_2_rank_0.pt and no actor/optim_world_size_2_rank_0.pt and no ",
        ),
    ],
)
@pytest.mark.parametrize("everywhere", [False, True])
def test_what_was_pruned_or_is_not_ours_is_no_way_out(saved, gone, fault, everywhere):
    folder = Path(saved.trainer.default_local_dir)
    for step in (1, 2) if everywhere else (2,):
        for path in [path for pattern in gone for path in (folder / f"global_step_{step}").glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refused(saved)
    assert f"has {fault}" in message
    check_ways_out(saved, message, resume=None if everywhere else "global_step_1")


def test_what_was_not_saved_on_purpose_need_not_be_loaded(saved):
    folder = Path(saved.trainer.default_local_dir) / "global_step_2"
    for path in folder.glob("actor/optim_*"):
        path.unlink()
    way = re.search(r"on purpose: actor_rollout_ref.actor.checkpoint.load_contents=\[(.*?)\]\)", refused(saved))[1]
    saved.actor_rollout_ref.actor.checkpoint.load_contents = way.split(",")
    assert checkpoint.folder_to_resume(saved) == folder
    assert contents.remark(saved, resumes=True) == ", without its optimizer"


def test_a_run_that_loads_no_weights_does_not_resume(saved):
    """verl loads what load_contents names (fsdp_checkpoint_manager.py:193), and counts on from the step it finds."""
    saved.actor_rollout_ref.actor.checkpoint.save_contents = ["hf_model"]  # which load_contents follows
    message = refused(saved)
    assert "checkpoint.load_contents=[hf_model] lacks model, so that verl would go on from global_step_2" in message
    assert followed(saved, re.search(START_OVER, message)[1]) is None
    whole, way = saved.copy(), re.search(r"set actor_rollout_ref.actor.checkpoint.load_contents=\[(.*?)\],", message)[1]
    whole.actor_rollout_ref.actor.checkpoint.load_contents = way.split(",")
    assert str(checkpoint.folder_to_resume(whole)).endswith("_2") and not contents.remark(whole, resumes=True)
    for path in Path(saved.trainer.default_local_dir).glob("*_2/actor/model_*"):  # such a run's own have none
        path.unlink()
    assert "with the initial weights; start over with trainer.resume_mode=disable" in refused(saved)
    saved.trainer.save_freq = 1
    assert contents.remark(saved, resumes=False) == "; no run can resume from its checkpoints, which hold no model"


def test_a_torn_checkpoint_is_named_when_asked_for(saved):
    step = f"{saved.trainer.default_local_dir}/global_step_3"
    saved.trainer.resume_mode, saved.trainer.resume_from_path = "resume_path", step
    message = refused(saved)
    assert "global_step_3, named by trainer.resume_from_path, has no data.pt" in message
    check_ways_out(saved, message, resume="global_step_2")


def test_a_path_that_verl_would_not_read_is_refused(saved):
    saved.trainer.resume_from_path = f"{saved.trainer.default_local_dir}/global_step_1"
    message = refused(saved)
    assert "is not read with trainer.resume_mode=auto; add trainer.resume_mode=resume_path" in message
    assert followed(saved, "trainer.resume_mode=resume_path") == Path(saved.trainer.resume_from_path)


@pytest.mark.parametrize("text", ["", "2\n3", "two"])
def test_a_torn_tracker_is_named(saved, text):
    (Path(saved.trainer.default_local_dir) / checkpoint.TRACKER).write_text(text)
    message = refused(saved)
    assert "not a step: the run was killed while writing it. " in message
    check_ways_out(saved, message, resume="global_step_2")


def test_a_checkpoint_that_is_gone_does_not_mean_from_scratch(saved):
    """verl prints a line and starts over."""
    (Path(saved.trainer.default_local_dir) / checkpoint.TRACKER).write_text("7")
    message = refused(saved)
    assert re.search(
        r"global_step_7, named by .*latest_checkpointed_iteration.txt, has no egrsd.json: it is not there", message
    )
    check_ways_out(saved, message, resume="global_step_2")
