"""verl's default logger needs a login; without one a run stops before Ray, not after its start-up."""

import re

import pytest
from composing import composed
from inputs import write_inputs
from omegaconf import OmegaConf
from runs import run

from recipe.egrsd.machines import slots, wandb_login

NETRC = "machine {host}\n  login user\n  password 0123\n"
CONFIG = {"trainer": {"logger": ["console", "wandb"]}, "ray_kwargs": {"ray_init": {}}}
REFUSED = (
    "trainer.logger=['console', 'wandb'] logs to wandb, and nobody is logged in here, so that verl would stop after "
    "models and vLLM have started; run `wandb login`, set WANDB_API_KEY or WANDB_MODE=offline, or leave it out: "
    "'trainer.logger=[console]'."
)


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A home and a working directory without a trace of wandb."""
    for name in (*wandb_login.KEYS, "WANDB_MODE", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "WANDB_DIR", "NETRC",
                 "RAY_ADDRESS"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where a cluster of this machine's would be named
    monkeypatch.chdir(tmp_path)


def check(**ray_init) -> None:
    wandb_login.check(OmegaConf.create(CONFIG | {"ray_kwargs": {"ray_init": ray_init}}))


def test_the_command_of_the_front_page_says_so_before_ray(tmp_path):
    """On a GPU: everything else of the command is in order, so that this is what stops it."""
    config = composed()
    assert list(config.trainer.logger) == ["console", "wandb"]
    with pytest.raises(ValueError, match=f"^{re.escape(REFUSED)}$"):
        wandb_login.check(config)


@pytest.mark.parametrize(
    "variables", [{"WANDB_API_KEY": "0123"}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"},
                  {"WANDB_IDENTITY_TOKEN_FILE": "token"}, {"RAY_ADDRESS": "auto"}]
)  # fmt: skip
def test_who_is_logged_in_or_needs_no_login_is_let_through(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check()


def test_a_key_for_the_workers_alone_is_enough():
    check(runtime_env={"env_vars": {"WANDB_API_KEY": "0123"}})


def test_netrc_counts_for_the_server_that_is_asked(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text(NETRC.format(host="api.wandb.ai"))
    check()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(ValueError, match="nobody is logged in"):
        check()
    monkeypatch.setenv("NETRC", str(tmp_path / "own"))
    (tmp_path / "own").write_text(NETRC.format(host="wandb.example.org"))
    check()


def test_wandb_offline_leaves_a_file_that_counts(tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    check()


@pytest.mark.parametrize("logger", ["wandb", "tracking", ["tracking", "file"]])
def test_however_verl_is_told_to_use_it(logger):
    """tracking is verl's older name for wandb (utils/tracking.py:76); a single word is taken, too."""
    with pytest.raises(ValueError, match=r"nobody is logged in .* 'trainer\.logger=\[(console|file)\]'\.$"):
        wandb_login.check(OmegaConf.create(CONFIG | {"trainer": {"logger": logger}}))


@pytest.mark.parametrize("logger", [None, 3, [None]])
def test_no_logger_at_all_is_said_to_be_none(logger):
    with pytest.raises(ValueError, match=r"^trainer\.logger=.* names no logger; use 'trainer\.logger=\[console\]'\.$"):
        wandb_login.check(OmegaConf.create(CONFIG | {"trainer": {"logger": logger}}))


@pytest.mark.parametrize(
    ("variable", "address", "joins"),
    [("local", None, False), (None, "local", False), (None, "auto", True), ("10.0.0.1:6379", None, True),
     ("10.0.0.1:6379", "auto", True), ("10.0.0.1:6379", "local", False), ("local", "10.0.0.1:6379", True)],
)  # fmt: skip
def test_a_login_is_looked_for_where_ray_starts(monkeypatch, variable, address, joins):
    """ray.init reads the variable where no address, or auto, was given (ray/_private/worker.py:1689)."""
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    # What Ray's workers are told comes too late for ray.init.
    ray_init = {"num_cpus": None, "address": address, "runtime_env": {"env_vars": {"RAY_ADDRESS": "10.0.0.1:6379"}}}
    config = OmegaConf.create(CONFIG | {"ray_kwargs": {"ray_init": ray_init}})
    assert slots.joins_cluster(config) == (slots.known_cpus(config) is None) == joins
    if joins:
        wandb_login.check(config)
    else:
        with pytest.raises(ValueError, match="nobody is logged in here"):
            wandb_login.check(config)


def test_another_logger_needs_none():
    wandb_login.check(OmegaConf.create(CONFIG | {"trainer": {"logger": ["console", "file"]}}))
    with pytest.raises(ValueError, match=r"leave it out: 'trainer\.logger=\[console\]'\.$"):
        wandb_login.check(OmegaConf.create(CONFIG | {"trainer": {"logger": ["wandb"]}}))


def test_a_run_is_refused_before_ray(tmp_path):
    """The command as users give it; whoever waits for verl to ask waits for models and vLLM."""
    write_inputs(tmp_path, train=4)
    result = run(tmp_path, tmp_path / "run", ["trainer.logger=[wandb]"], timeout=100, HOME=str(tmp_path))
    assert result.returncode == 1 and "EGRSD: trainer.logger=['wandb'] logs to wandb, and nobody" in result.log
    assert "Started a local Ray instance" not in result.log
