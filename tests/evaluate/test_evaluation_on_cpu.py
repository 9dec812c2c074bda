"""The parts of an evaluation that generate nothing: problems, models, prompts, rows, the folder, the figures, the
comparison."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import ROOT

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import make_problems, verl_row, write_parquet
from recipe.egrsd.evaluate import Refused, comparison, protocol, run, store, summary
from recipe.egrsd.evaluate import __main__ as command
from recipe.egrsd.evaluate.engine import free_ports
from recipe.egrsd.evaluate.model import ModelFiles, locate
from recipe.egrsd.evaluate.problems import Problem, read_problems
from recipe.egrsd.evaluate.responses import Recorder, Think, think_block
from recipe.egrsd.reward import RULES

OPEN, CLOSE = 1, 2
SETTINGS = {"model": "m", "temperature": 1.0, "versions": {"torch": "2"}}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.build_tokenizer()


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> list[Problem]:
    path = tmp_path_factory.mktemp("data") / "tiny.parquet"
    write_parquet(make_problems("test", 4, seed=0), path)
    return read_problems([path])


def write_rows(path: Path, *rows: dict) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def fill(folder: Path, recorder: Recorder, problems: list[Problem], answers: dict[str, list[str]], **changes) -> None:
    """A finished run whose responses to each problem (by index) are these texts."""
    with store.lock(folder):
        store.begin(folder, {**SETTINGS, **changes})
        for problem in problems:
            texts = answers[problem.index]
            ids = [recorder.tokenizer.encode(text, add_special_tokens=False) for text in texts]
            store.append(folder, [recorder.row(problem, i, ids[i], truncated=not texts[i]) for i in range(len(texts))])
        samples = {problem.benchmark: len(answers[problem.index]) for problem in problems}
        run.conclude(folder, problems, samples, SETTINGS)


# ---------------------------------------------------------------- problems


def test_rows_of_verl_become_problems(problems):
    first = make_problems("test", 1, seed=0)[0]
    assert problems[0].key == ("tiny_addition", "0")
    assert list(problems[0].messages) == first.messages
    assert problems[0].ground_truth == first.answer


def test_a_fingerprint_changes_with_the_prompt_and_with_the_answer_only(problems):
    problem = problems[0]
    others = [replace(problem, ground_truth="1"), replace(problem, messages=problems[1].messages)]
    assert len({problem.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert replace(problem, index="9").fingerprint == problem.fingerprint


def test_every_sample_has_a_seed_of_its_own(problems):
    seeds = [
        problem.seed(sample, run_seed=run_seed) for problem in problems for sample in range(16) for run_seed in (0, 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_source": ""}, r"row 1: data_source is '', expected the name of the benchmark"),
        ({"extra_info": {"index": None}}, r"row 1: extra_info has no 'index'"),
        ({"reward_model": {"ground_truth": " "}}, r"row 1: reward_model.ground_truth=' ' cannot be compared"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "row 1: the prompt must end in a user turn"),
        (
            {"extra_info": {"index": 0}},
            r"row 1: benchmark 'tiny_addition' already has a problem with extra_info.index=0",
        ),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_number(tmp_path, change, message):
    good, bad = [verl_row(problem, i) for i, problem in enumerate(make_problems("test", 2, seed=0))]
    with pytest.raises(Refused, match=message):
        read_problems([write_rows(tmp_path / "bad.parquet", good, {**bad, **change})])


def test_a_file_that_is_no_benchmark_is_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("x")
    with pytest.raises(Refused, match="cannot be read as parquet"):
        read_problems([tmp_path / "text.parquet"])
    with pytest.raises(Refused, match="has no column data_source, reward_model, extra_info"):
        read_problems([write_rows(tmp_path / "other.parquet", {"prompt": "x"})])
    empty = pa.Table.from_pylist([verl_row(make_problems("test", 1, seed=0)[0], 0)]).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(Refused, match="no rows"):
        read_problems([tmp_path / "empty.parquet"])


# ---------------------------------------------------------------- models


@pytest.fixture
def base(tmp_path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def adapter_of(base: Path | None, folder: Path, **more) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": 4, "base_model_name_or_path": base and str(base), **more})
    )
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder


def test_a_model_and_an_adapter_are_found(base, tmp_path):
    assert locate(str(base)) == ModelFiles(str(base))
    adapter = adapter_of(base, tmp_path / "adapter")
    assert locate(str(adapter)) == ModelFiles(str(base), adapter=str(adapter))
    assert locate(str(adapter)).lora_rank == 4
    nameless = adapter_of(None, tmp_path / "nameless")
    assert locate(str(nameless), base=str(base)).model == str(base)


def test_saved_weights_of_a_checkpoint_are_used(base, tmp_path):
    actor = tmp_path / "global_step_5" / "actor"
    actor.mkdir(parents=True)
    (actor / "fsdp_config.json").write_text("{}")
    base.rename(actor / "huggingface")
    for name in (actor, actor.parent):
        assert locate(str(name)) == ModelFiles(str(actor / "huggingface"))


def test_a_merged_model_older_than_its_shards_is_refused(base, tmp_path):
    actor = tmp_path / "global_step_5" / "actor"
    actor.mkdir(parents=True)
    (actor / "fsdp_config.json").write_text("{}")
    base.rename(actor / "merged")
    shard = actor / "model_world_size_1_rank_0.pt"
    shard.touch()
    os.utime(shard, (0, 0))
    assert locate(str(actor)) == ModelFiles(str(actor / "merged"))
    later = (actor / "merged").stat().st_mtime + 10
    os.utime(shard, (later, later))
    with pytest.raises(
        Refused, match="merged is older than the shards beside it, so it may be of an earlier run; delete it"
    ):
        locate(str(actor))


def test_a_hub_name_is_pinned_to_its_commit(tmp_path, monkeypatch):
    """A cache as the hub's client leaves it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--some--model"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    locate = "from recipe.egrsd.evaluate.model import locate; files = locate('some/model')"
    code = f"{locate}; print(files.model, files.revision)"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.split() == ["some/model", commit], process.stderr
    process = subprocess.run(
        [sys.executable, "-c", code.replace("some/model", "no/such")], capture_output=True, text=True, cwd=ROOT
    )
    assert "no/such is no folder here, and the hub does not give it" in process.stderr


