"""examples/gpu_check.py: a phase that fails, hangs or misses its tools hides no other, and leaves nothing behind."""

import re
import subprocess
import sys

import bare_shell
import pytest
from rich.console import Console
from runs import ROOT

from examples import gpu_check
from examples.rehearsal.checks import Finding
from examples.rehearsal.scripts import run
from examples.rehearsal.table import machine, table
from recipe.egrsd.doctor.memory import TRAINED_LOGIT


def broken(_) -> list[Finding]:
    raise gpu_check.Failed("exit code 1 after 3 s")


def passing(_) -> list[Finding]:
    return [Finding("files", "three", "three", True)]


def test_verls_grpo_leaves_half_of_a_gpu_of_24_gib_to_weights_and_contexts():
    """Logits of one micro-batch at Qwen3's vocabulary, without flash-attn: 4,096 tokens make 11.6 GiB, 8,192 23.2."""
    tokens = int(gpu_check.OF_ALL_LOGITS["MAX_TOKENS_PER_GPU"])
    assert tokens * 151_936 * TRAINED_LOGIT[False] < 12 * 2**30


def test_a_phase_that_fails_hides_no_other(tmp_path):
    session, console = gpu_check.Session(tmp_path, "model"), Console(record=True, width=120)
    gpu_check.examine(session, {"lora": broken, "data": passing}, console)
    console.print(table(session.findings))
    text = console.export_text()
    assert "lora … 0 s, failed: runs" in text and "data … 0 s, passed" in text
    assert re.search(r"lora .* runs .* Failed: exit code 1 after 3 s .* FAIL", text) and re.search(
        r"data .* pass ", text
    )
    assert [finding.ok for _, finding in session.findings] == [False, True]


def test_a_machine_without_its_tools_is_described_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    lines = machine()
    assert any(re.match(r"GPU unknown \(nvidia-smi: .*No such file", line) for line in lines)
    assert lines[-1].startswith("commit unknown (git") and any(line.startswith("verl 0.9") for line in lines)
    with pytest.raises(gpu_check.Failed, match="the GPU's memory is unknown"):
        _ = gpu_check.Session(tmp_path, "model").gib


def test_a_program_that_fails_or_hangs_is_a_failed_phase(tmp_path):
    session = gpu_check.Session(tmp_path, "model")
    log = tmp_path / "log"
    for code, timeout, said in (
        ("print('why'); exit(3)", 30, "exit code 3"),
        ("import time; time.sleep(60)", 1, "out of time"),
    ):
        ended = run([sys.executable, "-c", code], log=log, timeout=timeout)
        with pytest.raises(gpu_check.Failed, match=said):
            session.must(ended, log)
    assert "why" in log.read_text()


def test_what_outlives_a_killed_run_is_ended_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.rehearsal.scripts.GRACE_SECONDS", 1)
    marker = tmp_path / "started"
    code = f"import subprocess, time; subprocess.Popen(['sleep', '61']); open({str(marker)!r}, 'w'); time.sleep(60)"
    ended = run([sys.executable, "-c", code], log=tmp_path / "log", timeout=30, kill_when=marker.exists)
    assert (ended.returncode, ended.outlived_by) == (-9, ["sleep 61"])
    with pytest.raises(gpu_check.Failed, match="left behind: sleep 61"):
        gpu_check.Session(tmp_path, "model").must(ended, tmp_path / "log")


@pytest.mark.slow
@pytest.mark.long
def test_the_whole_program_with_the_rehearsals_model(tmp_path):
    words = ["make", "gpu-check", f"PYTHON={sys.executable}", f"ARGS=--out {tmp_path}"]
    log = tmp_path / "output"
    ended = run(words, log=log, timeout=1100, variables={"VERL_PLATFORM": "cpu"})
    text = log.read_text()
    assert ended.well, text[-6000:]
    assert (tmp_path / "report.txt").read_text().count(" pass ") > 30 and "FAIL" not in text
    for line in ("verl 0", "no GPU: VERL_PLATFORM=cpu", "commit "):
        assert line in (tmp_path / "report.txt").read_text()


def test_make_takes_the_python_that_trains():
    def said(*words: str, **variables: str) -> str:
        return bare_shell.make("-n", "gpu-check", *words, cwd=ROOT, **variables).stdout

    assert said() == "python -m examples.gpu_check \n"
    assert said("PYTHON=/x/python", "ARGS=--only data") == "/x/python -m examples.gpu_check --only data\n"
    assert said(VERL_PLATFORM="cpu").endswith(".venv/bin/python -m examples.gpu_check \n")


def test_an_unknown_phase_is_refused():
    process = subprocess.run(
        [sys.executable, "-m", "examples.gpu_check", "--only", "lroa"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 2 and "invalid choice: 'lroa'" in process.stderr
