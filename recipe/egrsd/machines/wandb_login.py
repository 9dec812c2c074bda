"""A run that logs to wandb without a login: verl asks for it after models, vLLM and the first weight sync have started
(trainer_base.py, ``fit``), where no terminal can answer."""

import configparser
import os
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import ListConfig

from recipe.egrsd.config.strict import shown
from recipe.egrsd.machines.slots import joins_cluster

SERVER = "https://api.wandb.ai"
NAMES = ("wandb", "tracking")  # the second is verl's older one (utils/tracking.py:76)
NO_LOGIN_NEEDED = {"offline", "disabled", "dryrun"}
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def check(config: Any) -> None:
    """Looked at on the machine that starts Ray; a run that joins a cluster may find its login there.

    Raises:
        ValueError: if trainer.logger is none, or if it has wandb, which is verl's default, and nothing here tells wandb
            who is asking.
    """
    ray = config.ray_kwargs.ray_init
    environment = {**os.environ, **((ray.get("runtime_env") or {}).get("env_vars") or {})}
    given = config.trainer.logger
    loggers = [given] if isinstance(given, str) else given
    if not isinstance(loggers, list | ListConfig) or not all(isinstance(name, str) for name in loggers):
        raise ValueError(f"trainer.logger={shown(given)} names no logger; use 'trainer.logger=[console]'.")
    loggers = list(loggers)
    others = [name for name in loggers if name not in NAMES]
    if others == loggers or joins_cluster(config) or _knows_the_user(environment):
        return
    raise ValueError(
        f"trainer.logger={loggers} logs to wandb, and nobody is logged in here, so that verl would "
        "stop after models and vLLM have started; run `wandb login`, set WANDB_API_KEY or WANDB_MODE=offline, or leave "
        f"it out: 'trainer.logger=[{','.join(others or ['console'])}]'."
    )


def _knows_the_user(environment: Mapping[str, str]) -> bool:
    """The places that wandb's documentation names: environment, netrc, and what `wandb offline` writes."""
    if any(environment.get(key) for key in KEYS) or environment.get("WANDB_MODE", "").lower() in NO_LOGIN_NEEDED:
        return True
    settings = configparser.ConfigParser(strict=False)
    folder = Path(environment.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    written = (folder / "settings", Path(environment.get("WANDB_DIR") or ".") / "wandb" / "settings")
    try:
        settings.read(written)
        if settings.get("default", "mode", fallback="").lower() in NO_LOGIN_NEEDED:
            return True
        host = urlsplit(environment.get("WANDB_BASE_URL") or SERVER).hostname
        return netrc(environment.get("NETRC") or Path.home() / ".netrc").authenticators(str(host)) is not None
    except (OSError, NetrcParseError, configparser.Error):
        return False