def test_what_cannot_be_loaded_is_refused(base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter")
    nameless = adapter_of(None, tmp_path / "nameless")
    (tmp_path / "checkpoints" / "global_step_5").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    for name, given_base, message in (
        (nameless, None, "does not name the adapter's model; name it with --base"),
        (nameless, adapter, "is an adapter itself"),
        (base, base, "means nothing to .*, which is a whole model"),
        (tmp_path / "checkpoints", None, "several checkpoints; name one of them: global_step_5"),
        (tmp_path / "nothing", None, "is no model .*, no adapter .* and no verl checkpoint"),
    ):
        with pytest.raises(Refused, match=message):
            locate(str(name), base=given_base and str(given_base))


def test_the_fingerprint_of_a_model_changes_with_weights_adapter_and_template(base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter")
    seen = {locate(str(base)).fingerprint(), locate(str(adapter)).fingerprint()}
    (base / "model.safetensors").write_bytes(b"weighty")
    seen.add(locate(str(base)).fingerprint())
    (base / "chat_template.jinja").write_text("x")
    seen.add(locate(str(base)).fingerprint())
    assert len(seen) == 4


def test_engines_that_start_together_look_for_ports_apart():
    code = "from vllm.utils.network_utils import get_open_port; print(get_open_port())"
    ports = free_ports(8)
    assert len(set(ports)) == 8
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"VLLM_PORT": str(ports[3])}
    )
    assert found.stdout.split()[-1] == str(ports[3])


