"""What a code host and a newcomer look for: CONTRIBUTING, CHANGELOG, CITATION, hooks, workflow, templates."""

import argparse
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from packages import files_below, project, requirements
from runs import ROOT

HOST = ROOT / ".github"
FORMS = sorted((HOST / "ISSUE_TEMPLATE").glob("*.yml"))
PINNED = requirements((ROOT / "requirements" / "cpu.txt").read_text().splitlines())


def read(path: str) -> str:
    return (ROOT / path).read_text()


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def commands() -> list[list[str]]:
    """Of CONTRIBUTING.md's indented blocks, without their comments."""
    lines = re.findall(r"^    ((?:make|\S*python|\S*ruff|git|pip) .*)$", read("CONTRIBUTING.md"), re.M)
    return [shlex.split(line, comments=True) for line in lines]


def targets() -> set[str]:
    return set(re.findall(r"^([\w.-]+):", read("Makefile"), re.M))


# ---------------------------------------------------------------- CONTRIBUTING.md


def test_make_has_what_contributing_says():
    named = [words[1] for words in commands() if words[0] == "make"]
    assert {"install", "lint", "test", "demo"} <= set(named) <= targets()


@pytest.mark.parametrize("words", [words for words in commands() if words[0] != "make"], ids=" ".join)
def test_a_command_of_contributing_selects_tests(words):
    """Whatever is not make is pytest on files that exist, and what -k names is in the name of one of their tests."""
    assert words[:3] == [".venv/bin/python", "-m", "pytest"]
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+")
    parser.add_argument("-q", action="store_true")
    parser.add_argument("-n", type=int)
    parser.add_argument("-m")
    parser.add_argument("-k", default="test_")
    chosen = parser.parse_args(words[3:])
    files = [
        file
        for path in chosen.paths
        for file in ((ROOT / path).rglob("*.py") if (ROOT / path).is_dir() else [ROOT / path])
    ]
    assert any(re.search(rf"^def \w*{chosen.k}", file.read_text(), re.M) for file in files)


def test_contributing_places_a_change_in_every_room():
    """Its table of where things go names each folder of the recipe, and nothing that is not there."""
    table = read("CONTRIBUTING.md").split("## Where things go")[1].split("\n## ")[0]
    named = {path.rstrip("/") for path in re.findall(r"`recipe/egrsd/([\w/.]+)`", table)}
    assert all((ROOT / "recipe" / "egrsd" / path).exists() for path in named)
    rooms = {path.split("/")[2] for path in files_below(ROOT) if path.count("/") > 2}
    assert rooms == {path.split("/")[0] for path in named} & rooms


def test_files_and_functions_that_contributing_names_are_there():
    text = read("CONTRIBUTING.md")
    paths = re.findall(r"`((?:recipe|tests|docs|examples|requirements|\.ci|\.github)/[\w/.]+)`", text)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


# ---------------------------------------------------------------- CHANGELOG.md, CITATION.cff


def test_one_version():
    newest = re.findall(r"^## \[(\d\S*)\]", read("CHANGELOG.md"), re.M)[0]
    assert newest == project()["version"] == loaded(ROOT / "CITATION.cff")["version"]


def test_the_changelog_keeps_the_form():
    """keepachangelog.com 1.1.0: Unreleased first, then versions with their date; known headings alone."""
    text = read("CHANGELOG.md")
    assert re.findall(r"^## (.*)$", text, re.M)[0] == "[Unreleased]"
    for heading in re.findall(r"^## (.*)$", text, re.M)[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading), heading
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds


def test_what_the_changelog_says_moved_has_moved():
    rows = re.findall(r"^\| `(recipe\.egrsd[\w.]*)` \| (.*) \|$", read("CHANGELOG.md"), re.M)
    assert rows
    for old, new in rows:
        assert all(find_spec(name) for name in re.findall(r"`([\w.]+)`", new)), new
        # evaluate, rollout, … are rooms now, whose __init__.py holds no code
        found = find_spec(old) if find_spec(old.rpartition(".")[0]) else None
        assert found is None or found.submodule_search_locations, old


