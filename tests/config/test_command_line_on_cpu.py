"""``python -m verl.trainer.main_ppo ...`` as a user types it, through the installed entry point, from an empty folder.

``--cfg job`` prints the composed config and ends. A process takes about 5 s, so that tests share them, and overrides
that need no command line of their own are composed in one process (``composed``).
"""

import functools
import json
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pytest
import yaml
from bare_shell import Process, run
from composing import COMPOSE
from config_changes import changes, differing, leaves, preset
from packages import RECIPE

from recipe.egrsd.machines import slots

GROUP = sorted([*(path.stem for path in (RECIPE / "config" / "algorithm").glob("*.yaml")), "rollout_correction"])
"""Options of verl's group algorithm: the presets, and verl's own."""

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


def test_cpu_platform_adds_its_file_below_the_command_line(config):
    egrsd = config("algorithm=egrsd")
    on_cpu = config("algorithm=egrsd", "trainer.n_gpus_per_node=2", VERL_PLATFORM="cpu")
    assert on_cpu.pop("trainer.n_gpus_per_node") == 2
    wanted = preset("cpu/config.yaml")
    assert wanted.pop("trainer.n_gpus_per_node") == 1
    egrsd.pop("trainer.n_gpus_per_node")
    assert changes(egrsd, on_cpu) == differing(wanted, egrsd)


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
