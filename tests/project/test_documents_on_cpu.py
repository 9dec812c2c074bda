"""Documents say what the code does: metric table, file tree, import directions, examples that resolve."""

import ast
import re
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from composing import composed
from omegaconf import OmegaConf
from packages import files_below
from runs import ROOT

from recipe.egrsd.config.validation import validate
from recipe.egrsd.evaluate import __main__ as evaluate
from recipe.egrsd.prepare_data import __main__ as prepare_data
from recipe.egrsd.prepare_data.sources import BENCHMARKS
from recipe.egrsd.watch.metrics import METRICS
from recipe.egrsd.watch.thresholds import ALARM_STEPS, ALARMS

RECIPE = ROOT / "recipe" / "egrsd"
FILES = sorted(RECIPE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *RECIPE.glob("*.md")])
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
    "config", "method", "reward", "checkpoint", "prepare_data", "engine/head", "engine/shared_prompt",
    "report/__main__", "report/figures", "report/leakage", "report/mechanism", "report/page", "report/runs",
    "privilege/prompts", "privilege/texts", "privilege/rows", "privilege/peers", "watch/metrics", "watch/sums",
    "watch/alarms", "watch/thresholds", "machines/attention", "machines/models", "rollout/receiver",
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
    assert f"{ALARM_STEPS} steps in a row" in text
    assert f"| {len(ALARMS)} alarms |" in (ROOT / "docs/reliability.md").read_text()


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
    places = {Path(path).relative_to("recipe/egrsd").parts for path in files_below(ROOT)}
    there = {f"{first}/" if below else first for first, *below in places} - {"__init__.py"}
    assert named == there


def commands_of(path: str) -> list[list[str]]:
    """The words of each command in a page's indented blocks."""
    text = (ROOT / path).read_text().replace("\\\n", "")
    lines = re.findall(r"^    ((?:\w+=\S+ )*(?:python|examples/|make) ?\S.*)$", text, re.M)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", ["README.md", "docs/reproduce.md"])
def test_the_commands_from_data_to_report_fit_together(page):
    """Run, evaluation, comparison and report name the same folders, and each option that they are given exists."""
    commands = [words for words in commands_of(page) if words[-1].startswith("examples/") or words[0] == "python"]
    given = {
        words[2].split(".")[-1]: words[3:]
        for words in commands
        if words[:2] == ["python", "-m"] and "compare" not in words
    }
    data, evaluation = (
        prepare_data._parser().parse_args(given["prepare_data"]),
        evaluate._parser().parse_args(given["evaluate"]),
    )
    scripts = [words for words in commands if words[-1].startswith("examples/")]
    (algorithm,) = {word.split("=")[1] for words in scripts for word in words if word.startswith("ALGORITHM=")}
    (script,) = {words[-1] for words in scripts}
    assert (ROOT / script).is_file()
    run = Path("outputs") / f"{script.split('run_')[1].removesuffix('_fsdp.sh').replace('_', '-')}-{algorithm}"
    assert run in evaluation.out.parents and run in Path(evaluation.model).parents
    assert str(run) in given["report"]
    (comparison,) = (words for words in commands if "compare" in words)
    assert comparison[-1] == str(evaluation.out)
    benchmarks = ",".join(source.name for source in BENCHMARKS)
    assert [str(path) for path in evaluation.data] == [f"{data.out}/{{{benchmarks}}}.parquet"]
    assert f"DATA=${{DATA:-{data.out}}}" in (ROOT / "examples/run_qwen3_fsdp.sh").read_text()


def test_make_has_the_targets_that_pages_name():
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = re.findall(r"(?:^    |`)(?:\w+=\S+ )*make ([a-z][\w.-]*)", page.read_text(), re.M)
        assert {name for name in named if not name.startswith("test-verl-")} <= targets, page


