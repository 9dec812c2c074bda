"""``python -m verl.trainer.main_ppo ...`` as a user types it, through the installed entry point, from an empty folder.

``--cfg job`` prints the composed config and ends. A process takes about 5 s, so that tests share them, and overrides
that need no command line of their own are composed in one process (``composed``).
"""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import composing
import pytest
import yaml
from composing import COMPOSE
from omegaconf import OmegaConf

from recipe.egrsd.machines import slots

RECIPE = Path(__file__).resolve().parents[2] / "recipe" / "egrsd"
MODULES = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES"

GROUP = sorted([*(path.stem for path in (RECIPE / "config" / "algorithm").glob("*.yaml")), "rollout_correction"])
"""Options of verl's group algorithm: the presets, and verl's own."""

Process = CompletedProcess[str]

# Names of the cases that one process composes: primary config, overrides.
OVERRIDES = ["algorithm.egrsd.gamma=0.5", "+x=y", "algorithm.rollout_correction.rollout_is=token"]
ORDERS = [[*OVERRIDES[:i], "algorithm=egrsd", *OVERRIDES[i:]] for i in range(len(OVERRIDES) + 1)]
BASES = {
    "dp": ("ppo_trainer", []),
    "megatron": ("ppo_trainer", ["model_engine=megatron"]),
    "torchtitan": ("ppo_trainer", ["model_engine=torchtitan"]),
    "veomni": ("ppo_trainer", ["model_engine=veomni"]),
    "ppo_megatron_trainer": ("ppo_megatron_trainer", []),
}
CASES: dict[str, tuple[str, list[str]]] = {
    **{f"order {i}": ("ppo_trainer", order) for i, order in enumerate(ORDERS)},
    **{f"{base} plain": case for base, case in BASES.items()},
    **{f"{base} egrsd": (name, [*overrides, "algorithm=egrsd"]) for base, (name, overrides) in BASES.items()},
    **{name: ("ppo_trainer", [f"algorithm={name}"]) for name in ("cl_egrsd", "egrsd_ungated", "egrsd_mean_gate")},
    "misspelt name": ("ppo_trainer", ["algorithm=egsrd"]),
    "misspelt key": ("ppo_trainer", ["algorithm=egrsd", "algorithm.egrsd.gama=1"]),
    "key without the word": ("ppo_trainer", ["algorithm.egrsd.floor=1"]),
}

ANOTHER_APPLICATION = """
import verl  # loads the plugin
import hydra

@hydra.main(config_path="conf", config_name="config", version_base=None)
def main(config):
    pass

main()
"""


def run(arguments: list[str], cwd: Path, *, stdin: str = "", **variables: str) -> Process:
    """Python with these arguments, in a shell that has set none of verl's variables, or of ours, but the given ones."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VERL_", "HYDRA_", "PYTHON", "EGRSD_"))
    }
    environment = {**kept, **variables}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def main_ppo(tmp_path_factory) -> Callable[..., Process]:
    """Runs verl's main_ppo; each command once."""
    if not entry_points(group="verl.plugins", name="egrsd"):
        pytest.fail("egrsd is not installed here: run `make test`, or first `pip install --no-deps -e .`")
    folder = tmp_path_factory.mktemp("empty")
    return functools.cache(
        lambda *arguments, **variables: run(["-m", "verl.trainer.main_ppo", *arguments], folder, **variables)
    )


