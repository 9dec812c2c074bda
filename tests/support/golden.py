"""What the code gave when somebody last looked, committed in tests/golden; ``make golden`` writes it anew.

A file has sections, each compared by a test of its own; a section has one line for each key, so that a line of a diff
says by itself what it is about.
"""

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_changes import differing, leaves
from omegaconf import DictConfig, OmegaConf
from runs import ROOT

FOLDER = ROOT / "tests" / "golden"
COMMAND = "make golden"
ABSENT = "(absent)"
SHOWN_LINES = 20
Section = Mapping[str, Any]
Same = Callable[[Any, Any], bool]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of that file; none if it is not there."""
    return (yaml.load(path.read_text(), yaml.CSafeLoader) or {}) if path.exists() else {}


@dataclass(frozen=True)
class Golden:
    """Compares, or renews."""

    renew: bool
    folder: Path = FOLDER

    def __call__(self, name: str, section: str, now: Section, *, same: Same = operator.eq) -> None:
        """Fails with the difference; a value that is the same, within a tolerance perhaps, is renewed by itself."""
        sections = read(self.folder / name)
        stored = sections.get(section, {})
        lines = difference(stored, now, same=same)
        if self.renew:
            kept = {key: stored[key] for key in stored.keys() & now.keys() if same(stored[key], now[key])}
            write(self.folder / name, sections | {section: {**now, **kept}})
        elif section not in sections or lines:
            head = f"tests/golden/{name}, {section}: - is what it says, + what the code gives; if + is meant: {COMMAND}"
            pytest.fail(f"{head}\n{lines}", pytrace=False)

    def only(self, name: str, sections: Collection[str]) -> None:
        """Fails if the file has other sections than these."""
        stored = read(self.folder / name)
        if self.renew:
            write(self.folder / name, {section: stored[section] for section in sections if section in stored})
        elif stored.keys() != set(sections):
            others = sorted(stored.keys() ^ set(sections))
            pytest.fail(f"tests/golden/{name}: left over, or missing: {others}; to mend it: {COMMAND}", pytrace=False)


def difference(stored: Section, now: Section, *, same: Same = operator.eq) -> str:
    """A line for each key and side, the first SHOWN_LINES of them; empty if all values are the same."""
    lines = []
    for key in sorted(stored.keys() | now.keys()):
        if key in stored and key in now and same(stored[key], now[key]):
            continue
        lines += [f"- {key}: {_scalar(stored[key])}"] if key in stored else []
        lines += [f"+ {key}: {_scalar(now[key])}"] if key in now else []
    more = [f"... and {len(lines) - SHOWN_LINES} lines more"] if len(lines) > SHOWN_LINES else []
    return "\n".join([*lines[:SHOWN_LINES], *more])


def write(path: Path, sections: Mapping[str, Section]) -> None:
    """All sections, sorted; one key a line."""
    lines = [f"# Written by `{COMMAND}` from what the code gives; the tests in this folder compare."]
    for section in sorted(sections):
        lines.append(f"\n{_scalar(section)}:" + " {}" * (not sections[section]))
        lines += [f"  {_scalar(key)}: {_scalar(value)}" for key, value in sorted(sections[section].items())]
    path.write_text("\n".join(lines) + "\n")


def flat(config: DictConfig) -> dict[str, Any]:
    """The values of a config by their dotted keys, interpolations resolved. Lists and empty nodes are values."""
    config = config.copy()
    OmegaConf.resolve(config)
    return leaves(OmegaConf.to_container(config))


def delta(values: Section, base: Section) -> dict[str, Any]:
    """What is not as in the base. A node that is empty there is not missed where it has keys."""
    changed = differing(values, base)
    filled = {key.rpartition(".")[0] for key in changed}
    return changed | dict.fromkeys(base.keys() - values.keys() - filled, ABSENT)


def _scalar(value: Any) -> str:
    """A value as YAML of one line."""
    text = yaml.dump(value, Dumper=yaml.CSafeDumper, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return text.removesuffix("\n...\n").rstrip("\n")
