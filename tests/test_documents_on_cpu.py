"""Documents say what the code does: metric table, file tree, import directions, examples that resolve."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

from recipe.egrsd import evaluate, prepare_data
from recipe.egrsd.data.sources import BENCHMARKS
from recipe.egrsd.metrics import ALARM_STEPS, ALARMS, METRICS, START_STEPS

RECIPE = ROOT / "recipe" / "egrsd"
# A module may import those of the layers before its own; verl and ray start behind the third.
LAYERS = [
    {"strict", "reward", "head"},
    {"weights", "divergence", "advantage", "privileged", "metrics", "schema", "checkpoint", "rows"}
    | {"shared_prompt", "verl_keys", "receiver"},
    {"validation", "data", "report", "alarms", "machine", "models"},
    {"loss", "dataset", "scoring", "engine", "rollout", "progress", "nodes", "slots", "prepare_data"},
    {"parts"},
    {"worker", "teacher", "tokens", "server", "hydra_plugin", "watchdog"},
    {"cpu"},
    {"trainer", "evaluation"},
    {"register", "evaluate"},
    {"doctor"},
]


def test_the_metric_table_is_the_metrics():
    rows = re.findall(r"^\| `(egrsd/\w+)` \| (.*) \| (\S+) \| (\S*) … (\S*) \|$", (ROOT / "docs/metrics.md").read_text(), re.M)
    stated = {
        name: (text.replace("\\|", "|"), unit, *(float(v) if v else None for v in ends)) for name, text, unit, *ends in rows
    }
    assert stated == {name: tuple(meaning) for name, meaning in METRICS.items()}


def test_the_alarm_table_is_the_alarms():
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| (\S.*) \| `(.*)` \| ([≥≤]) (\S+)( × start)? \| (.*) \|$", text, re.M)
    stated = {
        name: (tuple(metrics.split("` + `")), side == "≥", float(threshold), advice, bool(of_start))
        for name, metrics, side, threshold, of_start, advice in rows
    }
    assert stated == {name: tuple(alarm) for name, alarm in ALARMS.items()}
    assert f"{ALARM_STEPS} steps in a row" in text and f"first {START_STEPS} steps" in text


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(RECIPE.rglob("*.py")), ids=lambda path: str(path.relative_to(RECIPE)))
def test_imports_point_one_way(path):
    module = path.relative_to(RECIPE).parts[0].removesuffix(".py")
    if module in ("__init__", "config"):
        assert not imports(path)
        return
    depth = next(depth for depth, layer in enumerate(LAYERS) if module in layer)
    ours = {name.split(".")[2] for name in imports(path) if name.startswith("recipe.egrsd.")}
    below = set().union(*LAYERS[:depth]) | {module} | ({"cpu"} if module in ("hydra_plugin", "machine") else set())
    assert ours & set().union(*LAYERS) <= below
    if depth <= 2:
        assert not {name.split(".")[0] for name in imports(path)} & {"verl", "ray", "vllm", "tensordict"}


@pytest.mark.parametrize("module", ["weights", "advantage"])
def test_the_maths_needs_torch_only(module):
    code = f"import sys, recipe.egrsd.{module}; assert not {{'verl', 'ray', 'vllm', 'transformers', 'hydra'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_readme_tree_is_the_tree():
    readme = (ROOT / "README.md").read_text()
    tree = readme.split("<!-- tree -->")[1]
    named = set(re.findall(r"^    (\S+\.(?:py|jinja|json|txt))", tree, re.M)) - {"__init__.py"}
    assert named == {path.name for path in RECIPE.iterdir() if path.is_file()} - {"__init__.py"}


def test_the_three_commands_fit_together():
    """reproduce.md: run, evaluation and report name the same folders, and each option that they are given exists."""
    text = (ROOT / "docs/reproduce.md").read_text().replace("\\\n", "")
    commands = [shlex.split(line) for line in re.findall(r"^    (\S.*)$", text, re.M)]
    given = {words[2].split(".")[-1]: words[3:] for words in commands if words[:2] == ["python", "-m"] and "compare" not in words}
    data, evaluation = prepare_data._parser().parse_args(given["prepare_data"]), evaluate._parser().parse_args(given["evaluate"])
    (algorithm, script), *_ = (words for words in commands if words[-1].startswith("examples/"))
    run = Path("outputs") / f"{script.split('run_')[1].removesuffix('_fsdp.sh').replace('_', '-')}-{algorithm.split('=')[1]}"
    assert run in evaluation.out.parents and run in Path(evaluation.model).parents
    assert str(run) in given["report"]
    benchmarks = ",".join(source.name for source in BENCHMARKS)
    assert [str(path) for path in evaluation.data] == [f"{data.out}/{{{benchmarks}}}.parquet"]
    assert f"DATA=${{DATA:-{data.out}}}" in (ROOT / "examples/run_qwen3_fsdp.sh").read_text()


def test_the_files_and_functions_stay_small():
    for path in RECIPE.rglob("*.py"):
        source = path.read_text()
        assert len(source.splitlines()) <= 250, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 50, (path, node.name)


def test_nothing_names_the_workplace():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *RECIPE.rglob("*.py"), *ROOT.glob("examples/**/*.*")]:
        if path.is_file() and path.suffix in (".md", ".py", ".sh", ".yaml"):
            assert not re.search(r"/(work|root|farm)/", path.read_text()), path
