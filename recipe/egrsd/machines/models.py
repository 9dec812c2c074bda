"""A model's name becomes a folder, once a run, so that every process reads the same files and none asks the hub again.

peft, for one, asks the hub twice for each decoder layer, in every weight sync of an adapter whose base it knows by a
name there (peft/utils/save_and_load.py:298).
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict

from recipe.egrsd.config.derived import sends_adapter
from recipe.egrsd.machines import architectures

KEYS = tuple(
    f"actor_rollout_ref.model.{name}" for name in ("path", "hf_config_path", "tokenizer_path", "lora_adapter_path")
)
WEIGHTS = (".safetensors", ".bin")
OTHER_FORMATS = [
    "*.pth",
    "*.pt",
    "*.gguf",
    "*.onnx",
    "*.h5",
    "*.msgpack",
    "original/*",
]  # that neither verl nor vLLM reads

HUB_SECONDS = 5
"""For the hub's first answer."""


@dataclass(frozen=True)
class Model:
    """What one key of the config names."""

    key: str
    name: str
    """As it was given: a folder, or a name on the hub."""
    folder: Path
    """On the machine that looked."""
    commit: str | None
    """On the hub; None for a folder of the user's own."""

    def __str__(self) -> str:
        hub = f"{self.key}={self.name} from {self.folder} (commit {self.commit})"
        return hub if self.commit else f"{self.key}={self.folder}"

    def found_here(self) -> str:
        """The same model on this machine, downloaded if it is the hub's: its folder, and a digest of file names and
        sizes."""
        folder, _ = locate(self.name if self.commit else str(self.folder), key=self.key, revision=self.commit)
        files = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
        return f"{folder} with {len(files)} files ({sha256(str(files).encode()).hexdigest()[:12]})"


def locate(name: str, *, key: str, revision: str | None = None, weights: bool = True) -> tuple[Path, str | None]:
    """Absolute folder of a model, and its commit if it comes from the hub, from which missing files are then fetched,
    without ``weights`` all others.

    Raises:
        ValueError: if it is neither a folder here nor on the hub; at once where it cannot be a name there.
    """
    if Path(name).is_dir():
        return Path(os.path.abspath(name)), None
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(
            f"{key}={name} is no folder here, and cannot be a name on the hub (owner/model); correct it."
        ) from None
    try:
        folder = _snapshot(name, revision, weights=weights)
    except Exception as error:  # of a dozen kinds: no such name, not permitted, no network, a full disk
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{key}={name} is no folder here, and the hub does not give it ({type(error).__name__}: {reason}); correct "
            "the name, or name the folder of a downloaded model."
        ) from error
    return folder, folder.name  # .../snapshots/<commit>


def _snapshot(name: str, revision: str | None, *, weights: bool) -> Path:
    """Asks the hub one short question first: the client waits minutes for one that does not answer.

    Where the hub does not answer, and for a commit in any case, what is here already will do.
    """
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        model_info(name, revision=revision, timeout=HUB_SECONDS)
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and not revision:  # its answer is no
            raise
        with suppress(Exception):
            return Path(snapshot_download(name, revision=revision, local_files_only=True))
        raise
    left_out = OTHER_FORMATS if weights else [*OTHER_FORMATS, *(f"*{suffix}" for suffix in WEIGHTS)]
    return Path(snapshot_download(name, revision=revision, ignore_patterns=left_out))


def absolute_folders(config: Any) -> None:
    """Makes each relative folder among KEYS absolute, in place: Ray's processes may stand elsewhere."""
    for key, name in _named(config):
        if Path(name).is_dir():
            _put(config, key, Path(os.path.abspath(name)))


def found(config: Any, *, weights: bool) -> list[Model]:
    """The models that a run reads, here; ValueError and ``weights`` as of ``locate``."""
    return [Model(key, name, *locate(name, key=key, weights=weights)) for key, name in _named(config)]


def located(config: Any) -> list[Model]:
    """The models that a run reads, here and whole.

    Raises:
        ValueError: as of ``locate``, ``architectures.check`` and ``check_message``; or if the model's folder holds no
            weights.
    """
    import torch  # not above: the command line of evaluate names models, and answers --help at once

    models = found(config, weights=True)
    for model in models:
        if model.key == KEYS[0]:
            if not any(path.suffix in WEIGHTS for path in model.folder.iterdir()):
                raise ValueError(
                    f"{model} holds no weights ({', '.join(f'*{suffix}' for suffix in WEIGHTS)}): the download was not "
                    "finished, or it is no model's."
                )
            architectures.check(config, model.folder, trains_here=torch.cuda.is_available())
            check_message(config, model.folder)
    return models


def use_folders(config: Any, models: Sequence[Model]) -> None:
    """Puts the folders in the place of the names."""
    for model in models:
        _put(config, model.key, model.folder)


def refuse_other_commits(begun_with: Mapping[str, str], found: Sequence[Model]) -> None:
    """
    Args:
        begun_with: commit by key, as the checkpoint to resume from names them.

    Raises:
        ValueError: if a name on the hub has come to mean another commit, which would change the teacher without a word.
    """
    for model in found:
        old = begun_with.get(model.key)
        if old and model.commit and old != model.commit:
            kept = model.folder.with_name(old)
            fetch = "" if kept.is_dir() else f" after hf download {model.name} --revision {old}"
            raise ValueError(
                f"{model} is not the commit {old} that this run began with; resume with {model.key}={kept}{fetch}."
            )


def is_tied(hf_config: Any) -> bool:
    """Whether the head is the embedding, in every part of a composed config."""
    return all(getattr(part, "tie_word_embeddings", False) for part in (hf_config, hf_config.get_text_config()))


def check_message(config: Any, folder: Path) -> None:
    """ValueError if on a CPU the model has a weight that no message to vLLM can hold."""
    from transformers import AutoConfig

    if config.trainer.device != "cpu" or sends_adapter(config):
        return
    sizes = AutoConfig.from_pretrained(folder).get_text_config()
    mib = ceil(max(sizes.vocab_size, getattr(sizes, "intermediate_size", 0)) * sizes.hidden_size * 4 / 2**20)
    limit = config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes
    if mib > limit:
        raise ValueError(
            f"actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes={limit} cannot hold the "
            f"largest weight of {folder}, {mib} MiB in float32, and on a CPU verl sends none in parts; set it to "
            f"{mib} or more."
        )


def _named(config: Any) -> list[tuple[str, str]]:
    """Key and value where a model is named; verl reads hdfs:// and the like itself."""
    given = [(key, OmegaConf.select(config, key)) for key in KEYS]
    return [(key, name) for key, name in given if name and "://" not in name]


def _put(config: Any, key: str, folder: Path) -> None:
    with open_dict(config):
        OmegaConf.update(config, key, str(folder))
