"""The shipped scripts themselves, unchanged, in verl's GPU precision, on a model that is small in everything but its
vocabulary.

`make rehearsal` runs this file and test_rehearsal_keys_on_cpu.py. A leg: data prepared by our own command, two steps,
killed after the first checkpoint, resumed by the same command, evaluated, reported; the numbers checked. make test has
one step of one leg.
"""

import json
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from legs import LEGS
from runs import on_bfloat16_grid
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from examples.rehearsal import checks, model
from examples.rehearsal.problems import BENCHMARK, TEST, prepare_arguments, write_files
from examples.rehearsal.scripts import GPU_PRECISION, SMALL, Script, run
from examples.training import steps_of
from recipe.egrsd import checkpoint

CPU = {"VERL_PLATFORM": "cpu"}
RUN_SECONDS = 1000  # a slow and busy machine took 530
ROLLOUT_BOUND = 0.01
"""Of the mean |p_vLLM - p_FSDP|, both in bfloat16: measured 0.003 (up to 0.05 at a token), p without the weights."""


@pytest.fixture(scope="module")
def prepared(once) -> Path:
    """The model, made by a process whose threads do not wait by spinning, and data as prepare_data writes them."""

    def make(folder: Path) -> None:
        write_files(folder / "problems")
        prepare = ["recipe.egrsd.prepare_data", *prepare_arguments(folder / "problems", folder / "data")]
        for words in (["examples.rehearsal.model", "--out", folder / "model"], prepare):
            assert run([sys.executable, "-m", *words], log=folder / "log", timeout=600).well, (
                folder / "log"
            ).read_text()

    return once("rehearsal", make)


def script_of(leg: str, prepared: Path, output: Path, **variables: str) -> Script:
    name, own = LEGS[leg]
    given = {"MODEL": str(prepared / "model"), "DATA": str(prepared / "data"), "STEPS": "2", "SAVE_FREQ": "1"}
    return Script(name, output, {**SMALL, **given, **CPU, **own, **variables}, GPU_PRECISION)


def assert_fine(*findings: checks.Finding) -> None:
    for finding in findings:
        print(finding)
    assert not [finding for finding in findings if not finding.ok]


def assert_trained(script: Script, *, last: int, comparable: bool) -> None:
    """What every leg must have logged and saved; comparable: vLLM and actor are asked for the same distribution."""
    metrics = steps_of(script.output / "metrics")
    assert_fine(
        checks.steps_logged(metrics, first=1, last=last),
        checks.complete(metrics, divergence=False),
        checks.healthy(metrics, pretrained=False),
        checks.possible_entropies(metrics, vocabulary=model.VOCABULARY),
        checks.unrounded(metrics),
        checks.timed(metrics),
        checks.privileged(metrics),
        checks.within_memory(metrics, gib=0),
        *([checks.near_rollout(metrics, bound=ROLLOUT_BOUND)] if comparable else []),
    )
    rows = pq.read_table(script.output / "checkpoints" / "tokens" / "step_1.parquet").to_pylist()
    for column in (
        "student_log_probs",
        "teacher_log_probs",
        "teacher_entropy",
        "lookahead_entropy",
        "gate",
        "ratio_weight",
    ):
        values = torch.tensor([value for row in rows for value in row[column]])
        assert not on_bfloat16_grid(values[values != values.round()]), column


# ---------------------------------------------------------------- what is rehearsed with


def test_the_model_keeps_what_makes_a_real_one_hard(prepared):
    config = AutoConfig.from_pretrained(prepared / "model")
    assert config.model_type == "qwen3" and config.tie_word_embeddings and config.vocab_size == 151_936
    assert config.num_attention_heads > config.num_key_value_heads > 1
    weights = load_file(prepared / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights  # tied: it stands there once
    norms = torch.cat([tensor for name, tensor in weights.items() if "q_norm" in name or "k_norm" in name]).float()
    assert norms.std() > 0.01
    tokenizer = AutoTokenizer.from_pretrained(prepared / "model")
    assert len(tokenizer) < config.vocab_size
    turn = [{"role": "user", "content": "1 + 1?"}]
    for thinking, end in ((True, ""), (False, "<think>\n\n</think>\n\n")):
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
        assert text == f"<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n{end}"


# ---------------------------------------------------------------- the scripts


@pytest.mark.slow
@pytest.mark.second_lane
def test_one_step_of_the_one_gpu_script(prepared, tmp_path):
    script = script_of("one_gpu", prepared, tmp_path, STEPS="1")
    assert script.run(timeout=RUN_SECONDS).well, script.log.read_text()[-6000:]
    assert_trained(script, last=1, comparable=False)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("leg", LEGS)
def test_a_script_from_the_data_to_the_report(leg, prepared, tmp_path):
    script, lora = script_of(leg, prepared, tmp_path / leg), "LORA_RANK" not in LEGS[leg][1]
    files = script.output / "metrics"

    def saved_and_logged() -> bool:
        """verl logs a step after its checkpoint; killed in between, the step's metrics would be lost."""
        return script.saved() == 1 and any("egrsd/mixing" in file.read_text() for file in files.iterdir())

    killed = script.run(timeout=RUN_SECONDS, kill_when=saved_and_logged)
    assert (killed.returncode, script.saved(), killed.outlived_by) == (-signal.SIGKILL, 1, []), script.log.read_text()[
        -6000:
    ]
    state = checkpoint.load(script.checkpoint(1))["baseline"]
    assert list(steps_of(files)) == [0, 1]

    assert script.run(timeout=RUN_SECONDS).well, script.log.read_text()[-6000:]
    newest = max(files.iterdir())
    lines = [
        json.loads(text) for text in newest.read_text().splitlines()
    ]  # verl validates when it starts, resumed or not
    assert [line["step"] for line in lines if "egrsd/mixing" in line["data"]] == [2]  # and repeats no step
    metrics = steps_of(files)
    assert_trained(script, last=2, comparable="TOP_K" in LEGS[leg][1])
    assert_fine(
        checks.resumed(metrics, step=2, baseline=state["mean"]),
        checks.moved(script.parameters(1), script.parameters(2), lr=5e-6 if lora else 1e-6, adapter=lora),
    )

    evaluated = tmp_path / leg / "evaluated" / "2"
    data = prepared / "data" / f"{BENCHMARK}.parquet"
    words = [
        "evaluate",
        "--model",
        script.checkpoint(2),
        "--data",
        data,
        "--k",
        "2",
        "--max-tokens",
        "32",
        "--out",
        evaluated,
    ]
    log = tmp_path / "evaluate.log"
    assert run(
        [sys.executable, "-m", "recipe.egrsd." + words[0], *words[1:]], log=log, timeout=600, variables=CPU
    ).well, log.read_text()[-6000:]
    assert_fine(
        checks.evaluated(json.loads((evaluated / "results.json").read_text()), benchmark=BENCHMARK, problems=TEST)
    )

    page = tmp_path / "report.html"
    words = [sys.executable, "-m", "recipe.egrsd.report", tmp_path / leg, "--out", page]
    log = tmp_path / "report.log"
    assert run(words, log=log, timeout=600).well, log.read_text()[-6000:]
    assert all(path.stat().st_size > 10_000 for path in [page, *tmp_path.glob("report_*.png")])
    assert len(list(tmp_path.glob("report_*.png"))) > 0
    assert BENCHMARK in page.read_text() and "predictive entropy, mean over response tokens" in page.read_text()
