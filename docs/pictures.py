"""The pictures of README.md from a finished `make demo`: docs/training.png and docs/tokens.png.

    make demo && .venv/bin/python -m docs.pictures outputs/tiny_cpu

tokens.png is the token view of the demo's report: of the first step the first response that earned nothing, coloured by
final weight, at the token on which teacher and student differ most. It needs chromium-headless-shell.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from examples.picture import draw
from examples.training import steps_of
from recipe.egrsd.report.page import SHOWN_RESPONSES
from recipe.egrsd.report.runs import read_run

BROWSER = "chromium-headless-shell"
WIDTH, HEIGHT = 900, 900
COLORS = 256


def chosen(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Response and token: the first response without a reward, and its largest |log p_T - log p_S|.

    Raises:
        SystemExit: if the page shows none; names the way out.
    """
    response = next((number for number, row in enumerate(rows[:SHOWN_RESPONSES]) if row["reward"] == 0), None)
    if response is None:
        sys.exit(
            f"none of the first {SHOWN_RESPONSES} saved responses of the first step is wrong; make demo SEED=1, or "
            "another seed, and name its folder."
        )
    row = rows[response]
    pairs = zip(row["teacher_log_probs"], row["student_log_probs"], strict=True)
    ratios = [0.0 if teacher is None else abs(teacher - student) for teacher, student in pairs]
    return response, ratios.index(max(ratios))


def photograph(report: Path, response: int, token: int, path: Path) -> None:
    """The token view of the first saved step, without the prompts below it."""
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which(BROWSER), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.add_style_tag(content="#view details { display: none } #view { padding: 8px }")
        page.select_option("#response", str(response))
        page.check("input[value=weight]")
        page.locator("#text span").nth(token).hover()
        page.locator("#view").screenshot(path=path)
        browser.close()


def shrink(path: Path) -> None:
    """Few colours: a picture in a repository is paid by everyone who clones it."""
    Image.open(path).convert("RGB").quantize(COLORS).save(path, optimize=True)


def main(run: Path, out: Path) -> None:
    training, tokens = out / "training.png", out / "tokens.png"
    draw(steps_of(run / "metrics"), json.loads((run / "summary.json").read_text()), training, rows=1)
    saved = read_run(run, run.name).tokens
    photograph(run / "report.html", *chosen(saved[min(saved)]), tokens)
    for path in (training, tokens):
        shrink(path)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