@pytest.fixture(scope="module")
def config(main_ppo) -> Callable[..., dict[str, Any]]:
    """The values that main_ppo would train with, by their dotted keys."""

    def print_and_parse(*arguments: str, **variables: str) -> dict[str, Any]:
        process = main_ppo(*arguments, "--cfg", "job", **variables)
        assert process.returncode == 0, process.stderr
        return leaves(yaml.safe_load(process.stdout))

    return print_and_parse


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> dict[str, Any]:
    """CASES by name: a config, or the text of hydra's refusal. ``modules`` lists what of us ``import verl`` loaded."""
    process = run(["-c", COMPOSE], tmp_path_factory.mktemp("empty"), stdin=json.dumps(CASES))
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value. Lists and empty mappings are values."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        key: value
        for name, subtree in tree.items()
        for key, value in leaves(subtree, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def preset(path: str) -> dict[str, Any]:
    """The leaves of one of our files that end up in verl's config: not those that steer hydra itself."""
    tree = yaml.safe_load((RECIPE / path).read_text())
    for steering in ("defaults", "hydra"):
        tree.pop(steering, None)
    return leaves(tree)


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What was set anew or to another value. Nothing may have gone; an empty value may have got keys of its own."""
    for key in before.keys() - after.keys():
        assert not before[key] and any(name.startswith(f"{key}.") for name in after), f"{key} has gone"
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def differing(wanted: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The entries of ``wanted`` that the base does not have already."""
    return {key: value for key, value in wanted.items() if key not in base or base[key] != value}


# ---------------------------------------------------------------- without the word


def test_plain_runs_are_untouched_to_the_byte(main_ppo):
    with_plugin = main_ppo("--cfg", "job")
    without = main_ppo("--cfg", "job", VERL_USE_EXTERNAL_PLUGINS="none")
    assert with_plugin.returncode == without.returncode == 0, with_plugin.stderr + without.stderr
    assert "adv_estimator: gae" in without.stdout
    assert with_plugin.stdout == without.stdout


def test_plain_runs_on_the_cpu_platform_are_untouched_to_the_byte(main_ppo):
    on_cpu = main_ppo("--cfg", "job", VERL_PLATFORM="cpu")
    assert on_cpu.returncode == 0, on_cpu.stderr
    assert on_cpu.stdout == main_ppo("--cfg", "job", VERL_USE_EXTERNAL_PLUGINS="none").stdout


def test_plain_runs_load_nothing_of_us_but_the_hydra_plugin(composed):
    assert set(composed["modules"]) == {"recipe", "recipe.egrsd", "recipe.egrsd.cpu", "recipe.egrsd.hydra_plugin"}


def test_without_the_plugin_the_word_is_refused(main_ppo):
    process = main_ppo("algorithm=egrsd", "--cfg", "job", VERL_USE_EXTERNAL_PLUGINS="none")
    assert process.returncode != 0
    assert "Could not override 'algorithm'" in process.stderr


# ---------------------------------------------------------------- with it


def test_egrsd_changes_exactly_the_keys_of_its_file(config):
    plain, egrsd = config(), config("algorithm=egrsd")
    assert changes(plain, egrsd) == differing(preset("config/algorithm/egrsd.yaml"), plain)
    assert egrsd["algorithm.adv_estimator"] == "egrsd"
    # The only interpolations: verl hands its data sets `data` alone, and these follow the command line; an adapter is
    # sent alone; a storage unit a node.
    interpolations = {key for key, value in changes(plain, egrsd).items() if isinstance(value, str) and "${" in value}
    data = {f"data.egrsd.{key}" for key in ("teacher", "privilege", "use_v1", "trainer_mode")}
    loading = {f"actor_rollout_ref.rollout.{key}" for key in ("load_format", "layered_summon")}
    assert interpolations == data | loading | {slots.UNITS_KEY}


def test_egrsd_repeats_none_of_verls_defaults_but_what_its_formula_needs(config):
    """A default of verl that we repeat is a promise to hold on to it when verl changes its mind."""
    wanted, plain = preset("config/algorithm/egrsd.yaml"), config()
    assert wanted.keys() - differing(wanted, plain).keys() == {
        "actor_rollout_ref.actor.loss_agg_mode",  # the paper's mean over tokens
        "reward.custom_reward_function.name",  # the function in the file that the line before names
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cl_egrsd", {"algorithm.egrsd.window": 3}),
        ("egrsd_ungated", {"algorithm.egrsd.gamma": 0.0}),
        ("egrsd_mean_gate", {"algorithm.egrsd.gate": "mean"}),
    ],
)
def test_presets_of_the_paper_and_its_controls_change_one_key(composed, name, change):
    assert changes(leaves(composed["dp egrsd"]), leaves(composed[name])) == change


@pytest.mark.parametrize("base", BASES)
def test_every_engine_and_primary_config_of_verl_takes_the_word(composed, base):
    plain, egrsd = leaves(composed[f"{base} plain"]), leaves(composed[f"{base} egrsd"])
    assert changes(plain, egrsd) == differing(preset("config/algorithm/egrsd.yaml"), plain)


@pytest.mark.long
def test_another_primary_config_on_the_command_line(config):
    name = ["--config-name", "ppo_megatron_trainer"]
    egrsd = config(*name, "algorithm=egrsd", "actor_rollout_ref.actor.megatron.tensor_model_parallel_size=2")
    assert egrsd["algorithm.adv_estimator"] == "egrsd"
    assert egrsd["actor_rollout_ref.actor.megatron.tensor_model_parallel_size"] == 2


@pytest.mark.parametrize("i", range(len(ORDERS)), ids=lambda i: " ".join(ORDERS[i]))
def test_overrides_are_applied_on_top_in_any_order(composed, i):
    expected = {"algorithm.egrsd.gamma": 0.5, "x": "y", "algorithm.rollout_correction.rollout_is": "token"}
    assert changes(leaves(composed["dp egrsd"]), leaves(composed[f"order {i}"])) == expected


