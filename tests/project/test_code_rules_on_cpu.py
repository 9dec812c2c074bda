"""Rules that the code keeps: imports point one way, files are small, who silences a rule says why."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packages import FILES, RECIPE
from runs import ROOT

# A room may import the rooms of the lines above its own. docs/design.md shows the same.
FLOORS = [
    {"config", "method", "reward"},
    {"engine", "privilege", "checkpoint", "token_weight"},
    {"teacher", "watch", "prepare_data", "parts", "batches"},
    {"cpu", "loss", "showing"},
    {"machines", "teaching"},
    {"rollout", "evaluate"},
    {"trainer", "hydra_plugin"},
    {"register"},
    {"doctor"},
    {"report"},
]
# These run where there is no verl: rooms, and files of other rooms.
WITHOUT_VERL = {
    "config", "method", "reward", "checkpoint", "prepare_data", "engine/head", "engine/layers",
    "engine/shared_prompt", "machines/architectures",
    "report/__main__", "report/figures", "report/leakage", "report/mechanism", "report/page", "report/runs",
    "privilege/prompts", "privilege/texts", "privilege/rows", "privilege/peers", "watch/metrics", "watch/sums",
    "watch/alarms", "watch/thresholds", "machines/attention", "machines/models", "rollout/receiver",
}  # fmt: skip


def imports(body: list[ast.stmt], *, of_types: bool = True) -> set[str]:
    """Every module that these statements import, in functions, too; or all but those that only types want."""
    found = set()
    at_run_time = [
        node for node in body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    for node in (node for statement in (body if of_types else at_run_time) for node in ast.walk(statement)):
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
    """Of files, through what each imports, when it is imported itself or later."""
    names = {path: ".".join(("recipe", "egrsd", *path.relative_to(RECIPE).with_suffix("").parts)) for path in FILES}
    graph = {
        names[path]: (imports(parsed(path), of_types=False) & set(names.values())) - {names[path]} for path in FILES
    }
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


def test_who_silences_a_rule_names_it_and_says_why():
    """On a line: rule and reason behind it; for a file: a comment above. Those of the whole project: pyproject.toml."""
    on_a_line = re.compile(r"# (?:noqa|pyright: ignore|type: ignore)\b(?!: [A-Z0-9, ]+  \S|\[[\w, -]+\]  \S)")
    folders = ("benchmarks", "examples", "recipe", "tests")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        source = path.read_text().splitlines()
        assert not [line for line in source if on_a_line.search(line) and path != Path(__file__)], path
        whole = [number for number, line in enumerate(source) if re.match(r"# pyright: \w+=", line)]
        assert all(re.match(r"# [^p]", source[number - 1]) for number in whole), path


def test_the_files_and_functions_stay_small():
    folders = ("benchmarks", "docs", "examples", "recipe", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = [str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > 250]
    assert not long, "\n".join(long)
    for path in (path for path in files if path.relative_to(ROOT).parts[0] != "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                words = node.body[0] if ast.get_docstring(node) else None
                of_words = words.end_lineno - words.lineno + 1 if words else 0
                assert node.end_lineno - node.lineno + 1 - of_words <= 40, (path, node.name)


def test_no_file_of_the_tests_imports_a_test_file():
    """What several need stands in tests/support or in a conftest.py."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    tests = {path.stem for path in files if path.stem.startswith("test_")}
    named = {path: {part for name in imports(parsed(path)) for part in str(name).split(".")} for path in files}
    found = [f"{path.relative_to(ROOT)}: {name}" for path in files for name in sorted(tests & named[path])]
    assert not found, "\n".join(found)


def test_nothing_names_the_workplace():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *RECIPE.rglob("*.py"), *ROOT.glob("examples/**/*.*")]:
        if path.is_file() and path.suffix in (".md", ".py", ".sh", ".yaml"):
            assert not re.search(r"/(work|root|farm)/", path.read_text()), path
