"""A file's text as it stands in the folder ``recipe/egrsd`` of a verl checkout, into which everything moves."""

import os
import re
from collections.abc import Callable
from pathlib import PurePosixPath

FOLDER = "recipe/egrsd"
MOVED = "benchmarks|docs|examples|requirements|tests"
"""Top-level folders that become folders of ``recipe/egrsd``."""
PLUGIN = "recipe.egrsd.hydra_plugin"
LICENCE = """\
# Copyright {year} {owner}
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""


def moved_paths(text: str, path: str) -> str:
    """Modules, paths and the root of the repository, as ``path`` names them, seen from the root of a verl checkout.

    Comments in Python files name files of the folder by their place in it, so there only paths below ROOT change.
    """
    text = re.sub(r"(?<![\w.])examples\.(?=[a-z])", "recipe.egrsd.examples.", text)
    text = re.sub(r"^from (examples|benchmarks)(?=[ .])", r"from recipe.egrsd.\1", text, flags=re.MULTILINE)
    if not path.endswith(".py"):
        text = re.sub(rf"(?<![\w/.-])(?<!\]\()({MOVED})/(?=[\w{{]|`)", rf"{FOLDER}/\1/", text)
    text = re.sub(rf"ROOT / ([\"'])({MOVED})(?=[\"'/])", rf"ROOT / \1{FOLDER}/\2", text)
    text = text.replace("$HERE/../recipe", "$HERE/../../../recipe")
    if path.startswith(f"{FOLDER}/"):
        return text
    above = len(PurePosixPath(path).parts) - 1  # parents[above] is the root; two folders more lie between
    return text.replace(f".parents[{above}]", f".parents[{above + 2}]")


def moved_links(text: str, path: str, place: Callable[[str], str | None]) -> str:
    """Relative links of a page; one to a file that stays behind leaves its words.

    Args:
        text: of a markdown page.
        path: of that page in this repository.
        place: the path below ``recipe/egrsd`` that a file of this repository gets, or None.
    """
    here, there = os.path.dirname(path), os.path.dirname(place(path) or "")

    def link(match: re.Match) -> str:
        words, target, anchor = match.groups()
        if re.match(r"\w+:", target) or not target:
            return match[0]
        moved = place(os.path.normpath(os.path.join(here, target)))
        return f"[{words}]({os.path.relpath(moved, there or '.')}{anchor or ''})" if moved else words

    return re.sub(r"\[([^\]\[]*)\]\(([^)\s#]*)(#[^)\s]*)?\)", link, text)


def licensed(text: str, *, year: int, owner: str) -> str:
    """A Python or shell file with the header that verl-recipe's files begin with; ``#!…`` stays the first line."""
    first, rest = text.split("\n", 1) if text.startswith("#!") else ("", text)
    return (f"{first}\n" if first else "") + LICENCE.format(year=year, owner=owner) + rest


def plugged(text: str) -> str:
    """A script that starts verl, with the plugin named: there no package is installed that announces it to verl."""
    if "verl.trainer.main_ppo" not in text:
        return text
    named = f"export VERL_USE_EXTERNAL_MODULES={PLUGIN}${{VERL_USE_EXTERNAL_MODULES:+,$VERL_USE_EXTERNAL_MODULES}}"
    return text.replace("set -euo pipefail\n", f"set -euo pipefail\n{named}\n", 1)


def pytest_settings(text: str) -> str:
    """setup.cfg as ``tests/tox.ini``, from where a verl checkout's root is three folders up; verl-recipe ignores a
    pytest.ini."""
    text = text.replace("[tool:pytest]", "[pytest]").replace("testpaths = tests\n", "")
    return text.replace("pythonpath = . tests/support", "pythonpath = ../../.. support")
