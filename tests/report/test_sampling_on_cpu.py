"""Saved tokens without training: scores against a plain model, and the whole command with real vLLM."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from inputs import write_inputs
from plain import plain_forward
from runs import INSTRUCTION, ROOT, TEMPERATURE, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from recipe.egrsd.cpu import precision
from recipe.egrsd.evaluate import engine
from recipe.egrsd.report import sampling
from recipe.egrsd.report.__main__ import main


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=6)
    return folder


def plain(model, prompt, response):
    """(T, V) float64 log-probs."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return (logits.double() / TEMPERATURE).log_softmax(-1)


def test_scores_are_those_of_a_plain_model(inputs, monkeypatch):
    monkeypatch.setattr(sampling, "get_device_name", lambda: "cpu")
    prompts, responses = [[3, 4, 5], [6], [7, 8, 9, 10]], [[11, 12], [13], [5, 4, 3, 2]]
    found = sampling.score(str(inputs / "model"), prompts, responses, temperature=TEMPERATURE, dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32)
    for prompt, response, log_probs, entropy in zip(prompts, responses, *found, strict=True):
        exact = plain(model, prompt, response)
        assert log_probs.dtype == entropy.dtype == torch.float32
        expected = exact.gather(-1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(log_probs.double(), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), atol=1e-5, rtol=0)


def test_a_model_that_changes_its_logits_behind_the_head_is_refused(tmp_path, monkeypatch):
    """A softcap, as Gemma 2 has it: scores made in the head would be another distribution's."""
    monkeypatch.setattr(sampling, "get_device_name", lambda: "cpu")
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    config = Gemma2Config(vocab_size=40, num_attention_heads=2, num_key_value_heads=1, **shape)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"Gemma2ForCausalLM changes the logits of its head \(a softcap"):
        sampling.score(str(tmp_path), [[3, 4]], [[5, 6]], temperature=1.0, dtype="float32")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["algorithm.egrsd.privilege=peer_correct", "actor_rollout_ref.rollout.n=2"],
            "shows what a training step knows",
        ),
        (["algorithm.egrsd.gamma=-1"], "algorithm.egrsd.gamma=-1"),
        (["reward.custom_reward_function.path=mine.py"], "reward.custom_reward_function.path=mine.py is not asked"),
    ],
)
def test_what_cannot_be_asked_is_named(words, said, inputs):
    with pytest.raises(ValueError, match=r".") as refused:
        sampling.sample([*given(inputs), *SETTINGS, *words])
    assert said in str(refused.value)


def test_a_slow_precision_is_said(inputs, monkeypatch, capsys):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="gamma=-1"):
        sampling.sample([*given(inputs), "--dtype", "bfloat16", *SETTINGS, "algorithm.egrsd.gamma=-1"])
    assert capsys.readouterr().err == f"{precision.dtype_remark('bfloat16')}\n"


def given(inputs, *, model="model", data="train.parquet"):
    return ["--model", str(inputs / model), "--data", str(inputs / data), "--out", str(inputs / "out")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--teacher", "/nowhere/typo"], "--teacher=/nowhere/typo is no folder here"),
        (["--model", "/nowhere/model"], "actor_rollout_ref.model.path=/nowhere/model is no folder here"),
        (["--data", "/nowhere/train.parquet"], "/nowhere/train.parquet"),
        (["algorithm.egrsd.windw=5"], "'algorithm.egrsd.windw'"),
        (["data.train_batch_size=4=5"], "data.train_batch_size=4=5"),
        (
            ["actor_rollout_ref.rollout.tensor_model_parallel_size=2"],
            "actor_rollout_ref.rollout.tensor_model_parallel_size=2 needs 2 GPUs for one engine; 1 visible",
        ),
    ],
)
def test_what_is_mistyped_is_named_in_one_line_before_anything_is_sampled(words, said, inputs, monkeypatch):
    monkeypatch.setattr(sampling, "visible_devices", lambda: ["0"])
    monkeypatch.setattr(sampling, "generate", lambda *_: pytest.fail("sampled"))
    with pytest.raises(SystemExit) as refused:
        main(["mechanism", *given(inputs), *SETTINGS, *words])
    text = str(refused.value)
    assert text.startswith("report mechanism: ") and said in text and "\n" not in text


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What vLLM, which is not started, is asked: requests, loading, sampling. It answers [3 + number, 4] on one GPU."""
    calls = []

    def generate(requests, loading, drawn):
        calls.append((requests, loading, drawn))
        yield from (engine.Response(request.number, [3 + request.number, 4], "stop") for request in requests)

    monkeypatch.setattr(sampling, "visible_devices", lambda: ["0"])
    monkeypatch.setattr(sampling, "generate", generate)
    monkeypatch.setattr(sampling, "BATCH", 2)
    monkeypatch.setattr(sampling, "get_device_name", lambda: "cpu")
    return calls


def test_rows_need_no_index_and_a_folder_may_have_any_name(inputs, asked):
    """On one GPU, as it comes, without a limit of verl's, whose top_k is -1; rows are named by their number."""
    (inputs / "lr=1e-5").symlink_to(inputs / "model")
    rows = pq.read_table(inputs / "train.parquet").to_pylist()
    for row in rows:
        del row["extra_info"]["index"]
    pq.write_table(pa.Table.from_pylist(rows), inputs / "no=index.parquet")
    words = [*given(inputs, model="lr=1e-5", data="no=index.parquet"), "--responses", "3", "--dtype", "float32"]
    saved = pq.read_table(sampling.sample([*words, *SETTINGS]) / "tokens" / "step_0.parquet").to_pylist()
    ((_, loading, drawn),) = asked
    assert [row["uid"] for row in saved] == ["0", "1", "2"] and loading.tensor_parallel_size == 1
    assert [row["token_ids"] for row in saved] == [[3, 4], [4, 4], [5, 4]]
    assert drawn == engine.Sampling(TEMPERATURE, 1.0, 0, 24)