def test_overrides_before_the_word_on_the_command_line(config):
    overridden = config("algorithm.egrsd.gamma=0.5", "trainer.v1.trainer_mode=sync", "algorithm=egrsd")
    expected = {"algorithm.egrsd.gamma": 0.5, "trainer.v1.trainer_mode": "sync"}
    assert changes(config("algorithm=egrsd"), overridden) == expected


# ---------------------------------------------------------------- help and refusals


@pytest.mark.long
def test_help_lists_the_presets(main_ppo):
    process = main_ppo("--help")
    assert process.returncode == 0, process.stderr
    assert re.search(rf"^algorithm: {', '.join(GROUP)}$", process.stdout, re.MULTILINE)


@pytest.mark.long
def test_info_defaults_shows_where_the_preset_comes_in(main_ppo):
    process = main_ppo("algorithm=egrsd", "--info", "defaults")
    assert process.returncode == 0, process.stderr
    rows = re.findall(r"^\| (\S+)", process.stdout, re.MULTILINE)
    assert rows.index("algorithm/egrsd") > rows.index("ppo_trainer")  # later rows win


def test_misspelt_name_is_refused_with_the_options(composed):
    assert "Could not find 'algorithm/egsrd'" in composed["misspelt name"]
    options = r"\s+".join(GROUP)
    assert re.search(rf"Available options in 'algorithm':\s+{options}\s", composed["misspelt name"])


def test_misspelt_key_is_refused(composed):
    assert "Could not override 'algorithm.egrsd.gama'" in composed["misspelt key"]
    assert "Key 'gama' is not in struct" in composed["misspelt key"]


def test_our_keys_without_the_word_are_refused(composed):
    assert "Could not override 'algorithm.egrsd.floor'" in composed["key without the word"]


# ---------------------------------------------------------------- what the shell says


@pytest.fixture
def in_a_shell(monkeypatch) -> Callable[..., dict[str, Any]]:
    """What hydra composes of algorithm=egrsd, in this process, in a shell that has set this variable."""

    def values(**variables: str) -> dict[str, Any]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return leaves(OmegaConf.to_container(composing.composed()))

    return values


def test_whoever_allows_an_untested_verl_allows_it_to_the_workers(in_a_shell):
    refused = in_a_shell(EGRSD_ALLOW_UNTESTED_VERL="")  # make test-verl sets it for all tests
    allowed = in_a_shell(EGRSD_ALLOW_UNTESTED_VERL="1")
    assert changes(refused, allowed) == {"ray_kwargs.ray_init.runtime_env.env_vars.EGRSD_ALLOW_UNTESTED_VERL": "1"}


def test_modules_of_the_user_are_loaded_in_the_workers_too(in_a_shell):
    plain = in_a_shell(VERL_USE_EXTERNAL_MODULES="")
    egrsd = in_a_shell(VERL_USE_EXTERNAL_MODULES="colorsys,recipe.egrsd.register,wave")
    assert changes(plain, egrsd) == {MODULES: "colorsys,wave,recipe.egrsd.register"}


def test_cpu_platform_adds_its_file_below_the_command_line(config):
    egrsd = config("algorithm=egrsd")
    on_cpu = config("algorithm=egrsd", "trainer.n_gpus_per_node=2", VERL_PLATFORM="cpu")
    assert on_cpu.pop("trainer.n_gpus_per_node") == 2
    wanted = preset("cpu/config.yaml")
    assert wanted.pop("trainer.n_gpus_per_node") == 1
    egrsd.pop("trainer.n_gpus_per_node")
    assert changes(egrsd, on_cpu) == differing(wanted, egrsd)


# ---------------------------------------------------------------- neighbours


def test_another_hydra_application_is_unaffected(tmp_path):
    (tmp_path / "application.py").write_text(ANOTHER_APPLICATION)
    options = tmp_path / "conf" / "algorithm"
    options.mkdir(parents=True)
    (options / "sgd.yaml").write_text("lr: 1\n")
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [_self_, algorithm: sgd]\nseed: 0\n")
    # --cfg all also prints hydra.runtime.config_sources, the search path
    command = ["application.py", "--cfg", "all"]
    with_plugin, without = (run(command, tmp_path, VERL_USE_EXTERNAL_PLUGINS=policy) for policy in ("auto", "none"))
    assert with_plugin.returncode == without.returncode == 0, with_plugin.stderr + without.stderr
    assert "config_sources" in without.stdout
    assert with_plugin.stdout == without.stdout


def test_the_plugin_imports_hydra_only(tmp_path):
    code = "import sys, recipe.egrsd.hydra_plugin; print(*{name.split('.')[0] for name in sys.modules})"
    process = run(["-c", code], tmp_path)
    assert process.returncode == 0, process.stderr
    heavy = {"numpy", "ray", "torch", "transfer_queue", "transformers", "verl", "vllm", "wrapt"}
    assert heavy & set(process.stdout.split()) == set()