# ---------------------------------------------------------------- responses


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ([5], [OPEN, 7, 8, CLOSE, 9], Think(True, True, 2)),
        ([5], [OPEN, 7, 8], Think(True, False, 2)),  # cut
        ([5, OPEN], [7, CLOSE, 9], Think(True, True, 1)),  # the template opens the block
        ([5, OPEN], [7], Think(True, False, 1)),
        ([5, OPEN, CLOSE], [7, 9], Think(False, False, None)),  # thinking off: the template closes it, too
        ([5, OPEN, CLOSE], [OPEN, CLOSE], Think(True, True, 0)),
        ([5], [7, CLOSE, 9], Think(False, False, None)),  # closes what was never opened
        ([5], [CLOSE, OPEN, 7], Think(True, False, 1)),
        ([5], [OPEN, 7, CLOSE, OPEN, 8, 8, CLOSE], Think(True, True, 1)),  # the first block counts
        ([5], [], Think(False, False, None)),
    ],
)
def test_think_block(prompt, response, expected):
    assert think_block(prompt, response, (OPEN, CLOSE)) == expected


@given(st.lists(st.integers(1, 4), max_size=12))
def test_the_tokens_of_a_think_block_are_those_between_the_tags(response):
    think = think_block([], response, (OPEN, CLOSE))
    text = "".join(map(str, response))
    opened, _, rest = text.partition(str(OPEN))
    assert think.opened == (opened != text)
    inside, closed, _ = rest.partition(str(CLOSE))
    assert think.closed == bool(closed)
    assert think.tokens == (len(inside) if think.opened else None)


def test_a_row_is_graded_and_counted(tokenizer, problems):
    recorder = Recorder(tokenizer, thinking=True)
    text = rf"<think>Ones</think>\boxed{{{problems[0].ground_truth}}}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    row = recorder.row(problems[0], 3, [*ids, tokenizer.eos_token_id], truncated=False)
    assert (row["score"], row["sample"], row["tokens"]) == (1.0, 3, len(ids) + 1)
    assert row["response"] == text
    assert (row["think_opened"], row["think_closed"]) == (True, True)
    assert row["think_tokens"] == len(tokenizer.encode("Ones"))
    assert row["prompt"].endswith("<|im_start|>assistant\n")
    assert set(row) == set(store.SCHEMA.names)
    off = Recorder(tokenizer, thinking=False)
    assert off.row(problems[0], 0, ids, truncated=False)["prompt"].endswith("<think>\n\n</think>\n\n")


def test_a_model_without_think_tokens_has_no_think_figures(tokenizer, problems):
    class Without:
        unk_token_id = tokenizer.unk_token_id

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def get_vocab(self):
            return {key: i for key, i in tokenizer.get_vocab().items() if "think" not in key}

    recorder = Recorder(Without(), thinking=True)
    row = recorder.row(problems[0], 0, tokenizer.encode("<think>x</think>"), truncated=False)
    assert (row["think_opened"], row["think_closed"], row["think_tokens"]) == (None, None, None)
    assert summary.figures(pd.DataFrame([row]))["think"] == {"opened": None, "closed": None, "tokens_mean": None}


# ---------------------------------------------------------------- the folder


def test_settings_of_a_folder_do_not_change(tmp_path):
    store.begin(tmp_path, SETTINGS)
    store.begin(tmp_path, SETTINGS)
    with pytest.raises(Refused, match=r"other settings; name another folder.\n  temperature: 1.0 there, 0.6 now"):
        store.begin(tmp_path, {**SETTINGS, "temperature": 0.6})


def test_two_processes_do_not_share_a_folder(tmp_path):
    code = (
        "import sys, pathlib; from recipe.egrsd.evaluate import store\nwith store.lock(pathlib.Path(sys.argv[1])): pass"
    )
    with store.lock(tmp_path):
        process = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert "another process is evaluating into" in process.stderr
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=ROOT)


