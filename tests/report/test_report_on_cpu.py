"""The report's page on made-up runs: what it shows, its curves, and that no text breaks out."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_up_runs import HOSTILE, write_evaluation, write_metrics, write_tokens
from matplotlib.figure import Figure

from recipe.egrsd.report import figures, leakage, page
from recipe.egrsd.report.__main__ import main
from recipe.egrsd.report.runs import Estimate, Evaluation, Run, read_run


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    main([*map(str, folders), "--out", str(out)])
    return out


class Page(HTMLParser):
    """Start tags with their attributes, and the text of each script."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.scripts, self.open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.open == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self.open = None


def test_the_page_needs_no_other(report):
    parsed = Page(report.read_text())
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not any(name.startswith("on") or name == "src" for name in attributes), (tag, attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), attributes
    assert "url(http" not in report.read_text() and "@import" not in report.read_text()
    assert [path.name for path in sorted(report.parent.iterdir())] == [
        "report.html", "report_frontier.png", "report_leakage.png", "report_mechanism.png", "report_training.png"
    ]  # fmt: skip


def test_no_text_breaks_out(report):
    parsed = Page(report.read_text())
    data, script = parsed.scripts  # a third one would be a model's
    assert script == (Path(page.__file__).with_name("tokens.js")).read_text()
    assert not set("<>&\u2028") & set(data)
    last = json.loads(data)[0]["steps"][0]["responses"][3]
    assert last["tokens"] == HOSTILE
    assert "$x_1$" in report.read_text() and "<b>&</text>" not in report.read_text()


def test_the_numbers_are_those_of_the_files(report, folders):
    for run, folder in zip(json.loads(Page(report.read_text()).scripts[0]), folders, strict=True):
        assert [step["step"] for step in run["steps"]] == [1, 10, 20, 30]
        for step in run["steps"]:
            rows = pq.read_table(folder / f"checkpoints/tokens/step_{step['step']}.parquet").to_pylist()
            for shown, row in zip(step["responses"], rows, strict=True):
                for name in page.PER_TOKEN:
                    for a, b in zip(shown[name], row[name], strict=True):
                        assert a == b or (a is None and math.isnan(b)) or abs(a - b) <= 0.5 * 10**-page.DIGITS, name
    assert run["steps"][0]["responses"][1]["teacher_entropy"][6] is None  # JSON knows no NaN


def test_metrics_outside_their_range_are_named(folders):
    found = page._outside([read_run(folders[0], "run")])
    assert [(row["metric"], len(row["steps"]), row["of"]) for row in found] == [("egrsd/truncated_frac", 18, 30)]


def test_a_baseline_that_has_seen_no_reward_is_not_outside_its_range():
    metrics = {1: {"egrsd/baseline_std": 0.0}, 2: {"egrsd/baseline_std": 0.5}}
    run = Run("run", metrics, [], {}, {}, [])
    assert page._outside([run]) == []
    metrics[2]["egrsd/baseline_std"] = 0.0
    assert [(row["steps"], row["of"]) for row in page._outside([run])] == [([2], 1)]


@pytest.mark.parametrize("names", [figures.PAPER["columns"][:-2], ["addition"]])
def test_the_papers_points_are_drawn_beside_its_own_benchmarks_alone(names):
    """A mean over other benchmarks, of answers of 50 tokens, is no figure to stand beside 11,000."""
    known = {name.lower(): (Estimate(0.5), Estimate(50.0)) for name in names}
    run = Run("run", {}, [Evaluation(None, "model", Estimate(0.5), Estimate(50.0), known)], {}, {}, [])
    figure = Figure()
    figures.frontier(figure, [run])
    papers = len(names) == 6
    assert len(figure.axes) == (2 if papers else 1)
    assert ("these means are not the same figure" in page.render([run], {"run": []})) == (not papers)


