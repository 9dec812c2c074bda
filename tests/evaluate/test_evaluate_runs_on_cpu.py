"""``python -m recipe.egrsd.evaluate`` with real vLLM on the CPU, on checkpoints that verl's own code wrote and
merged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from inputs import write_inputs
from peft import PeftModel
from runs import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipe.egrsd.evaluate import Refused, run
from recipe.egrsd.evaluate.__main__ import main
from recipe.egrsd.evaluate.engine import CPU_TOKENS
from recipe.egrsd.evaluate.model import ModelFiles, locate

pytestmark = pytest.mark.slow
PROBLEMS, SAMPLES, QUEUE, TOKENS = 6, 2, 24, 150


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=4, validation=PROBLEMS)
    return folder


@pytest.fixture(scope="module")
def checkpoints(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    command = [sys.executable, ROOT / "tests" / "support" / "verl_checkpoints.py", inputs / "model", folder]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "VERL_PLATFORM": "cpu"}, capture_output=True)
    return folder


def start(inputs: Path, model: Path, out: Path, *options: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "recipe.egrsd.evaluate", *command(inputs, model, out, *options)]
    with out.with_suffix(".log").open("a") as log:
        environment = {**os.environ, "VERL_PLATFORM": "cpu"}
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def command(inputs: Path, model: Path, out: Path, *options: str) -> list[str]:
    files = ["--model", model, "--data", inputs / "val.parquet", "--out", out]
    return [*map(str, files), "--dtype", "float32", "--part-size", "1", *options]


def finished(process: subprocess.Popen, out: Path) -> list[dict]:
    """The stored responses, in order, of a run that must end well."""
    assert process.wait() == 0, out.with_suffix(".log").read_text()[-6000:]
    return stored(out)


def stored(out: Path) -> list[dict]:
    return sorted(pq.read_table(out / "generations").to_pylist(), key=lambda row: (row["index"], row["sample"]))


@pytest.fixture(scope="module")
def queue(inputs, tmp_path_factory) -> Path:
    """An evaluation of more samples than are read at a time."""
    out = tmp_path_factory.mktemp("evaluated") / "queue"
    finished(start(inputs, inputs / "model", out, "--k", str(QUEUE), "--max-tokens", str(TOKENS)), out)
    return out


@pytest.mark.long
def test_a_killed_run_goes_on_where_it_stopped_and_ends_as_if_it_had_not_been_killed(
    inputs, queue, tmp_path, monkeypatch
):
    options = ["--k", str(SAMPLES), "--max-tokens", str(TOKENS)]
    killed, whole = tmp_path / "killed", queue
    process = start(inputs, inputs / "model", killed, *options)
    parts = killed / "generations"
    while not list(parts.glob("part-*.parquet")) and process.poll() is None:
        time.sleep(0.002)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    early = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    assert 0 < len(early) < PROBLEMS * SAMPLES
    assert not (killed / "results.json").exists()
    assert not psutil.wait_procs(family, timeout=20)[1], "an engine outlived its parent"

    resumed = finished(start(inputs, inputs / "model", killed, *options), killed)
    log = killed.with_suffix(".log").read_text()
    assert f"{PROBLEMS * SAMPLES - len(early)} of {PROBLEMS * SAMPLES} responses to generate" in log
    assert {name: (parts / name).stat().st_mtime_ns for name in early} == early
    monkeypatch.setattr(run, "complete", None)  # from here on there is nothing to generate
    main(command(inputs, inputs / "model", whole, *options))  # the figures of its first samples
    assert resumed == [row for row in stored(whole) if row["sample"] < SAMPLES]
    assert (killed / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert len({row["response"] for row in resumed}) == PROBLEMS * SAMPLES  # every sample has a seed of its own

    main(command(inputs, inputs / "model", killed, *options))
    assert stored(killed) == resumed
    with pytest.raises(SystemExit, match="seed: 0 there, 1 now"):
        main(command(inputs, inputs / "model", killed, *options, "--seed", "1"))


def test_a_queue_longer_than_what_is_read_at_a_time_is_answered(inputs, queue):
    """vLLM reads such prompts in pieces by default, which ends in an error where each response has a CPU generator."""
    rows = pq.read_table(queue / "generations").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    tokens = sum(len(ids) for ids in tokenizer([row["prompt"] for row in rows])["input_ids"])
    assert len(rows) == QUEUE * PROBLEMS
    assert tokens > 2 * CPU_TOKENS


@pytest.mark.long
def test_an_engine_that_cannot_start_ends_the_run(inputs, tmp_path):
    out = tmp_path / "out"
    assert start(inputs, inputs / "model", out, "--max-tokens", "100000").wait() != 0  # the model has 512 positions
    log = out.with_suffix(".log").read_text()
    assert "max_model_len" in log
    assert "evaluate: a vLLM engine ended before its work was done (exit codes [1]); its error stands above" in log


@pytest.mark.long
def test_verls_checkpoints_are_found_and_merged(checkpoints, inputs):
    full = locate(str(checkpoints / "full" / "global_step_1"))
    assert full.model.endswith("actor/merged")
    assert locate(str(checkpoints / "full_hf" / "global_step_1")).model.endswith("actor/huggingface")
    merged, original = (
        AutoModelForCausalLM.from_pretrained(name).state_dict() for name in (full.model, inputs / "model")
    )
    for name, weight in original.items():
        assert torch.equal(merged[name].float(), weight.bfloat16().float()), name  # verl's merger rounds

    only = checkpoints / "lora_only" / "global_step_1"
    with pytest.raises(Refused, match=r"holds an adapter only .*; name the model it was trained on with --base"):
        locate(str(only))
    expected = ModelFiles(str(inputs / "model"), adapter=str(only / "actor" / "merged" / "lora_adapter"))
    assert locate(str(only), base=str(inputs / "model")) == expected


@pytest.mark.long
def test_a_checkpoint_with_an_adapter_answers_as_peft_does(checkpoints, inputs, tmp_path):
    out = tmp_path / "lora"
    checkpoint = checkpoints / "lora" / "global_step_1"
    greedy = ["--k", "1", "--temperature", "0", "--top-p", "1", "--max-tokens", "16"]
    rows = finished(start(inputs, checkpoint, out, *greedy), out)
    assert json.loads((out / "settings.json").read_text())["adapter"].endswith("actor/merged/lora_adapter")
    files = locate(str(checkpoint))
    plain = AutoModelForCausalLM.from_pretrained(files.model, dtype=torch.float32)
    texts = {"plain": greedy_texts(plain, rows, files.model)}
    texts["adapter"] = greedy_texts(PeftModel.from_pretrained(plain, files.adapter), rows, files.model)
    assert [row["response"] for row in rows] == texts["adapter"]
    assert texts["adapter"] != texts["plain"]


def greedy_texts(model: torch.nn.Module, rows: list[dict], tokenizer_of: str) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    texts = []
    for row in rows:
        prompt = tokenizer(row["prompt"], add_special_tokens=False, return_tensors="pt")
        output = model.generate(**prompt, do_sample=False, max_new_tokens=16)
        texts.append(tokenizer.decode(output[0, prompt["input_ids"].size(1) :], skip_special_tokens=True))
    return texts