def test_only_what_is_missing_is_generated(tmp_path, tokenizer, problems):
    recorder = Recorder(tokenizer, thinking=True)
    store.begin(tmp_path, SETTINGS)
    wanted = {"tiny_addition": 2}
    everything = run.missing(tmp_path, problems, wanted)
    assert everything == [(problem, sample) for problem in problems for sample in (0, 1)]
    store.append(tmp_path, [recorder.row(problems[1], 0, [5], truncated=False)])
    store.append(tmp_path, [recorder.row(problems[0], 1, [5], truncated=False)])
    (tmp_path / "generations" / "part-00002.parquet.partial").write_bytes(b"torn")  # killed while it was written
    there = [(problems[1], 0), (problems[0], 1)]
    assert run.missing(tmp_path, problems, wanted) == [pair for pair in everything if pair not in there]
    assert len(run.missing(tmp_path, problems, {"tiny_addition": 4})) == 4 * len(problems) - 2  # --k was raised
    changed = [replace(problems[0], ground_truth="1"), *problems[1:]]
    with pytest.raises(
        Refused, match="answers to another text of tiny_addition, problem 0: the benchmark file has changed"
    ):
        run.missing(tmp_path, changed, wanted)


# ---------------------------------------------------------------- figures


def answer(value: object) -> str:
    return rf"\boxed{{{value}}}"


def test_the_figures_of_a_benchmark(tmp_path, tokenizer, problems):
    right = [answer(problem.ground_truth) for problem in problems]
    texts = {
        "0": [right[0]] * 4,
        "1": [*right[1:2] * 2, answer(1), answer(2)],
        "2": [answer(1)] * 3 + [right[2]],
        "3": [""] * 4,
    }
    recorder = Recorder(tokenizer, thinking=True)
    fill(tmp_path, recorder, problems, texts)
    results = json.loads((tmp_path / "results.json").read_text())
    figures = results["benchmarks"]["tiny_addition"]
    assert (figures["problems"], figures["samples"]) == (4, 4)
    assert figures["accuracy"]["value"] == (4 + 2 + 1 + 0) / 16
    assert figures["pass_at"]["1"]["value"] == pytest.approx(figures["accuracy"]["value"])
    assert figures["pass_at"]["2"]["value"] == pytest.approx((1 + 5 / 6 + 1 / 2 + 0) / 4)
    assert figures["pass_at"]["4"]["value"] == 3 / 4
    assert figures["majority"]["value"] == (1 + 1 + 0 + 0) / 4
    assert (figures["truncated"]["value"], figures["no_answer"]) == (1 / 4, 1 / 4)
    lengths = sorted(len(tokenizer.encode(text)) for own in texts.values() for text in own)
    assert figures["tokens_mean"]["value"] == pytest.approx(sum(lengths) / 16)
    assert figures["tokens_median"] == pytest.approx((lengths[7] + lengths[8]) / 2)
    assert lengths[13] <= figures["tokens_p90"] <= lengths[14]
    assert results["macro"]["accuracy"]["value"] == figures["accuracy"]["value"]
    printed = summary.table(results).splitlines()
    assert printed[1].split()[:7] == ["tiny_addition", "4", "4", "43.8", "±", "21.3", "(±"]
    assert printed[2].startswith("mean")


def test_figures_are_about_the_samples_asked_for_though_the_folder_holds_more(tmp_path, tokenizer, problems):
    texts = {str(i): [answer(problem.ground_truth), answer(0)] for i, problem in enumerate(problems)}
    fill(tmp_path, Recorder(tokenizer, thinking=True), problems, texts)
    benchmarks = run.conclude(tmp_path, problems[:3], {"tiny_addition": 1}, SETTINGS)["benchmarks"]
    assert benchmarks["tiny_addition"]["accuracy"] == {"value": 1.0, "se": 0.0, "se_sampling": None}


def test_the_number_of_samples_on_the_command_line():
    names = ["aime24", "math500"]
    assert protocol.samples(["4"], names) == {"aime24": 4, "math500": 4}
    assert protocol.samples(["aime24=16", "2"], names) == {"aime24": 16, "math500": 2}
    for word, message in (
        ("0", ">= 1"),
        ("x", ">= 1"),
        ("hmmt25=16", "has no benchmark 'hmmt25'; it has aime24, math500"),
    ):
        with pytest.raises(Refused, match=message):
            protocol.samples([word], names)


