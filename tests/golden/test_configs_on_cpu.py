"""The config that each preset and each script of examples/ gives, as it was when somebody last looked.

presets.yaml holds the whole config of ``algorithm=egrsd`` and what the others change of it; scripts.yaml what a script
changes of a preset or of another script. So a default that verl changes is one line, of ours one line a preset.
"""

import json
import os
import re
import subprocess
import sys
from functools import cache
from typing import NamedTuple

import pytest
from composing import PRESETS, composed
from golden import delta, flat
from runs import ROOT

from examples.tiny_cpu.training import ALGORITHMS

EXAMPLES = ROOT / "examples"
TIME = re.compile(r"\d{8}T\d{6}Z")  # in the name of a script's metrics
BASE, ON_A_CPU = "algorithm=egrsd", "algorithm=egrsd VERL_PLATFORM=cpu"
OTHERS = sorted({path.stem for path in PRESETS.glob("*.yaml")} - {"egrsd"})
# File -> its sections: "name", or "name over other", which holds what differs.
CONFIGS = {
    "presets.yaml": [BASE, f"{ON_A_CPU} over {BASE}", *(f"algorithm={name} over {BASE}" for name in OTHERS)],
    "scripts.yaml": [
        f"run_qwen3_fsdp.sh over {BASE}",
        "run_qwen3_4b_fsdp.sh over run_qwen3_fsdp.sh",
        "run_qwen3_8b_fsdp.sh over run_qwen3_fsdp.sh",
        "run_qwen3_8b_multinode.sh over run_qwen3_8b_fsdp.sh",
        "run_qwen3_0_6b_one_gpu.sh over run_qwen3_fsdp.sh",
        f"tiny_cpu/train.sh over {ON_A_CPU}",
        f"smollm2/train.sh over {ON_A_CPU}",
    ],
}
# Where one script makes many runs, the words of each are compared: the config follows from them.
ABLATIONS = "ablations.sh, words over run_qwen3_8b_fsdp.sh"
ALGORITHMS_OF_TRAIN = "tiny_cpu/train.sh, words of ALGORITHM over the default's"
FOLDERS = {"MODEL": "model", "DATA": "data", "OUTPUT": "output"}
NEEDED = {"tiny_cpu/train.sh": FOLDERS, "smollm2/train.sh": FOLDERS}


class Call(NamedTuple):
    """What a script starts python with."""

    words: list[str]
    platform: str | None
    """Its variable VERL_PLATFORM."""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """(script, **variables) -> its calls of python, in a shell without any variable of ours; the folders and the
    time are made the same everywhere."""
    folder = tmp_path_factory.mktemp("scripts").resolve()
    echo = folder / "echo"  # stands in for python, which still runs a file
    echo.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "if sys.argv[1] != '-m':\n    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        "print(json.dumps([sys.argv[1:], os.getenv('VERL_PLATFORM')]))\n"
    )
    echo.chmod(0o755)

    @cache
    def run(script: str, variables: tuple[tuple[str, str], ...]) -> list[Call]:
        process = subprocess.run(
            [EXAMPLES / script], cwd=folder, env={"PATH": os.environ["PATH"], "PYTHON": str(echo), **dict(variables)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        said = TIME.sub("START", process.stdout.replace(str(folder), "/here").replace(str(ROOT), "/repository"))
        return [Call(*json.loads(line)) for line in said.splitlines() if line.startswith("[")]

    return lambda script, **variables: run(script, tuple((NEEDED.get(script, {}) | variables).items()))


@pytest.fixture(scope="module")
def config(start):
    """What a script, or ``algorithm=... VERL_PLATFORM=cpu``, gives: value by dotted key."""

    @cache
    def give(name: str) -> dict:
        if name.startswith("algorithm="):
            word, _, platform = name.partition(" VERL_PLATFORM=")
            call = Call(["-m", "verl.trainer.main_ppo", word], platform)
        else:
            (call,) = start(name)
        assert call.words[:2] == ["-m", "verl.trainer.main_ppo"]
        with pytest.MonkeyPatch.context() as patch:
            for variable in [key for key in os.environ if key.startswith(("VERL_", "EGRSD_", "HYDRA_"))]:
                patch.delenv(variable)
            if call.platform:
                patch.setenv("VERL_PLATFORM", call.platform)
            patch.setenv("OMP_NUM_THREADS", "2")  # or it is the number of this machine's cores
            patch.delenv("OMP_WAIT_POLICY", raising=False)
            algorithm, *overrides = call.words[2:]
            return flat(composed(*overrides, algorithm=algorithm.removeprefix("algorithm=")))

    return give


@pytest.mark.parametrize(("file", "section"), [(file, name) for file, names in CONFIGS.items() for name in names])
def test_config(golden, config, file, section):
    name, _, base = section.partition(" over ")
    golden(file, section, delta(config(name), config(base)) if base else config(name))


def test_words_of_the_ablations(golden, start):
    """Name of the run -> its words; what follows from the name is left out."""
    (base,), runs = start("run_qwen3_8b_fsdp.sh"), [by_key(call) for call in start("ablations.sh")]
    name = "trainer.experiment_name"
    golden("scripts.yaml", ABLATIONS, {run[name]: changed(run, by_key(base), same=name) for run in runs})


def test_words_of_the_demos_algorithms(golden, start):
    (base,) = start("tiny_cpu/train.sh")
    runs = {name: by_key(*start("tiny_cpu/train.sh", ALGORITHM=name)) for name in ALGORITHMS}
    golden("scripts.yaml", ALGORITHMS_OF_TRAIN, {name: changed(run, by_key(base)) for name, run in runs.items()})


def by_key(call: Call) -> dict[str, str]:
    """The words of a command line."""
    return dict(word.lstrip("+").split("=", 1) for word in call.words[2:])


def changed(words: dict[str, str], base: dict[str, str], *, same: str = "") -> list[str]:
    """Words that differ from the base's, but for those that hold the value of the key ``same``."""
    given, there = (
        {key: value.replace(each.get(same, "\0"), "<name>") for key, value in each.items()} for each in (words, base)
    )
    return [f"{key}={value}" for key, value in sorted(delta(given, there).items())]


def test_nothing_is_left_over(golden):
    golden.only("presets.yaml", CONFIGS["presets.yaml"])
    golden.only("scripts.yaml", [*CONFIGS["scripts.yaml"], ABLATIONS, ALGORITHMS_OF_TRAIN])


def test_every_script_stands_here():
    """compare.sh starts train.sh, once for each algorithm and seed."""
    named = {section.split(" ")[0].rstrip(",") for section in [*CONFIGS["scripts.yaml"], ABLATIONS]}
    assert {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.sh")} == named | {"tiny_cpu/compare.sh"}
