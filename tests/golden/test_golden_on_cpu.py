"""The comparison itself: what it says of a difference, what it leaves alone when it renews."""

import math

import pytest
from golden import ABSENT, SHOWN_LINES, Golden, delta, flat, read
from omegaconf import OmegaConf

VALUES = {
    "a.b": 1e-06,
    "c": [1, "x: y", None],
    "d": "null",
    "e": "...",
    "f": "a = ...",
    "g": {},
    "h": "1",
    "i": "#",
    "é": "",
}


@pytest.fixture
def renewed(tmp_path) -> Golden:
    Golden(renew=True, folder=tmp_path)("file.yaml", "section: one", VALUES)
    return Golden(renew=False, folder=tmp_path)


def test_what_is_written_is_read(renewed):
    assert read(renewed.folder / "file.yaml") == {"section: one": VALUES}
    renewed("file.yaml", "section: one", VALUES)
    lines = (renewed.folder / "file.yaml").read_text().splitlines()
    assert len(lines) == 3 + len(VALUES)  # a comment, an empty line, the section; one line for each key


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"a.b": 2e-06}, ["- a.b: 1.0e-06", "+ a.b: 2.0e-06"]),
        ({"h": 1}, ["- h: '1'", "+ h: 1"]),
        ({"new": True}, ["+ new: true"]),
        (
            {str(i): i for i in range(30)},
            [*(f"+ {i}: {i}" for i in sorted(map(str, range(30)))[:20]), "... and 10 lines more"],
        ),
    ],
)
def test_a_difference_is_a_few_lines_and_names_the_command(renewed, change, lines):
    with pytest.raises(pytest.fail.Exception) as failed:
        renewed("file.yaml", "section: one", VALUES | change)
    head, *shown = str(failed.value).splitlines()
    assert "file.yaml, section: one" in head and head.endswith("make golden")
    assert shown == lines and len(shown) <= SHOWN_LINES + 1


def test_a_key_or_a_section_that_is_missing_fails(renewed):
    with pytest.raises(pytest.fail.Exception, match=r"- g: \{\}"):
        renewed("file.yaml", "section: one", {key: value for key, value in VALUES.items() if key != "g"})
    with pytest.raises(pytest.fail.Exception, match="make golden"):
        renewed("file.yaml", "another", {})
    with pytest.raises(pytest.fail.Exception, match="section: one"):
        renewed.only("file.yaml", [])


def test_renewing_leaves_what_is_the_same_within_the_tolerance(tmp_path):
    def same(one: float, other: float) -> bool:
        return math.isclose(one, other, abs_tol=0.1)

    renew = Golden(renew=True, folder=tmp_path)
    renew("file.yaml", "step 1", {"a": 1.0, "b": 1.0, "gone": 1.0})
    renew("file.yaml", "step 1", {"a": 1.05, "b": 1.5}, same=same)
    renew("file.yaml", "step 2", {})
    assert read(tmp_path / "file.yaml") == {"step 1": {"a": 1.0, "b": 1.5}, "step 2": {}}
    renew.only("file.yaml", ["step 1"])
    assert read(tmp_path / "file.yaml").keys() == {"step 1"}


def test_a_config_is_flat_and_a_delta_says_what_is_absent():
    base = flat(OmegaConf.create({"a": {"b": 1, "c": "${a.b}"}, "filled": {}, "gone": 2}))
    assert base == {"a.b": 1, "a.c": 1, "filled": {}, "gone": 2}
    now = flat(OmegaConf.create({"a": {"b": 3, "c": "${a.b}"}, "filled": {"d": 4}}))
    assert delta(now, base) == {"a.b": 3, "a.c": 3, "filled.d": 4, "gone": ABSENT}
