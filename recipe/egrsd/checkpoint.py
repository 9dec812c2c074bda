"""What EGRSD keeps beside verl's checkpoint, and the check that the checkpoint to resume from is whole.

verl fills ``global_step_N`` in the order actor, data.pt, and then names N in a tracker file (trainer_base.py:948). A
run killed on the way leaves the tracker on the step before; ours is written first, so that what verl calls complete has
it.
"""

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipe.egrsd.config import contents, resuming
from recipe.egrsd.config.strict import shown
from recipe.egrsd.config.teacher import MOVING_KINDS

STATE_FILE = "egrsd.json"
TEACHER = "teacher"
SHARDS = {"model": "model", "optimizer": "optim", "extra": "extra_state", TEACHER: "egrsd_teacher"}
"""What verl's load_contents, or a teacher that moves, asks of every rank: how the files' names begin."""
SHOWN_FAULTS = 3
_START_OVER = (
    "tart over with trainer.resume_mode=disable (and another trainer.default_local_dir, to keep what is there)."
)
TRACKER = "latest_checkpointed_iteration.txt"  # verl's name (checkpoint_manager.py:255)


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes the state as JSON, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE_FILE}.partial"
    partial.write_text(json.dumps(state))
    os.replace(partial, folder / STATE_FILE)


@contextmanager
def named_if_it_fails(folder: Path) -> Iterator[None]:
    """Adds to an error while a checkpoint is written, on a full disk above all, what it leaves behind."""
    try:
        yield
    except Exception as error:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) >> 20
        last_line = (str(error).strip() or repr(error)).splitlines()[-1]
        raise RuntimeError(
            f"{folder} ({size:,} MiB so far) is not complete: {last_line}; delete it once the cause is "
            "gone: a resumed run starts from the step before that was saved."
        ) from error


def load(folder: Path) -> dict[str, Any]:
    """The state that ``save`` wrote."""
    return json.loads((folder / STATE_FILE).read_text())


def folder_to_resume(config: Any) -> Path | None:
    """The checkpoint that verl is going to load; None if the run starts from scratch.

    Args:
        config: verl's whole config; the trainer's resume_mode, resume_from_path, default_local_dir and number of ranks
            are read, and what of a checkpoint the actor and the teacher will load.

    Raises:
        ValueError: if it is torn, was not written by EGRSD or by another number of ranks, or is not there although the
            tracker names it (verl would then start from scratch without a word); or if complete checkpoints stand there
            without a tracker (verl would write over them), or if nobody named it and it is another method's. What the
            sentence names as a way out is no torn one.
    """
    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return None
    if trainer.resume_mode == "resume_path":
        named_by, folder = "trainer.resume_from_path", _named_folder(trainer.resume_from_path)
    else:
        _refuse_unread_path(trainer)
        tracker = Path(trainer.default_local_dir) / TRACKER
        if not tracker.exists():
            _refuse_untracked(tracker, config)
            return None
        named_by, step = str(tracker), tracker.read_text().strip()
        if not step.isdigit():
            said = f"{tracker} reads {step!r}, not a step: the run was killed while writing it."
            raise ValueError(f"{said} {_way_out(tracker, config)}")
        folder = tracker.with_name(f"global_step_{step}")
    ranks = trainer.nnodes * trainer.n_gpus_per_node
    _refuse_without_model(folder, config, ranks)
    _refuse_other_ranks(folder, config, ranks)
    if faults := _faults(folder, config, ranks):
        raise ValueError(
            f"{folder}, named by {named_by}, has {_listed(faults)}: the checkpoint is torn or was not written by EGRSD "
            f"with these settings. {_way_out(folder, config)}"
        )
    if trainer.resume_mode == "auto":
        resuming.refuse_another_method(folder, load(folder).get("method", {}), config)
    return folder


def _named_folder(path: Any) -> Path:
    if not isinstance(path, str) or not re.search(r"global_step_\d+$", path):  # verl reads the step from it
        raise ValueError(
            f"trainer.resume_from_path={shown(path)} names no checkpoint, which trainer.resume_mode=resume_path "
            "needs; give the path of a folder global_step_N."
        )
    return Path(path)


def _refuse_unread_path(trainer: Any) -> None:
    if trainer.resume_from_path is not None:
        raise ValueError(
            f"trainer.resume_from_path={shown(trainer.resume_from_path)} is not read with trainer.resume_mode="
            f"{trainer.resume_mode}; add trainer.resume_mode=resume_path, or drop the path."
        )


