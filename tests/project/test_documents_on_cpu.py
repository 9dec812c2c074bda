"""Documents say what the code does: tables of metrics, alarms and keys, the file tree, links that lead somewhere."""

import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from packages import FILES, PAGES, RECIPE, files_below
from runs import ROOT

from recipe.egrsd.watch.metrics import METRICS
from recipe.egrsd.watch.thresholds import ALARM_STEPS, ALARMS


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
    watched = r"`([^|]*?)`(?:; start less `([^|]*)`)?(?:, mean of (\d+) steps)?"
    limit = r"([≥≤]) (\S+?)( × start)?(?:, (\S+) from it)?"
    rows = re.findall(rf"^\| (\S.*) \| {watched} \| {limit} \| (.*) \|$", text, re.M)
    stated = {}
    for name, metrics, beside, steps, side, threshold, of_start, margin, advice in rows:
        start = (bool(of_start), float(margin or 0), tuple(filter(None, beside.split("` × `"))), int(steps or 1))
        stated[name] = (tuple(metrics.split("` + `")), side == "≥", float(threshold), advice, *start)
    assert stated == {name: tuple(alarm) for name, alarm in ALARMS.items()}
    assert f"{ALARM_STEPS} steps in a row" in text
    assert f"| {len(ALARMS)} alarms |" in (ROOT / "docs/reliability.md").read_text()


def test_the_readme_tree_is_the_tree():
    """Rooms and the files beside them, each with its line."""
    tree = (ROOT / "README.md").read_text().split("<!-- tree -->")[1]
    named = set(re.findall(r"^    (\w+(?:/|\.\w+))  +\S", tree, re.M))
    places = {Path(path).relative_to("recipe/egrsd").parts for path in files_below(ROOT)}
    there = {f"{first}/" if below else first for first, *below in places} - {"__init__.py"}
    assert named == there


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