def test_the_papers_protocol_is_named_so_only_as_long_as_it_is_whole():
    given = ["--model", "m", "--data", "d", "--out", "o"]
    stated = json.loads((ROOT / "recipe/egrsd/config/paper.json").read_text())["evaluation"]
    assert stated.pop("k") == protocol.SAMPLES
    paper = {"max_tokens": stated.pop("max_new_tokens"), **stated, "top_k": 0}  # the paper states no top-k
    assert protocol.chosen(command._parser().parse_args(given)) == {"protocol": "paper", **paper}
    assert protocol.chosen(command._parser().parse_args([*given, "--no-thinking", "--top-k", "20"])) == {
        "protocol": "own", **paper, "thinking": False, "top_k": 20,
    }  # fmt: skip


# ---------------------------------------------------------------- comparison


@pytest.fixture
def two_runs(tmp_path, tokenizer, problems) -> tuple[Path, Path]:
    recorder = Recorder(tokenizer, thinking=True)
    right = {problem.index: answer(problem.ground_truth) for problem in problems}
    before = {index: [answer(0), text] for index, text in right.items()}
    after = {**{index: [text, text] for index, text in right.items()}, "3": [answer(0), answer(0)]}
    fill(tmp_path / "before", recorder, problems, before)
    fill(tmp_path / "after", recorder, problems, after, temperature=0.6)
    return tmp_path / "before", tmp_path / "after"


def test_two_runs_are_compared_problem_by_problem(two_runs):
    result = comparison.compare(*two_runs)
    accuracy = result["benchmarks"]["tiny_addition"]["accuracy"]
    assert accuracy["value"] == (0.5 + 0.5 + 0.5 - 0.5) / 4
    assert accuracy["se"] == pytest.approx(0.25)
    assert accuracy["p_value"] == pytest.approx(0.391, abs=1e-3)  # t = 1 with 3 degrees of freedom
    assert result["macro"]["accuracy"]["value"] == accuracy["value"]
    assert result["settings"] == {"temperature": (1.0, 0.6)}


def test_compare_on_the_command_line(two_runs, tmp_path, capsys):
    before, after = map(str, two_runs)
    command.main(["compare", before, after, "--json", str(tmp_path / "difference.json")])
    printed = capsys.readouterr().out
    assert "+25.0 ± 25.0" in printed
    assert "temperature: 1.0 before, 0.6 after" in printed
    assert json.loads((tmp_path / "difference.json").read_text())["macro"]["accuracy"]["value"] == 0.25


def test_runs_on_other_problems_are_not_compared(two_runs, tmp_path, tokenizer, problems):
    recorder, before = Recorder(tokenizer, thinking=True), two_runs[0]
    texts = {problem.index: [answer(0)] for problem in problems}
    fill(tmp_path / "fewer", recorder, problems[:2], texts)
    fill(tmp_path / "changed", recorder, [*problems[:3], replace(problems[3], ground_truth="1")], texts)
    fill(tmp_path / "other", recorder, [replace(problem, benchmark="other") for problem in problems], texts)
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("fewer", r"tiny_addition: 2 of 4 problems are missing in one run or have another text there \(index 2, 3\)"),
        ("changed", r"1 of 4 problems .* \(index 3\)"),
        ("other", "no benchmark in common"),
        ("empty", "nothing was evaluated there, or not to its end"),
    ):
        with pytest.raises(Refused, match=message):
            comparison.compare(before, tmp_path / folder)


# ---------------------------------------------------------------- start-up


def test_the_command_line_loads_neither_torch_nor_vllm():
    code = (
        "import sys, recipe.egrsd.evaluate.__main__ as e; e._parser().format_help(); "
        "assert not {'torch', 'vllm', 'transformers', 'verl', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_error_of_the_user_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--model", "m", "--data", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "out")])
    assert str(stopped.value).startswith("evaluate: ")
    path = write_rows(tmp_path / "one.parquet", verl_row(make_problems("test", 1, seed=0)[0], 0))
    with pytest.raises(SystemExit, match="--temperature 0 draws the same response every time; use --k 1"):
        command.main(["--model", "m", "--data", str(path), "--out", str(tmp_path / "out"), "--temperature", "0"])


def test_results_under_two_versions_of_the_answers_rules_do_not_mix():
    assert command._versions()["answers"] == str(RULES)
