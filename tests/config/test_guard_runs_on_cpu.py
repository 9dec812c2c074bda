"""Guards that whole runs meet: bad rows, a broken teacher, verl's own engine, a model that softcaps, another verl."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from composing import LORA
from inputs import write_inputs
from runs import ROOT, run
from shadowed import shadow_verl
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from examples.tiny_cpu.task import make_problems, verl_row
from recipe.egrsd.config import verl_version


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=8)
    rows = [verl_row(problem, index) for index, problem in enumerate(make_problems("train", 8, seed=0))]
    for row, solution in {2: None, 5: "  ", 6: "so " * 300}.items():
        rows[row]["extra_info"]["solution"] = solution
    pq.write_table(pa.Table.from_pylist(rows), folder / "bad.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.long
def test_bad_rows_stop_the_run(inputs, tmp_path):
    result = run(inputs, tmp_path, [f"data.train_files={inputs}/bad.parquet"], timeout=200)
    assert result.returncode not in (0, None)
    assert "cannot use 3 of 8 training rows" in result.log
    for reason in (
        "row 2: extra_info.solution is NoneType, expected the solution as a string",
        "row 5: extra_info.solution is empty",
        "row 6: the teacher prompt has more than algorithm.egrsd.teacher.max_prompt_length=256 tokens",
    ):
        assert reason in result.log
    assert not (tmp_path / "probe").exists()  # no worker was started


@pytest.mark.slow
@pytest.mark.long
def test_a_broken_teacher_stops_the_run(inputs, tmp_path):
    """The reference worker's weights become NaN; the student's stay."""
    result = run(inputs, tmp_path, timeout=200, EGRSD_POISON="1")
    assert result.returncode not in (0, None)
    assert "ValueError: the teacher's log_probs is nan for sample" in result.log
    assert "at response token 0; the teacher's weights or the logits are broken." in result.log


@pytest.mark.slow
@pytest.mark.long
def test_verls_own_engine_is_refused(inputs, tmp_path):
    """LoRA, because verl's engine cannot build a reference model on a CPU."""
    result = run(inputs, tmp_path, [LORA], timeout=200, EGRSD_HIDE_ENGINE="1")
    assert result.returncode not in (0, None)
    assert "TypeError: verl chose FSDPEngineWithLMHead, which rounds logits to bfloat16" in result.log
    assert not list((tmp_path / "probe").glob("*.pt"))  # nothing was trained


@pytest.mark.slow
@pytest.mark.long
def test_a_model_that_softcaps_its_logits_is_refused(inputs, tmp_path):
    """A tiny Gemma 2: before the first step, and by the worker, which has the model."""
    shutil.copytree(inputs / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    shape = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config = Gemma2Config(vocab_size=len(tokenizer), num_key_value_heads=1, **shape)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "model")
    result = run(inputs, tmp_path / "run", [f"actor_rollout_ref.model.path={tmp_path / 'model'}"], timeout=200)
    assert result.returncode not in (0, None)
    assert "Gemma2ForCausalLM changes the logits of its head (a softcap or a scale" in result.log


@pytest.mark.parametrize("allowed", ["", pytest.param("1", marks=pytest.mark.long)])
def test_a_verl_out_of_range_is_named(allowed, inputs, tmp_path):
    """The installed code under another version, in front of it."""
    shadow_verl(tmp_path, version="0.10.0.dev0")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests' / 'support'}", "EGRSD_ALLOW_UNTESTED_VERL": allowed}
    result = run(inputs, tmp_path / "run", ["trainer.use_v1=false"], timeout=100, **env)
    assert result.returncode not in (0, None)
    said = f"EGRSD: EGRSD was tested with {verl_version.required()}; this is verl 0.10.0.dev0."
    if allowed:
        assert f"{said} It runs because EGRSD_ALLOW_UNTESTED_VERL=1.\n" in result.log
        assert "EGRSD: trainer.use_v1=false runs verl's legacy trainer" in result.log
    else:
        assert (
            f"{said[:-1]}. Install a version in that range, or set EGRSD_ALLOW_UNTESTED_VERL=1 to try this one."
            in result.log
        )
