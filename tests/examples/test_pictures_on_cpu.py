"""The pictures of README.md: small, there, and made by the command that docs/pictures.py names."""

import json
import shutil

import pytest
from made_up_runs import write_run
from runs import ROOT

from recipe.egrsd.report.__main__ import main as report
from recipe.egrsd.report.runs import read_run

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from PIL import Image

from docs import pictures


def test_the_committed_pictures_are_small():
    for name in ("training.png", "tokens.png"):
        assert f"(docs/{name})" in (ROOT / "README.md").read_text()
        assert (ROOT / "docs" / name).stat().st_size < 150_000


def test_the_first_wrong_response_at_its_most_disputed_token():
    rows = [
        {"reward": 1.2, "teacher_log_probs": [-9.0], "student_log_probs": [-0.1]},
        {"reward": 0.0, "teacher_log_probs": [None, -0.1, -3.0, -0.5], "student_log_probs": [-9.0, -0.2, -0.5, -1.0]},
    ]
    assert pictures.chosen(rows) == (1, 2)  # |-3.0 + 0.5| = 2.5 is the largest; the first token has no teacher's score


def test_a_run_without_a_wrong_response_is_told_the_way_out():
    with pytest.raises(SystemExit, match=r"none of the first 4 saved responses .* is wrong; .*make demo SEED="):
        pictures.chosen([{"reward": 1.2}] * 4 + [{"reward": 0.0}])


@pytest.mark.skipif(shutil.which(pictures.BROWSER) is None, reason=f"{pictures.BROWSER} is not installed")
def test_the_pictures_of_a_run(tmp_path):
    run, out = write_run(tmp_path / "run"), tmp_path / "docs"
    out.mkdir()
    (run / "metrics").mkdir()
    (run / "metrics.jsonl").rename(run / "metrics" / "000.jsonl")
    summary = {"accuracy_before": 0.5, "accuracy_after": 0.8, "title": "cl_egrsd, seed 0"}
    (run / "summary.json").write_text(json.dumps(summary))
    report([str(run), "--out", str(run / "report.html")])
    pictures.main(run, out)
    for name, wide in (("training.png", 1560), ("tokens.png", pictures.WIDTH - 48)):
        with Image.open(out / name) as image:
            assert image.mode == "P" and image.size[0] == wide and image.size[1] > 300
    assert pictures.chosen(read_run(run, "run").tokens[1])[0] == 1