def test_a_teacher_of_other_weights_scores_what_the_student_drew_as_in_a_run(inputs, asked, tmp_path):
    """Each row's own numbers, also in the second batch: the student's of the one model, the teacher's of the other."""
    write_inputs(tmp_path, train=1, body=2.0)
    words = [*given(inputs), "--teacher", str(tmp_path / "model"), "--out", str(tmp_path), "--responses", "3"]
    words += ["--dtype", "float32", "--seed", "7", *SETTINGS]
    words += ["actor_rollout_ref.rollout.top_p=0.9", "actor_rollout_ref.rollout.top_k=5"]
    saved = pq.read_table(sampling.sample(words) / "tokens" / "step_0.parquet").to_pylist()
    ((requests, loading, drawn),) = asked
    assert drawn == engine.Sampling(TEMPERATURE, 0.9, 5, 24)
    assert loading == engine.Loading(str(inputs / "model"), None, 0, "float32", 7, 1)
    assert [request.seed for request in requests] == [7, 7 + 1, 7 + 2]
    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    for who, folder, prompt in (("student", inputs, "prompt"), ("teacher", tmp_path, "teacher_prompt")):
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        for row in saved:
            ids = tokenizer.encode(row[prompt], add_special_tokens=False)
            forward = plain_forward(model, ids, torch.tensor(row["token_ids"]), temperature=TEMPERATURE)
            found = torch.tensor(row[f"{who}_log_probs"])
            torch.testing.assert_close(found, forward[0], atol=1e-5, rtol=0, msg=lambda m, who=who: f"{who}: {m}")
            if who == "teacher":
                torch.testing.assert_close(torch.tensor(row["teacher_entropy"]), forward[1], atol=1e-5, rtol=0)
    assert len(saved) == 3


SETTINGS = [
    f"algorithm.egrsd.teacher.instruction='{INSTRUCTION}'",
    f"algorithm.egrsd.teacher.template={tiny.TEACHER_TEMPLATE}",
    "data.max_response_length=24",
    f"actor_rollout_ref.rollout.temperature={TEMPERATURE}",
    "+data.apply_chat_template_kwargs.enable_thinking=False",
]


@pytest.mark.slow
@pytest.mark.long
def test_the_whole_command(inputs, tmp_path):
    """Sampled by vLLM, scored, laid out as a step's tokens are, and shown."""
    command = [sys.executable, "-m", "recipe.egrsd.report", "mechanism", "--model", inputs / "model"]
    command += ["--data", inputs / "train.parquet", "--out", tmp_path, "--responses", "5", "--dtype", "float32"]
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    done = subprocess.run([*map(str, command), *SETTINGS], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = pq.read_table(tmp_path / "tokens" / "step_0.parquet").to_pylist()
    assert len(rows) == 5 and len({row["entropy_scale"] for row in rows}) == 1
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    for row in rows:
        for prompt, column in (("prompt", "student_log_probs"), ("teacher_prompt", "teacher_log_probs")):
            ids = tokenizer.encode(row[prompt], add_special_tokens=False)
            exact = plain(model, ids, row["token_ids"])
            expected = exact.gather(-1, torch.tensor(row["token_ids"])[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(row[column]).double(), expected, atol=1e-4, rtol=0)
        assert row["prompt"] != row["teacher_prompt"] and row["solution"] in row["teacher_prompt"]
        assert set(row["advantage"]) == {row["reward"] - 0.5}
    settings = json.loads(pq.read_schema(tmp_path / "tokens" / "step_0.parquet").metadata[b"egrsd"])
    assert (settings["window"], settings["gamma"]) == (3, 0.3)
    assert "|log p_T − log p_S|" in (tmp_path / "report.html").read_text()