def _faults(folder: Path, config: Any, ranks: int) -> list[str]:
    """What keeps a run on so many ranks from going on from the folder, in words; empty: nothing."""
    if not folder.is_dir():
        return [f"no {STATE_FILE}: it is not there"]
    faults = _state_fault(folder) + _archive_fault(folder / "data.pt", "data.pt")
    if not (folder / "actor").is_dir():
        return [*faults, "no actor"]
    for content in _loaded(config):
        names = [f"{SHARDS[content]}_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
        if not any((folder / "actor" / name).exists() for name in names):
            faults.append(f"no actor/{names[0]}{_without(content, config)}")
            continue
        for rank, name in enumerate(names):
            if (folder / "actor" / name).exists() or not _of_another_node(
                folder / "actor", names, rank, config.trainer
            ):
                faults += _archive_fault(folder / "actor" / name, f"actor/{name}")
    return faults


def _loaded(config: Any) -> list[str]:
    """Names of SHARDS that every rank is going to read."""
    moves = config.algorithm.egrsd.teacher.kind in MOVING_KINDS
    return [name for name in SHARDS if name in contents.loaded(config)] + [TEACHER] * moves


def _without(content: str, config: Any) -> str:
    """How verl goes on without what was not saved."""
    if content not in ("optimizer", "extra"):
        return ""
    kept = ",".join(name for name in contents.loaded(config) if name != content)
    return f" (if it was not saved on purpose: {contents.KEY}.load_contents=[{kept}])"


def _of_another_node(actor: Path, names: list[str], rank: int, trainer: Any) -> bool:
    """On a disk of its own each node has the shards of its own ranks alone."""
    node = rank // trainer.n_gpus_per_node * trainer.n_gpus_per_node
    mates = names[node : node + trainer.n_gpus_per_node]
    return trainer.nnodes > 1 and not any((actor / name).exists() for name in mates)


def _state_fault(folder: Path) -> list[str]:
    path = folder / STATE_FILE
    if not path.is_file():
        return [f"no {STATE_FILE}"]
    try:
        whole = {"baseline", "alarms"} <= load(folder).keys()
    except (ValueError, AttributeError):  # no JSON, or no mapping
        whole = False
    return [] if whole else [f"an unreadable {STATE_FILE} ({path.stat().st_size} bytes)"]


def _archive_fault(path: Path, name: str) -> list[str]:
    """torch.save writes a zip archive, whose index comes last: a file that was cut has none."""
    if not path.is_file():
        return [f"no {name}"]
    return [] if zipfile.is_zipfile(path) else [f"an unreadable {name} ({path.stat().st_size} bytes)"]


def _listed(faults: list[str]) -> str:
    more = [f"{len(faults) - SHOWN_FAULTS} more faults"] if len(faults) > SHOWN_FAULTS else []
    return " and ".join([*faults[:SHOWN_FAULTS], *more])


def _refuse_without_model(folder: Path, config: Any, ranks: int) -> None:
    given, actor = contents.loaded(config), folder / "actor"
    if "model" not in given:
        held = [name for name in contents.NEEDED if (actor / f"{SHARDS[name]}_world_size_{ranks}_rank_0.pt").exists()]
        load = f"set {contents.KEY}.load_contents=[{','.join(held)}], or s" if "model" in held else "s"
        raise ValueError(
            f"{contents.KEY}.load_contents=[{','.join(given)}] lacks model, so that verl would go on from "
            f"{folder.name} with the initial weights; {load}{_START_OVER}"
        )


def _refuse_other_ranks(folder: Path, config: Any, ranks: int) -> None:
    """verl names a shard after the number of ranks that wrote it (fsdp_checkpoint_manager.py:316)."""
    trainer = config.trainer
    written_by = {int(path.name.split("_")[3]) for path in folder.glob("actor/model_world_size_*_rank_*.pt")}
    whole = sorted(number for number in written_by if not _faults(folder, config, number))
    if whole and ranks not in written_by:
        theirs = " or ".join(map(str, whole))
        raise ValueError(
            f"{folder} was written by {theirs} ranks, and trainer.nnodes={trainer.nnodes} x trainer.n_gpus_per_node="
            f"{trainer.n_gpus_per_node} are {ranks}: verl loads a checkpoint only on as many ranks as wrote it. Resume "
            f"with {theirs}. {_way_out(folder, config)}"
        )


def beginning(trainer: Any, folder: Path | None) -> str:
    """Where the run begins, in words: ``folder`` is what ``folder_to_resume`` found."""
    if folder:
        return f"resumes from {folder}"
    torn = [] if trainer.resume_mode == "disable" else _saved(Path(trainer.default_local_dir))
    begins = "starts from the initial weights"
    if not torn:
        return begins
    why = "(a run was killed in its first save) and will be written over"
    return f"{begins}; {torn[-1]} holds no complete checkpoint {why}"


def _refuse_untracked(tracker: Path, config: Any) -> None:
    complete = [folder for folder in _saved(tracker.parent) if _is_complete(folder)]
    if complete:
        raise ValueError(
            f"{complete[-1]} is a complete checkpoint, but there is no {tracker.name} beside it, so "
            f"trainer.resume_mode=auto would start at step 0 and write over it. {_way_out(tracker, config)}"
        )


def _saved(folder: Path) -> list[Path]:
    """The ``global_step_N`` in it, by N."""
    found = [path for path in folder.glob("global_step_*") if path.name.removeprefix("global_step_").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("global_step_")))


def _is_complete(folder: Path) -> bool:
    """verl writes data.pt last; in asynchronous modes transfer_queue follows."""
    return zipfile.is_zipfile(folder / "data.pt") and not (folder / "transfer_queue.tmp").exists()


def _way_out(refused: Path, config: Any) -> str:
    """Names the last checkpoint beside the refused one that is taken, if there is one."""
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    others = [folder for folder in _saved(refused.parent) if folder != refused and _is_complete(folder)]
    taken = [folder for folder in others if not _faults(folder, config, ranks)]
    if not taken:
        return f"No other checkpoint in {refused.parent} can be resumed from by this run: s{_START_OVER}"
    resume = f"trainer.resume_mode=resume_path trainer.resume_from_path={taken[-1]}"
    return f"Resume from the last one that is whole with {resume}, or s{_START_OVER}"
