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

from recipe.egrsd.config.strict import shown

STATE_FILE = "egrsd.json"
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


def folder_to_resume(trainer: Any, *, has_teacher: bool) -> Path | None:
    """The checkpoint that verl is going to load; None if the run starts from scratch.

    Args:
        trainer: verl's ``trainer`` config: resume_mode, resume_from_path, default_local_dir.
        has_teacher: whether the teacher's own weights must be there, because they move.

    Raises:
        ValueError: if it is torn, was not written by EGRSD or by another number of ranks, or is not there although the
            tracker names it (verl would then start from scratch without a word); or if complete checkpoints stand there
            without a tracker (verl would write over them).
    """
    if trainer.resume_mode == "disable":
        return None
    if trainer.resume_mode == "resume_path":
        path = trainer.resume_from_path
        if not isinstance(path, str) or not re.search(r"global_step_\d+$", path):  # verl reads the step from it
            raise ValueError(
                f"trainer.resume_from_path={shown(path)} names no checkpoint, which trainer.resume_mode=resume_path "
                "needs; give the path of a folder global_step_N."
            )
        folder = Path(path)
        named_by = "trainer.resume_from_path"
    else:
        tracker = Path(trainer.default_local_dir) / TRACKER
        if not tracker.exists():
            _refuse_untracked(tracker)
            return None
        step = tracker.read_text().strip()
        if not step.isdigit():
            raise ValueError(
                f"{tracker} reads {step!r}, not a step: the run was killed while writing it. {_way_out(tracker)}"
            )
        folder = tracker.with_name(f"global_step_{step}")
        named_by = str(tracker)
    needed = [STATE_FILE, "actor", "data.pt"] + ["actor/egrsd_teacher_*.pt"] * has_teacher
    missing = [name for name in needed if not any(folder.glob(name))]
    if missing:
        raise ValueError(
            f"{folder}, named by {named_by}, has no {' and no '.join(missing)}: the checkpoint is torn or was not "
            f"written by EGRSD{' with this algorithm.egrsd.teacher.kind' * has_teacher}. {_way_out(folder)}"
        )
    _refuse_other_ranks(folder, trainer)
    return folder


def _refuse_other_ranks(folder: Path, trainer: Any) -> None:
    """verl names a shard after the number of ranks that wrote it (fsdp_checkpoint_manager.py:316)."""
    ranks = trainer.nnodes * trainer.n_gpus_per_node
    written_by = {int(path.name.split("_")[3]) for path in folder.glob("actor/model_world_size_*_rank_*.pt")}
    if written_by and ranks not in written_by:
        theirs = " or ".join(map(str, sorted(written_by)))
        raise ValueError(
            f"{folder} was written by {theirs} ranks, and trainer.nnodes={trainer.nnodes} x trainer.n_gpus_per_node="
            f"{trainer.n_gpus_per_node} are {ranks}: verl loads a checkpoint only on as many ranks as wrote it. Resume "
            f"with {theirs}, or start over with trainer.resume_mode=disable."
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


def _refuse_untracked(tracker: Path) -> None:
    complete = [folder for folder in _saved(tracker.parent) if _is_complete(folder)]
    if complete:
        raise ValueError(
            f"{complete[-1]} is a complete checkpoint, but there is no {tracker.name} beside it, so "
            "trainer.resume_mode=auto would start at step 0 and write over it. Resume with "
            f"trainer.resume_mode=resume_path trainer.resume_from_path={complete[-1]}, or start over with another "
            "trainer.default_local_dir or trainer.resume_mode=disable."
        )


def _saved(folder: Path) -> list[Path]:
    """The ``global_step_N`` in it, by N."""
    found = [path for path in folder.glob("global_step_*") if path.name.removeprefix("global_step_").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("global_step_")))


def _is_complete(folder: Path) -> bool:
    """verl writes data.pt last, a zip archive whose index comes at its end; in asynchronous modes transfer_queue
    follows."""
    return zipfile.is_zipfile(folder / "data.pt") and not (folder / "transfer_queue.tmp").exists()


def _way_out(inside: Path) -> str:
    return (
        f"Resume from another one in {inside.parent} (trainer.resume_mode=resume_path trainer.resume_from_path=...), "
        "or start over with trainer.resume_mode=disable."
    )
