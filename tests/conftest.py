"""Whole runs that several test files share: real main_ppo, Ray, vLLM and FSDP2 on the CPU. They train on the same
rollouts."""

import os
import shutil
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import fixed_rollouts
import pytest
from filelock import FileLock
from golden import Golden
from inputs import write_inputs
from packages import is_pinned, pinned
from runs import COIN_REWARD, DESCENT, LORA, PADDED, Run, good, replaying, run

# make test starts processes in the background, where a shell ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Checks of tests that stand in tests/support: an assert of theirs that fails shows its values, as one of a test does.
pytest.register_assert_rewrite("guided_steps", "queued_steps", "run_checks")


def pytest_report_header() -> str:
    return f"verl {version('verl')}"  # make test-matrix


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests one process of make test runs: whole runs, which come first, in two lanes; the others file by file,
    so that what a file makes once is made once."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("slow"):
            group = "second lane" if item.get_closest_marker("second_lane") else "first lane"
        elif item.path.parent.name == "steps":
            group = "steps"
        else:
            group = item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="write the golden files instead of comparing (make golden)")


@pytest.fixture
def golden(request) -> Golden:
    """Compares with the files of tests/golden; they are those of the verl in requirements/cpu.txt."""
    if not is_pinned("verl"):
        pytest.skip(f"the golden files are those of verl {pinned()['verl']}; this is verl {version('verl')}")
    return Golden(renew=request.config.getoption("--renew"))


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Fills a folder once for all processes of make test: whoever needs it first does so, the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def fill(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def inputs(once) -> Path:
    return once("inputs", lambda folder: write_inputs(folder, train=128))


@pytest.fixture(scope="session")
def run_once(once, inputs) -> Callable[..., Run]:
    """A whole run that must end well, by its name and, from its folder, its overrides."""

    def start(name: str, overrides: Callable[[Path], list[str]]) -> Run:
        folder = once(name, lambda folder: good(run(inputs, folder, overrides(folder))))
        return Run(folder, 0, (folder / "log").read_text(errors="replace"))

    return start


@pytest.fixture(scope="session")
def full(run_once) -> Run:
    """CL-EGRSD, full parameters, packed, dynamic batches, two ranks, one micro-batch each; saves tokens.

    Three steps on the committed rollouts, a fourth on its own. Another verl than the pinned one writes other fields, so
    that the run records what it samples.
    """

    def overrides(folder: Path) -> list[str]:
        if is_pinned("verl"):
            fixed_rollouts.lay_out(folder / "rollouts")
        saved = ["trainer.n_gpus_per_node=2", "trainer.save_freq=3", "algorithm.egrsd.save_tokens_every=2"]
        longer = ["trainer.total_training_steps=4"]
        return [*COIN_REWARD, *DESCENT, *replaying(folder / "rollouts"), *saved, *longer]

    return run_once("full", overrides)


@pytest.fixture(scope="session")
def rollouts(once, request) -> Path:
    """The committed ones; without them, or with another verl than the pinned one, those that a run has recorded."""
    if is_pinned("verl") and fixed_rollouts.FILE.exists():
        return once("rollouts", fixed_rollouts.lay_out)
    return request.getfixturevalue("full").folder / "rollouts"


@pytest.fixture(scope="session")
def padded(run_once, rollouts) -> Run:
    """The same on one rank, padded, in four static micro-batches, on the fewest CPUs of Ray's; after the recorded three
    steps it goes on for 10 more."""
    longer = ["trainer.save_freq=1", "trainer.total_training_steps=13", "ray_kwargs.ray_init.num_cpus=5"]
    return run_once("padded", lambda folder: [*COIN_REWARD, *DESCENT, *PADDED, *replaying(rollouts), *longer])


@pytest.fixture(scope="session")
def lora(run_once, rollouts) -> Run:
    """The same with an adapter, its own optimiser; validates first; the fourth step's rollouts and rewards are new."""
    longer = ["trainer.val_before_train=True", "trainer.total_training_steps=4"]
    return run_once("lora", lambda folder: [*LORA, *replaying(rollouts), *longer])


@pytest.fixture(params=["full", "lora", "padded"])
def any_run(request) -> Run:
    return request.getfixturevalue(request.param)