def test_a_weight_of_the_users_own_has_no_gate_to_show(tmp_path):
    """Its columns are null, the kinds are the teacher's all the same, and the page says whose weight it is."""
    own = tmp_path / "my_weights.py"
    own.write_text("def one(student, teacher, entropy, advantages, mask):\n    return 0 * entropy.nan_to_num() + 1\n")
    write_tokens(tmp_path / "own", 1, token_weight=f"{own}:one")
    run = read_run(tmp_path / "own", "own")
    (step,) = page._tokens(run)["steps"]
    for response in step["responses"]:
        assert response["gate"] is response["gate_without_lookahead"] is response["ratio_weight"] is None
        assert set(response["token_weight"]) <= {1.0}
    for bounds in ("fixed", "percentiles"):
        kinds = page._kinds(run)[bounds]
        assert sum(kind["share"] for kind in kinds.values()) == pytest.approx(1)
        assert {kind["restored"] for kind in kinds.values()} == {None}
    assert f'<td title="{own}:one">one</td>' in page.render([run], {"own": []})  # a whole path is wider than the page


def test_many_steps_are_thinned_out_with_both_ends():
    assert page._spread(list(range(1, 101)), 8) == [1, 15, 29, 43, 58, 72, 86, 100]
    assert page._spread([3, 5], 8) == [3, 5]


def test_the_paper_stands_beside_us_by_name(report):
    text = report.read_text()
    assert "the paper" in text and "<td>77.08</td>" in text and "<td>44.58</td>" in text  # CL-EGRSD on aime24, HMMT25
    assert "these means are not the same figure" in text


def test_a_run_has_one_colour_throughout(tmp_path):
    """Also behind one of which there is less to show, as of the untrained model, which has no curves."""
    write_evaluation(tmp_path / "untrained" / "evaluated", None, 0.6, 9000.0)
    write_metrics(tmp_path / "trained")
    write_evaluation(tmp_path / "trained" / "evaluated", 30, 0.7, 9000.0)
    write_tokens(tmp_path / "trained", 30)
    runs = [read_run(tmp_path / name, name) for name in ("untrained", "trained")]
    audits = {run.name: [leakage.audit(rows, step) for step, rows in run.tokens.items()] for run in runs}
    assert '<p class="legend"><span><i class="line c1"></i>trained</span></p>' in page.render(runs, audits)
    pictures = figures.pictures(runs, audits)
    for name, labels in {
        "training": ["trained"],
        "leakage": ["trained: own reference", "other problems' references"],
    }.items():
        (legend,) = pictures[name].legends
        assert [text.get_text() for text in legend.get_texts()] == labels
        assert {line.get_color() for line in pictures[name].axes[0].lines} == {figures.COLORS[1]}


def test_what_is_shaded_is_the_healthy_range(folders):
    figure = Figure()
    figures.one_curve(figure, [read_run(folders[0], "run")], "egrsd/truncated_frac")  # healthy: 0 ... 0.5
    (axis,) = figure.axes
    (shade,) = axis.patches
    bottom, top = axis.get_ylim()
    assert (shade.get_y(), shade.get_y() + shade.get_height()) == (bottom, pytest.approx(0.5)) and bottom < 0.5 < top


def test_a_sum_of_floats_that_is_always_1_is_drawn_as_a_line(tmp_path):
    """As pull_weight_sum is: its eighth digit is rounding, to which no axis should be cut."""
    values = {1: 0.99999996, 2: 0.99999998}
    lines = [json.dumps({"step": step, "data": {"egrsd/gate_mean": value}}) for step, value in values.items()]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    figure = Figure()
    figures.one_curve(figure, [read_run(tmp_path, "run")], "egrsd/gate_mean")
    assert figure.axes[0].get_ylim() == pytest.approx((0.9, 1.1), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_are_whole_numbers(tmp_path, steps):
    write_metrics(tmp_path, steps)
    figure = Figure()
    figures.one_curve(figure, [read_run(tmp_path, "run")], "egrsd/gate_mean")
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())


def test_svg_takes_the_ink_of_the_page(folders):
    text = figures.svg((4, 2), figures.one_curve, [read_run(folders[1], "b $x_1$ <b>&")], "egrsd/gate_mean")
    assert (
        text.startswith("<svg")
        and "currentColor" in text
        and figures.INK_OF_SVG not in text
        and "<metadata" not in text
    )


def test_the_phrase_is_quoted_and_escaped(report):
    assert "According to the reference solution &lt;b&gt;x&lt;/b&gt; is 57." in report.read_text()
