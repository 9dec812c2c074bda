"""Checkpoints of no run, as small as they can be."""

from pathlib import Path

import torch

from recipe.egrsd import checkpoint


def write_checkpoint(folder: Path, *, ranks: int = 2) -> None:
    """The files of a checkpoint as verl and EGRSD name them, each as torch.save writes it."""
    (folder / "actor").mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder, {"baseline": {}, "alarms": {}})
    for name in checkpoint.SHARDS.values():
        for rank in range(ranks):
            torch.save({"rank": rank}, folder / "actor" / f"{name}_world_size_{ranks}_rank_{rank}.pt")
    torch.save({"step": 1}, folder / "data.pt")
