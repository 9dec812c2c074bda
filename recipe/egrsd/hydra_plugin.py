"""Makes ``algorithm=<name>`` a config group of verl's own main_ppo, and checks an EGRSD config before Ray starts.

Imports hydra only (on a CPU run also verl's platform), never raises in a run without us.

verl's primary config has an inline ``algorithm:`` node and no group of that name, so stock hydra refuses the word.
Hydra asks plugins to edit the search path before it composes; ours puts a source in front of verl's that returns verl's
primary config verbatim plus one trailing default, ``algorithm: null``. Nothing of verl is copied: a new verl release is
read as it is.

verl imports this module at ``import verl``: through the ``verl.plugins`` entry point when pip-installed, or because
``VERL_USE_EXTERNAL_MODULES=recipe.egrsd.hydra_plugin`` names it when the folder was copied into a verl checkout.
"""

import os
from abc import abstractmethod

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.egrsd import cpu

MODULES_VARIABLE = "VERL_USE_EXTERNAL_MODULES"


class _WrappedSource(ConfigSource):
    """A config source that serves another one's files, edited on the way. ``path`` is the inner source's URL or
    folder."""

    def __init__(self, provider: str, path: str):
        super().__init__(provider=provider, path=path)
        url = self.path if "://" in self.path else f"file://{self.path}"
        self.inner = SourcesRegistry.instance().resolve(url.split("://", 1)[0])(provider, url)

    def available(self) -> bool:
        return self.inner.available()

    def is_group(self, config_path: str) -> bool:
        return self.inner.is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return self.inner.is_config(config_path)

    def list(self, config_path: str, results_filter) -> list[str]:
        return self.inner.list(config_path, results_filter)

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        result = self.inner.load_config(config_path)
        self.edit(result.config)
        return result

    @abstractmethod
    def edit(self, config) -> None:
        """Changes a config that was just read, in place."""


class VerlPrimarySource(_WrappedSource):
    """verl's primary configs (ppo_trainer, ppo_megatron_trainer, ...) with the ``algorithm`` group opened."""

    @staticmethod
    def scheme() -> str:
        return "egrsd-primary"

    def is_group(self, config_path: str) -> bool:
        return False

    def list(self, config_path: str, results_filter) -> list[str]:
        return []

    def is_config(self, config_path: str) -> bool:
        if "/" in config_path or not self.inner.is_config(config_path):
            return False
        config = self.inner.load_config(config_path).config
        if not isinstance(config, DictConfig) or not isinstance(config.get("algorithm"), DictConfig):
            return False
        defaults = config.get("defaults")
        if not isinstance(defaults, ListConfig) or "_self_" not in list(defaults):
            return False
        groups = [str(key).split()[-1] for entry in defaults if isinstance(entry, DictConfig) for key in entry]
        return "algorithm" not in groups  # a later verl may bring the group itself

    def edit(self, config) -> None:
        # After _self_, or verl's inline node would win; not `optional`, which would swallow a misspelt name.
        config.defaults.append(OmegaConf.create({"algorithm": None}))


class AlgorithmSource(_WrappedSource):
    """Our config/ folder, completed by what only the launching shell knows.

    The modules of the user's own VERL_USE_EXTERNAL_MODULES are loaded in the workers, too (a runtime environment
    replaces the variable), EGRSD_ALLOW_UNTESTED_VERL reaches them, and VERL_PLATFORM=cpu adds cpu/config.yaml. All stay
    below the command line.
    """

    @staticmethod
    def scheme() -> str:
        return "egrsd-algorithm"

    def edit(self, config) -> None:
        from recipe.egrsd.config import verl_version  # only when a preset of ours is read

        env_vars = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars")
        if env_vars is None or MODULES_VARIABLE not in env_vars:
            return  # a preset on top of egrsd.yaml
        import recipe.egrsd.config.resolvers  # noqa: F401  that egrsd.yaml and cpu/config.yaml name

        ours = env_vars[MODULES_VARIABLE].split(",")
        users = [name for name in os.environ.get(MODULES_VARIABLE, "").split(",") if name and name not in ours]
        env_vars[MODULES_VARIABLE] = ",".join([*users, *ours])
        if verl_version.allows_untested():
            env_vars[verl_version.ALLOW_UNTESTED] = "1"
        if cpu.enabled():
            config.merge_with(cpu.settings())


class VerlAlgorithmSearchPath(SearchPathPlugin):
    """Touches the search path of verl's own entry points only; every other hydra application is left alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = [entry for entry in search_path.get_path() if entry.provider == "main"]
        if not main or not _is_verl(main[0].path):
            return
        search_path.prepend("egrsd", f"{VerlPrimarySource.scheme()}://{main[0].path}", SearchPathQuery(provider="main"))
        search_path.append("egrsd", f"{AlgorithmSource.scheme()}://pkg://recipe.egrsd.config")


class Validation(Callback):
    """egrsd.yaml names it under hydra.callbacks: a config that would not be EGRSD stops within seconds, on one line.

    Imports of ours stand in its methods, because the runs of others import this module, too.
    """

    def on_run_start(self, config: DictConfig, **kwargs) -> None:
        from recipe.egrsd import token_weight
        from recipe.egrsd.machines import models

        # Here, because a job is given a copy before it starts.
        try:
            OmegaConf.resolve(config.ray_kwargs)  # verl hands it to Ray as it stands (main_ppo.py:74)
        except OmegaConfBaseException as problem:
            raise SystemExit(f"EGRSD: {problem}".splitlines()[0]) from None
        models.absolute_folders(config)
        token_weight.absolute_file(config)

    def on_job_start(self, config: DictConfig, **kwargs) -> None:
        try:
            from recipe.egrsd import checkpoint, parts
            from recipe.egrsd.config import validation, verl_version
            from recipe.egrsd.machines import attention, models, slots, wandb_login
            from recipe.egrsd.privilege import columns

            if verl_version.allows_untested() and (untested := verl_version.untested()):
                print(f"EGRSD: {untested}. It runs because {verl_version.ALLOW_UNTESTED}=1.", flush=True)
            egrsd = validation.validate(config)
            parts.check(config, egrsd)
            checkpoint.folder_to_resume(config)  # the trainer looks again
            attention.refuse(config)  # the trainer asks every machine
            slots.check_before_ray(config)
            validation.check_data_files(config.data)
            models.located(config)  # the trainer looks again, on its own machine
            columns.check(config, egrsd)
            wandb_login.check(config)
            slots.check_when_ray_has_started(config)
        except Exception as problem:  # noqa: BLE001  hydra turns any but SystemExit into a warning, and the run goes on
            kind = "" if type(problem) in (ValueError, RuntimeError) else f"{type(problem).__name__}: "
            raise SystemExit(" ".join(f"EGRSD: {kind}{problem}".splitlines())) from None


def _is_verl(path: str | None) -> bool:
    path = (path or "").replace("\\", "/").rstrip("/")
    return path.endswith("verl/trainer/config") or path in ("pkg://verl.trainer.config", "pkg://verl/trainer/config")


for _plugin in (VerlPrimarySource, AlgorithmSource, VerlAlgorithmSearchPath):
    Plugins.instance().register(_plugin)

if cpu.enabled():  # verl asks for its platform and for vLLM's version in the driver, too
    import recipe.egrsd.cpu.platform
    import recipe.egrsd.cpu.vllm  # noqa: F401  waits for the import of vLLM
