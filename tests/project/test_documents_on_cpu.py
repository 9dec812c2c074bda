"""Documents say what the code does: metric table, file tree, import directions, examples that resolve."""

import ast
import re
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from runs import ROOT

from recipe.egrsd.evaluate import __main__ as evaluate
from recipe.egrsd.prepare_data import __main__ as prepare_data
from recipe.egrsd.prepare_data.sources import BENCHMARKS
from recipe.egrsd.watch.metrics import ALARM_STEPS, ALARMS, METRICS, START_STEPS

RECIPE = ROOT / "recipe" / "egrsd"
FILES = sorted(RECIPE.rglob("*.py"))
# A room may import the rooms of the lines above its own. docs/design.md shows the same.
FLOORS = [
    {"config", "method", "reward"},
    {"engine", "privilege", "checkpoint"},
    {"teacher", "watch", "prepare_data", "parts", "batches"},
    {"cpu", "loss", "report"},
    {"machines"},
    {"rollout", "evaluate"},
    {"trainer", "hydra_plugin"},
    {"register"},
    {"doctor"},
]
# These run where there is no verl: rooms, and files of other rooms.
WITHOUT_VERL = {"config", "method", "reward", "checkpoint", "prepare_data", "report", "engine/head", "engine/shared_prompt"} | {
    "privilege/prompts", "privilege/rows", "watch/metrics", "watch/alarms", "machines/attention", "machines/models",
    "rollout/receiver",
}  # fmt: skip


def test_the_metric_table_is_the_metrics():
    rows = re.findall(
        r"^\| `(egrsd/\w+)` \| (.*) \| (\S+) \| (\S*) … (\S*) \|$", (ROOT / "docs/metrics.md").read_text(), re.M
    )
    stated = {
        name: (text.replace("\\|", "|"), unit, *(float(v) if v else None for v in ends))
        for name, text, unit, *ends in rows
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


def imports(body: list[ast.stmt], *, anywhere: bool = True) -> set[str]:
    """Every module that these statements import, or only what is imported with the file."""
    found = set()
    for node in (node for statement in body for node in (ast.walk(statement) if anywhere else [statement])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parsed(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RECIPE)))
def test_imports_point_one_way(path):
    place = path.relative_to(RECIPE).with_suffix("")
    room, names = place.parts[0], imports(parsed(path))
    if room == "__init__":
        assert not names
        return
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    ours = {name.split(".")[2] for name in names if name.startswith("recipe.egrsd.")}
    assert ours - {room} <= set().union(*FLOORS[:floor])
    if {room, place.as_posix()} & WITHOUT_VERL:
        assert not {name.split(".")[0] for name in names} & {"verl", "ray", "vllm", "tensordict"}
    if room == "method":
        outside = {name.split(".")[0] for name in names if not name.startswith("recipe.egrsd.method")}
        assert outside - sys.stdlib_module_names <= {"torch"}


def test_no_circle():
    """Of files, through what each imports when it is imported itself."""
    names = {path: ".".join(("recipe", "egrsd", *path.relative_to(RECIPE).with_suffix("").parts)) for path in FILES}
    graph = {names[path]: imports(parsed(path), anywhere=False) & set(names.values()) for path in FILES}
    tuple(TopologicalSorter(graph).static_order())


def test_every_room_says_what_it_is_for():
    rooms = [path.parent for path in FILES if path.name == "__init__.py" and path.parent != RECIPE]
    assert {room.name for room in rooms} == {path.parent.name for path in FILES} - {"egrsd"}
    for room in rooms:
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text())), room


def test_the_maths_needs_torch_only():
    modules = ", ".join(f"recipe.egrsd.method.{path.stem}" for path in (RECIPE / "method").glob("[a-z]*.py"))
    code = f"import sys, {modules}; assert not {{'verl', 'ray', 'vllm', 'transformers', 'hydra'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_readme_tree_is_the_tree():
    """Rooms and the files beside them, each with its line."""
    tree = (ROOT / "README.md").read_text().split("<!-- tree -->")[1]
    named = set(re.findall(r"^    (\w+(?:/|\.\w+))  +\S", tree, re.M))
    there = {f"{path.name}/" if path.is_dir() else path.name for path in RECIPE.iterdir()} - {
        "__pycache__/",
        "__init__.py",
    }
    assert named == there


def test_the_three_commands_fit_together():
    """reproduce.md: run, evaluation and report name the same folders, and each option that they are given exists."""
    text = (ROOT / "docs/reproduce.md").read_text().replace("\\\n", "")
    commands = [shlex.split(line) for line in re.findall(r"^    (\S.*)$", text, re.M)]
    given = {
        words[2].split(".")[-1]: words[3:]
        for words in commands
        if words[:2] == ["python", "-m"] and "compare" not in words
    }
    data, evaluation = (
        prepare_data._parser().parse_args(given["prepare_data"]),
        evaluate._parser().parse_args(given["evaluate"]),
    )
    (algorithm, script), *_ = (words for words in commands if words[-1].startswith("examples/"))
    run = (
        Path("outputs")
        / f"{script.split('run_')[1].removesuffix('_fsdp.sh').replace('_', '-')}-{algorithm.split('=')[1]}"
    )
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