def test_the_citation_names_software_and_paper():
    citation = loaded(ROOT / "CITATION.cff")
    assert citation["license"] == project()["license"]
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    (paper,) = citation["references"]
    number = "2605.13255"
    assert paper["url"] == f"https://arxiv.org/abs/{number}"
    assert paper["identifiers"] == [{"type": "doi", "value": f"10.48550/arXiv.{number}"}]
    assert number in read("README.md")


# ---------------------------------------------------------------- hooks and workflow


def test_the_hooks_have_the_pinned_ruff_and_the_rest_is_make_lint():
    ruff, local = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert ruff["repo"].endswith("/ruff-pre-commit")
    assert f"=={ruff['rev'].removeprefix('v')}" == str(PINNED["ruff"].specifier)
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    (hook,) = local["hooks"]
    assert (hook["entry"], hook["stages"]) == ("make lint", ["pre-push"])


def test_the_workflow_runs_what_a_merge_must_pass():
    """.ci/run and nothing else, on the Pythons of requirements/; actions by commit, their version beside it."""
    (path,) = (HOST / "workflows").glob("*.yml")
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert {"push", "pull_request"} <= workflow[True].keys()  # YAML 1.1 reads `on` as true
    (job,) = workflow["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in re.findall(r"\(3, (\d+)\)", read("Makefile"))]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    actions = re.findall(r"uses: (\S+)(.*)", path.read_text())
    for action, comment in actions:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r"  ?# v\d+\.\d+\.\d+", comment), action
    assert len(actions) == sum("uses" in step for step in job["steps"])


# ---------------------------------------------------------------- what a reporter is asked for


@pytest.mark.parametrize("path", [path for path in FORMS if path.name != "config.yml"], ids=lambda path: path.name)
def test_a_form_is_one_that_the_host_shows(path):
    form = loaded(path)
    assert form.keys() <= {"name", "description", "title", "labels", "body"}
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert ("value" in field["attributes"]) if field["type"] == "markdown" else field["attributes"]["label"]
    identifiers = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(set(identifiers)) == len(identifiers)


def test_a_report_of_a_fault_brings_the_doctors_output():
    form = loaded(HOST / "ISSUE_TEMPLATE" / "bug.yml")
    fields = {field["id"]: field for field in form["body"] if field["type"] != "markdown"}
    assert fields["doctor"]["validations"] == {"required": True}
    (module,) = re.findall(r"`python -m (recipe\.egrsd\.\w+) …`", fields["doctor"]["attributes"]["description"])
    assert find_spec(f"{module}.__main__")
    assert loaded(HOST / "ISSUE_TEMPLATE" / "config.yml")["blank_issues_enabled"] is False


def test_a_pull_request_shows_its_red_line():
    text = (HOST / "pull_request_template.md").read_text()
    assert "red" in text and "CHANGELOG.md" in text
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= targets()


# ---------------------------------------------------------------- SECURITY.md


def test_the_security_page_has_its_parts():
    headings = re.findall(r"^## (.*)$", read("SECURITY.md"), re.M)
    assert headings[:2] == ["What is trusted", "Threats"]
    assert headings[2].startswith("Three facts about verl")
    assert headings[-1] == "Reporting"
    facts = read("SECURITY.md").split(f"## {headings[2]}")[1].split("\n## ")[0]
    assert re.findall(r"^(\d)\. \*\*", facts, re.M) == ["1", "2", "3"]


def test_nothing_here_names_the_workplace():
    files = [path for path in HOST.rglob("*") if path.is_file()]
    for path in [*files, ROOT / "CITATION.cff", ROOT / ".pre-commit-config.yaml", ROOT / ".ci" / "run"]:
        assert not re.search(r"/(work|root|farm)/", path.read_text()), path
