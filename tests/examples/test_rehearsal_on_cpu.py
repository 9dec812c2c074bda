"""The shipped scripts themselves, unchanged, in verl's GPU precision, on a model that is small in everything but its
vocabulary.

`make rehearsal` runs this file. A leg: data prepared by our own command, two steps, killed after the first checkpoint,
resumed by the same command, evaluated, reported; the numbers checked. make test has one step of one leg.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from composing import COMPOSE
from runs import ROOT, on_bfloat16_grid
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from examples.rehearsal import checks, model
from examples.rehearsal.problems import BENCHMARK, TEST, prepare_arguments, write_files
from examples.rehearsal.scripts import EXAMPLES, GPU_PRECISION, SMALL, Script, run
from examples.training import steps_of
from recipe.egrsd import checkpoint

CPU = {"VERL_PLATFORM": "cpu"}
WHOLE_DISTRIBUTION = {"TOP_P": "1", "TOP_K": "-1"}  # or rollout and student are compared on different distributions
LEGS = {
    "4b": ("run_qwen3_4b_fsdp.sh", {"N_GPUS": "2", **WHOLE_DISTRIBUTION}),
    "4b_full": ("run_qwen3_4b_fsdp.sh", {"N_GPUS": "2", "LORA_RANK": "0", **WHOLE_DISTRIBUTION}),
    "one_gpu": ("run_qwen3_0_6b_one_gpu.sh", {}),
}
RUN_SECONDS = 500  # a busy machine needs three times what an idle one does
ROLLOUT_BOUND = 0.15
"""Of |p_vLLM - p_FSDP| at the worst token, both in bfloat16: measured up to 0.05 (mean 0.003), p without the
weights."""


@pytest.fixture(scope="module")
def prepared(once) -> Path:
    """The model, made by a process whose threads do not wait by spinning, and data as prepare_data writes them."""

    def make(folder: Path) -> None:
        write_files(folder / "problems")
        prepare = ["recipe.egrsd.prepare_data", *prepare_arguments(folder / "problems", folder / "data")]
        for words in (["examples.rehearsal.model", "--out", folder / "model"], prepare):
            assert run([sys.executable, "-m", *words], log=folder / "log", timeout=300).well, (
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


# Keys in which a rehearsal differs from what the same command composes for a GPU; everything else, precision too, is
# the same.
ACTOR = "actor_rollout_ref.actor"
ON_A_CPU = {
    "actor_rollout_ref.model.override_config.attn_implementation",
    f"{ACTOR}.use_torch_compile", f"{ACTOR}.fsdp_config.use_torch_compile",
    "actor_rollout_ref.ref.use_torch_compile", "actor_rollout_ref.ref.fsdp_config.use_torch_compile",
    *(f"actor_rollout_ref.rollout.{key}" for key in ("enforce_eager", "enable_sleep_mode", "free_cache_engine")),
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes",
    "actor_rollout_ref.rollout.agent.num_workers", "reward.num_workers", "data.dataloader_num_workers",
    "trainer.device",
    *(f"ray_kwargs.ray_init.{key}" for key in ("num_cpus", "num_gpus", "include_dashboard")),
    f"{ACTOR}.fsdp_config.use_no_sync_for_gradient_accumulation",
    *(
        f"ray_kwargs.ray_init.runtime_env.env_vars.{key}"
        for key in ("VERL_PLATFORM", "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    ),
}  # fmt: skip


def composed(platform: str, overrides: Sequence[str], folder: Path) -> dict[str, dict]:
    """Leg -> every key of what its script would train with on that platform, by name."""
    echo = folder / "echo"  # stands in for python
    echo.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[3:]))\n")
    echo.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VERL_")} | {
        "VERL_PLATFORM": platform
    }
    cases = {}
    for leg, (name, own) in LEGS.items():
        variables = {**kept, **SMALL, **own, "PYTHON": str(echo), "OUTPUT": str(folder)}
        printed = subprocess.check_output([EXAMPLES / name, *overrides], env=variables, text=True).splitlines()[-1]
        # the metrics file's name is the time
        cases[leg] = ("ppo_trainer", [word for word in json.loads(printed) if "VERL_FILE_LOGGER_PATH" not in word])
    process = subprocess.run(
        [sys.executable, "-c", COMPOSE],
        env=kept,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {leg: dict(_leaves(json.loads(process.stdout)[leg])) for leg in LEGS}


def _leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def test_a_rehearsal_differs_from_the_gpus_run_in_these_keys_alone(tmp_path):
    on_cpu, on_gpu, missing, found = (
        composed("cpu", GPU_PRECISION, tmp_path),
        composed("", (), tmp_path),
        object(),
        set(),
    )
    for leg in LEGS:
        ours, theirs = on_cpu[leg], on_gpu[leg]
        found |= {key for key in ours.keys() | theirs.keys() if ours.get(key, missing) != theirs.get(key, missing)}
    assert found == ON_A_CPU


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
        [sys.executable, "-m", "recipe.egrsd." + words[0], *words[1:]], log=log, timeout=300, variables=CPU
    ).well, log.read_text()[-6000:]
    assert_fine(
        checks.evaluated(json.loads((evaluated / "results.json").read_text()), benchmark=BENCHMARK, problems=TEST)
    )

    page = tmp_path / "report.html"
    words = [sys.executable, "-m", "recipe.egrsd.report", tmp_path / leg, "--out", page]
    log = tmp_path / "report.log"
    assert run(words, log=log, timeout=200).well, log.read_text()[-6000:]
    assert all(path.stat().st_size > 10_000 for path in [page, *tmp_path.glob("report_*.png")])
    assert len(list(tmp_path.glob("report_*.png"))) > 0
    assert BENCHMARK in page.read_text() and "predictive entropy, mean over response tokens" in page.read_text()
