"""Every variable of the scripts in examples/ followed to its keys, and where a run's files go; nothing is trained."""

import re
from pathlib import Path

import pytest
from made_up_runs import write_evaluation, write_tokens
from omegaconf import OmegaConf
from shell_scripts import EXAMPLES, KNOBS, METRICS_FILE, MODELS, plain

from recipe.egrsd.report.runs import read_run


def test_every_variable_is_listed_here():
    script = (EXAMPLES / "run_qwen3_fsdp.sh").read_text()
    assert set(re.findall(r"^ *([A-Z_]+)=\$\{\1:-", script, re.M)) == {*KNOBS, "OUTPUT", "DOCTOR"}
    for path in EXAMPLES.glob("run_qwen3_*_*.sh"):
        of_a_cluster = {"RAY_ADDRESS", "SHIP_RECIPE"} if "multinode" in path.name else set()  # test_nodes_on_cpu.py
        assert set(re.findall(r"\b([A-Z_]+)=\$\{\1:-", path.read_text())) <= {*KNOBS, "OUTPUT", *of_a_cluster}


@pytest.mark.parametrize("script", ["run_qwen3_fsdp.sh", *MODELS.values(), "run_qwen3_0_6b_one_gpu.sh"])
def test_every_variable_reaches_its_keys(composed, script):
    default = composed(script)
    config = composed(script, **{name: value for name, (value, _) in KNOBS.items()})
    for name, (_, expected) in KNOBS.items():
        for key, value in expected.items():
            assert plain(OmegaConf.select(config, key)) == value != plain(OmegaConf.select(default, key)), (name, key)


def test_output(composed, tmp_path):
    config = composed("run_qwen3_4b_fsdp.sh", OUTPUT="here")
    assert config.trainer.default_local_dir == f"{tmp_path}/here/checkpoints"
    assert re.fullmatch(f"{tmp_path}/here/metrics/[0-9]{{8}}T[0-9]{{6}}Z.jsonl", OmegaConf.select(config, METRICS_FILE))
    named = composed("run_qwen3_8b_fsdp.sh", ALGORITHM="grpo")
    assert named.trainer.default_local_dir == f"{tmp_path}/outputs/qwen3-8b-grpo/checkpoints"


def test_the_report_finds_what_a_run_writes(composed, tmp_path):
    """The third command is given the folder of the second: its metrics, tokens, and evaluations put beside them."""
    config = composed("run_qwen3_4b_fsdp.sh", OUTPUT="here")
    metrics = Path(OmegaConf.select(config, METRICS_FILE))
    metrics.write_text(
        '{"step": 25, "data": {"egrsd/gate_mean": 0.9}}\n'
    )  # verl's logger makes no folder: the script has
    write_tokens(Path(config.trainer.default_local_dir).parent, config.algorithm.egrsd.save_tokens_every)
    write_evaluation(tmp_path / "here/evaluated/100", config.trainer.total_training_steps, 0.6, 9000.0)
    run = read_run(tmp_path / "here", "here")
    assert (list(run.metrics), list(run.tokens), list(run.checkpoints)) == ([25], [25], [100])


def test_the_doctor_is_given_what_the_run_is_given(arguments, tmp_path):
    (run,), (doctor,) = (
        arguments("run_qwen3_8b_fsdp.sh", "a=b", **given) for given in ({}, {"DOCTOR": 1, "OUTPUT": "looked"})
    )
    assert (run[1], doctor[1]) == ("verl.trainer.main_ppo", "recipe.egrsd.doctor")
    assert [word.split("=")[0] for word in run[2:]] == [word.split("=")[0] for word in doctor[2:]]
    assert not (tmp_path / "looked").exists()


def test_keys_behind_the_script_win(composed):
    config = composed("run_qwen3_8b_fsdp.sh", "trainer.save_freq=7", "algorithm.egrsd.gamma=0.9", GAMMA=0.1)
    assert (config.trainer.save_freq, config.algorithm.egrsd.gamma) == (7, 0.9)
