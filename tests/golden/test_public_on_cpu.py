"""What others may rely on, in one list: public.yaml. A name, a default or a column that changes is a line of a diff."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_up_runs import write_tokens
from public import columns, sections, shape

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.demo import Demo
from examples.tiny_cpu.evaluate import Evaluation
from examples.tiny_cpu.task import make_problems, write_parquet
from recipe.egrsd import checkpoint
from recipe.egrsd.evaluate import __main__ as evaluate
from recipe.egrsd.evaluate import store
from recipe.egrsd.evaluate.problems import read_problems
from recipe.egrsd.evaluate.responses import Recorder
from recipe.egrsd.prepare_data import __main__ as prepare_data

READ = sections()
FILES = {
    "prepare_data": ["train.parquet", "train.report.json"],
    "evaluate": ["settings.json", "generations/part-00000.parquet", "problems.parquet", "results.json"],
}
TOKENS, STATE, SUMMARY = (
    "file tokens/step_N.parquet of a run",
    "file egrsd.json of a checkpoint",
    "file summary.json of make demo",
)
# Nodes of a JSON file whose keys are names, of data sets, packages, reasons, so that they are no part of its schema.
NAMES = frozenset({"versions", "benchmarks", "pass_at", "dropped", "histogram", "files", "commits", "method"})


@pytest.mark.parametrize("section", READ)
def test_names_keys_options_variables_metrics(golden, section):
    golden("public.yaml", section, READ[section])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    texts = ["What is 1 + 1?", "What is 2 + 2?", "", "How many days has a week?"]
    rows = [{"problem": text, "solution": rf"\boxed{{{i}}}", "answer": str(i)} for i, text in enumerate(texts)]
    (folder / "made_up.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--train", str(folder / "made_up.jsonl"), "--benchmarks", "--validation", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        prepare_data.main(["--out", str(folder), *words])
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """Written by the command on responses that it need not generate, because they stand there already."""
    folder = tmp_path_factory.mktemp("evaluated")
    tokenizer = tiny.build_tokenizer()
    tiny.save(tiny.build_model(tokenizer), tokenizer, folder / "model")
    write_parquet(make_problems("test", 2, seed=0), folder / "tiny.parquet")
    recorder = Recorder(tokenizer, thinking=True)
    tokens = tokenizer.encode(r"\boxed{1}")
    problems = read_problems([folder / "tiny.parquet"])
    (folder / "out").mkdir()
    store.append(
        folder / "out", [recorder.row(problem, i, tokens, truncated=False) for problem in problems for i in (0, 1)]
    )
    words = {"--model": folder / "model", "--data": folder / "tiny.parquet", "--out": folder / "out", "--k": 2}
    evaluate.main([str(word) for pair in words.items() for word in pair])
    return folder / "out"


def schema(path: Path) -> dict[str, str]:
    return columns(path) if path.suffix == ".parquet" else shape(json.loads(path.read_text()), names=NAMES)


@pytest.mark.parametrize("file", FILES["prepare_data"])
def test_files_of_prepare_data(golden, prepared, file):
    golden("public.yaml", f"file {file} of prepare_data", schema(prepared / file))


@pytest.mark.parametrize("file", FILES["evaluate"])
def test_files_of_evaluate(golden, evaluated, file):
    golden("public.yaml", f"file {file} of evaluate", schema(evaluated / file))


def test_file_of_tokens(golden, tmp_path):
    path = write_tokens(tmp_path, 1)
    assert set(pq.read_schema(path).metadata) == {b"egrsd"}
    golden("public.yaml", TOKENS, columns(path))


@pytest.mark.slow
def test_file_of_a_checkpoint(golden, full):
    golden("public.yaml", STATE, shape(checkpoint.load(full.folder / "checkpoints" / "global_step_3"), names=NAMES))


def test_summary_of_the_demo(golden, tmp_path):
    demo = Demo(tmp_path, task="addition", algorithm="egrsd", seed=0, steps=1, num_problems=2)
    answers = Evaluation(correct=[1, 1], lengths=[3, 4], responses=["", ""], tokens=[[], []])
    with demo.phase("data", ""):
        pass
    both = {"sampled": answers, "greedy": answers}
    summary = demo.summary(both, both, answers)
    golden("public.yaml", SUMMARY, shape(summary, names=frozenset({"wall_seconds"})))


def test_nothing_is_left_over(golden):
    of_files = [f"file {file} of {command}" for command, files in FILES.items() for file in files]
    golden.only("public.yaml", [*READ, *of_files, TOKENS, STATE, SUMMARY])