@pytest.mark.parametrize("page", ["README.md", "recipe/egrsd/README.md"])
def test_the_readme_command_is_a_config_that_we_accept(page):
    (words,) = (words for words in commands_of(page) if words[:3] == ["python", "-m", "verl.trainer.main_ppo"])
    algorithm, *overrides = words[3:]
    config = composed(*overrides, algorithm=algorithm.removeprefix("algorithm="))
    validate(config)
    assert (config.algorithm.egrsd.gamma, config.data.train_batch_size) == (0.3, 32)


def test_the_readme_is_short_and_has_every_method():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    presets = {path.stem for path in (RECIPE / "config" / "algorithm").glob("*.yaml")}
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.M)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == presets


def test_the_configuration_table_is_the_schema():
    """Each key of algorithm.egrsd, with its default where the table states a plain value."""
    defaults = OmegaConf.load(RECIPE / "config" / "algorithm" / "egrsd.yaml").algorithm.egrsd
    groups = ("teacher", "pull", "steering", "contrast")
    flat = {name: value for name, value in defaults.items() if name not in groups}
    flat |= {f"{group}.{name}": value for group in groups for name, value in defaults[group].items()}
    table = (ROOT / "docs/configuration.md").read_text().split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \| .* \|$", table, re.M)
    stated = {}
    for keys, defaults_of_keys in rows:
        names = re.findall(r"`([\w.]+)`", keys)
        values = defaults_of_keys.split(", ") if len(names) > 1 else [defaults_of_keys.split(" (")[0]]
        stated |= dict(zip(names, map(yaml.safe_load, values), strict=True))
    assert set(stated) == set(flat)
    differ = {name for name in stated if stated[name] != flat[name]}
    assert differ == {"teacher.instruction"}  # shortened


def keys_of(node: dict, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The way to each value that is no dictionary."""
    below = ((value, (*above, key)) for key, value in node.items())
    return [way for value, place in below for way in (keys_of(value, place) if isinstance(value, dict) else [place])]


def test_every_key_of_verl_that_a_preset_sets_is_on_the_page():
    """docs/configuration.md; data.egrsd, which our data set reads, and hydra's callback are no keys of verl."""
    section = (ROOT / "docs/configuration.md").read_text().split("## Keys of verl that a preset changes")[1]
    named = {name.split(".")[-1] for name in re.findall(r"`([\w.]+)`", section.split("### On a CPU")[0])}
    for path in (RECIPE / "config" / "algorithm").glob("*.yaml"):
        ways = [way for way in keys_of(yaml.safe_load(path.read_text())) if way[0] not in ("defaults", "hydra")]
        verls = [way for way in ways if way[:2] not in (("algorithm", "egrsd"), ("data", "egrsd"))]
        assert [way for way in verls if not named & set(way[1:])] == [], path


def test_grpo_by_the_pages_command_is_verls():
    (words,) = (words for words in commands_of("docs/configuration.md") if "verl.trainer.main_ppo" in words)
    algorithm, *overrides, more = words[3:]
    config = composed(*overrides, algorithm=algorithm.removeprefix("algorithm="))
    egrsd = validate(config)
    assert (egrsd.gamma, egrsd.clip_range, egrsd.length_bonus, egrsd.advantage) == (0, 0, 0, "grpo")
    assert (config.actor_rollout_ref.rollout.n, more) == (8, "...")


def test_the_functions_of_the_training_step_exist():
    """docs/design.md: what its picture's table names is defined in the recipe, but for verl's ppo_loss."""
    table = (ROOT / "docs/design.md").read_text().split("| part | who calls it |")[1].split("\n\n")[0]
    named = {
        name.split(".")[-1] for row in table.splitlines() for name in re.findall(r"`([\w.]+)`", row.split("|")[-2:][0])
    }
    source = "\n".join(path.read_text() for path in FILES)
    assert {name for name in named if not re.search(rf"(def|class) {name}\b", source)} == {"ppo_loss"}


def anchors(path: Path) -> set[str]:
    """Of the headings, as a code host makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_map_has_every_page():
    text = (ROOT / "docs/index.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "index.md" or f"({path.name}" in text, path


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
