"""What the user named -> files that vLLM loads: a model, and an adapter if there is one.

| named                                   | loaded                                                                     |
| model folder, or name on the hub        | itself; a hub name is pinned to the commit that it means now               |
| LoRA adapter (adapter_config.json)      | its base model, and the adapter                                            |
| verl checkpoint (global_step_N, actor)  | actor/huggingface if weights were saved there; else actor/merged, which    |
|                                         | verl's own model merger fills when it is first needed                      |
| verl checkpoint of a LoRA run           | actor/merged and actor/merged/lora_adapter; never actor/huggingface: the   |
|                                         | weights that verl 0.9.1 saves there have PEFT's names, which nothing loads |
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from recipe.egrsd.evaluate import Refused
from recipe.egrsd.machines import models

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
TEXT_PATTERNS = ("*.json", "*.jinja")  # configuration, tokenizer, chat template
PROBED_BYTES = 1 << 20
NO_MODEL = "no complete model weights"  # verl/model_merger/output_validation.py


@dataclass(frozen=True)
class ModelFiles:
    """Where the weights are."""

    model: str
    """Its folder, or its name on the hub."""
    revision: str | None = None
    """Commit on the hub."""
    adapter: str | None = None
    snapshot: str | None = None
    """Folder of what came from the hub."""

    @property
    def path(self) -> str:
        """The folder that tokenizer and engines read."""
        return self.snapshot or self.model

    @property
    def lora_rank(self) -> int:
        """0 without an adapter."""
        return json.loads((Path(self.adapter) / "adapter_config.json").read_text())["r"] if self.adapter else 0

    def fingerprint(self) -> str:
        """Changes with the weights, the tokenizer or the chat template. Of a model on the hub it is the commit.

        Read are name, size, first and last MiB of every file.
        """
        digest = hashlib.sha256(str(self.revision).encode())
        for folder in filter(None, (None if self.revision else self.model, self.adapter)):
            for path in _files(Path(folder), *WEIGHT_PATTERNS, *TEXT_PATTERNS):
                digest.update(f"{path.name} {path.stat().st_size}".encode())
                with path.open("rb") as file:
                    digest.update(file.read(PROBED_BYTES))
                    file.seek(-min(PROBED_BYTES, path.stat().st_size), os.SEEK_END)
                    digest.update(file.read())
        return digest.hexdigest()[:16]


def locate(name: str, *, base: str | None = None) -> ModelFiles:
    """The files of a model, adapter or checkpoint; merges a checkpoint that holds shards only.

    Args:
        name: folder, or name on the hub.
        base: base model of an adapter, or of a checkpoint that holds an adapter only; folder, or name on the hub.

    Raises:
        Refused: if there is nothing loadable there, or verl's merger fails; says what is missing, or the merger's last
            words.
    """
    folder = Path(name)
    if not folder.is_dir():
        _refuse_base(base, name)
        return _on_the_hub(name)
    actor = folder / "actor" if (folder / "actor").is_dir() else folder
    if (actor / "fsdp_config.json").exists():
        return _checkpoint(actor, base)
    if (folder / "adapter_config.json").exists():
        return _with_adapter(folder, base)
    steps = sorted(path.name for path in folder.glob("global_step_*"))
    if steps:
        raise Refused(f"{name} holds several checkpoints; name one of them: {', '.join(steps)}.")
    _refuse_base(base, name)
    if not (folder / "config.json").exists() or not _weight_files(folder):
        raise Refused(
            f"{name} is no model (config.json and weights), no adapter (adapter_config.json) and no verl checkpoint "
            "(fsdp_config.json, there or in actor/)."
        )
    return ModelFiles(str(folder.resolve()))


def _checkpoint(actor: Path, base: str | None) -> ModelFiles:
    if (actor / "lora_train_meta.json").exists():
        return _lora_checkpoint(actor, base)
    _refuse_base(base, str(actor))
    saved = actor / "huggingface"
    return ModelFiles(str((saved if _weight_files(saved) else _merged(actor)).resolve()))


def _lora_checkpoint(actor: Path, base: str | None) -> ModelFiles:
    merged = _merged(actor)
    adapter = merged / "lora_adapter"
    if base:
        return _with_adapter(adapter, base)
    if not _weight_files(merged):
        raise Refused(
            f"{actor} holds an adapter only (save_lora_only=true); name the model it was trained on with --base."
        )
    return ModelFiles(str(merged.resolve()), adapter=str(adapter.resolve()))


def _with_adapter(adapter: Path, base: str | None) -> ModelFiles:
    base = base or json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base:
        raise Refused(f"{adapter}/adapter_config.json does not name the adapter's model; name it with --base.")
    files = locate(base)
    if files.adapter:
        raise Refused(f"--base {base} is an adapter itself; merge it into its model first.")
    return replace(files, adapter=str(adapter.resolve()))


def _merged(actor: Path) -> Path:
    """The folder that verl's merger filled, with model, adapter or both; it is whole, or not there."""
    merged = actor / "merged"
    if merged.is_dir():
        shards = [path.stat().st_mtime for path in actor.glob("model_world_size_*.pt")]
        if max(shards, default=0) > merged.stat().st_mtime:
            raise Refused(f"{merged} is older than the shards beside it, so it may be of an earlier run; delete it.")
        return merged
    print(f"Merging the shards of {actor} into {merged} (once)", flush=True)
    with TemporaryDirectory(prefix="merging-", dir=actor) as scratch:
        target = Path(scratch) / "model"
        arguments = ["merge", "--backend", "fsdp", "--local_dir", str(actor), "--target_dir", str(target)]
        process = subprocess.run(
            [sys.executable, "-m", "verl.model_merger", *arguments], capture_output=True, text=True
        )
        # Shards of an adapter alone: the merger writes the adapter, and only then misses the model.
        adapter_only = NO_MODEL in process.stderr and (target / "lora_adapter" / "adapter_model.safetensors").exists()
        if process.returncode and not adapter_only:
            raise Refused(
                f"verl's model merger cannot merge {actor}; the end of what it said:\n{process.stdout[-1000:]}"
                f"{process.stderr[-3000:]}"
            )
        try:
            os.replace(target, merged)
        except OSError:
            if not merged.is_dir():  # another process was faster
                raise
    return merged


def _on_the_hub(name: str) -> ModelFiles:
    try:
        folder, commit = models.locate(name, key="--model or --base")
    except ValueError as error:
        raise Refused(str(error)) from error
    return ModelFiles(name, revision=commit, snapshot=str(folder))


def _refuse_base(base: str | None, name: str) -> None:
    if base:
        raise Refused(f"--base {base} means nothing to {name}, which is a whole model; leave it out.")


def _weight_files(folder: Path) -> list[Path]:
    return _files(folder, *WEIGHT_PATTERNS)


def _files(folder: Path, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
