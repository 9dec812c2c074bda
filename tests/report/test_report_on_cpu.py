"""The report on made-up runs: what it reads, which checkpoints it may choose, what it shows, and that no text breaks
out."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_up_runs import HOSTILE, write_evaluation, write_metrics, write_run, write_tokens
from matplotlib.figure import Figure

from recipe.egrsd.report import figures, leakage, page
from recipe.egrsd.report.__main__ import main
from recipe.egrsd.report.runs import Estimate, named, read_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "cl_egrsd"), write_run(folder / "b $x_1$ <b>&", shift=0.02)]


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


# ---------------------------------------------------------------- the page


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


# ---------------------------------------------------------------- what is read


def test_the_checkpoint_is_chosen_by_validation_or_age_never_by_benchmark(folders):
    run = read_run(folders[0], "run")
    chosen = run.chosen()
    assert {rule: e.step for rule, e in chosen.items()} == {"last": 30, "validation": 20}  # 20 and 30 validate alike
    assert run.validation == {10: 0.4, 20: 0.6, 30: 0.6}
    assert {row["evaluation"].step for row in page._evaluations([run])} == {None, 20, 30}


def test_without_validation_the_last_one_is_the_only_choice(tmp_path):
    write_evaluation(tmp_path / "100", 100, 0.5, 9000.0)
    write_evaluation(tmp_path / "25", 25, 0.9, 9000.0)
    assert {rule: e.step for rule, e in read_run(tmp_path, "run").chosen().items()} == {"last": 100}


def test_evaluations_of_either_form(tmp_path):
    benchmarks = {"a": {"avg": 0.5, "se": 0.3, "tokens_mean": 10}, "b": {"avg": 1.0, "se": 0.4, "tokens_mean": 30.0}}
    folder = tmp_path / "global_step_7"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"benchmarks": benchmarks}))
    (evaluation,) = read_run(tmp_path, "run").evaluations
    assert (evaluation.step, evaluation.accuracy, evaluation.tokens) == (7, Estimate(0.75, 0.25), Estimate(20.0, None))


def test_the_step_of_an_adapter_is_that_of_its_checkpoint(tmp_path):
    """Its model is the untrained one if it was named with --base."""
    write_evaluation(tmp_path / "evaluated", None, 0.5, 9000.0)
    path = tmp_path / "evaluated" / "results.json"
    adapter = "run/checkpoints/global_step_75/actor/merged/lora_adapter"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"adapter": adapter}))
    assert list(read_run(tmp_path, "run").checkpoints) == [75]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"benchmarks": {}}', '{"benchmarks": {"a": {"avg": "high", "tokens_mean": 1}}}']
)
def test_a_broken_evaluation_is_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is no evaluation: .*; move it away or evaluate again"):
        read_run(tmp_path, "run")


def test_two_of_a_kind_are_refused(tmp_path):
    write_evaluation(tmp_path / "a", 25, 0.5, 9000.0)
    write_evaluation(tmp_path / "b", 25, 0.9, 9000.0)
    with pytest.raises(ValueError, match=r"a/results\.json and .*b/results\.json both evaluate step 25; move one"):
        read_run(tmp_path, "run")
    write_tokens(tmp_path / "c" / "one", 1)
    write_tokens(tmp_path / "c" / "two", 1)
    with pytest.raises(ValueError, match="holds the tokens of several runs"):
        read_run(tmp_path / "c", "run")


def test_a_torn_line_is_said_and_the_rest_is_read(tmp_path):
    write_metrics(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 31, "da')
    run = read_run(tmp_path, "run")
    assert len(run.metrics) == 30 and run.remarks == ["metrics.jsonl: line(s) [31] are no metrics and were left out"]


def test_a_later_file_wins(tmp_path):
    (tmp_path / "metrics").mkdir()
    for number, values in enumerate(({1: 0.1, 2: 0.2}, {2: 0.5, 3: None})):
        lines = [json.dumps({"step": step, "data": {"egrsd/gate_mean": value}}) for step, value in values.items()]
        (tmp_path / "metrics" / f"{number:03d}.jsonl").write_text("\n".join(lines))
    assert read_run(tmp_path, "run").metrics == {1: {"egrsd/gate_mean": 0.1}, 2: {"egrsd/gate_mean": 0.5}, 3: {}}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="holds no metrics"):
        main([str(tmp_path)])
    with pytest.raises(SystemExit, match="is not a folder"):
        main([str(tmp_path / "nowhere")])


def test_parts_may_be_missing(tmp_path):
    write_metrics(tmp_path / "metrics_only")
    write_tokens(tmp_path / "tokens_only", 1, window=0)
    write_evaluation(tmp_path / "evaluation_only", None, 0.6, 9000.0, se=None)
    for folder in list(tmp_path.iterdir()):
        main([str(folder), "--out", str(tmp_path / f"{folder.name}.html")])
        assert "</html>" in (tmp_path / f"{folder.name}.html").read_text()


def test_equal_names_are_told_apart():
    names = [name for _, name in named([Path("/a/run"), Path("/b/run"), Path("/c")])]
    assert names == ["/a/run", "/b/run", "c"]


# ---------------------------------------------------------------- figures and leakage


def test_what_is_shaded_is_the_healthy_range(folders):
    figure = Figure()
    figures.one_curve(figure, [read_run(folders[0], "run")], "egrsd/truncated_frac")  # healthy: 0 ... 0.5
    (axis,) = figure.axes
    (shade,) = axis.patches
    bottom, top = axis.get_ylim()
    assert (shade.get_y(), shade.get_y() + shade.get_height()) == (bottom, pytest.approx(0.5)) and bottom < 0.5 < top


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


def row(response: str, solution: str | None, prompt: str = "What is 1 + 1?") -> dict:
    return {"tokens": [response], "solution": solution, "prompt": prompt}


def test_overlap_counts_the_own_reference_against_the_others():
    poem = "the quick brown fox jumps over the lazy dog and then it sleeps"
    other = "a completely different text about nothing that anybody would want to read here"
    audit = leakage.audit([row(f"I say {poem}", poem), row("one two three four five six seven eight nine", other)], 5)
    assert audit.own.mean == pytest.approx(8 / 10 / 2) and audit.others.mean == 0
    assert audit.longest.mean == pytest.approx(13 / 2) and (audit.step, audit.num_responses) == (5, 2)


def test_words_of_the_problem_do_not_count():
    poem = "the quick brown fox jumps over the lazy dog"
    audit = leakage.audit([row(poem, poem, prompt=f"Translate: {poem}")], 1)
    assert audit.own.mean is None and audit.phrases.mean == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("According to the reference solution, x = 3", 1), ("As stated in the solution we get 5", 1),
        ("The solution says 4", 1), ("I was given the answer 7.", 1),
        ("the answer key has 9; the ground truth is 9", 2), ("So the solution is 4.", 0),
        ("We check the answer: 5 is right.", 0), ("my solution shows that", 0), ("the preference solution", 0),
    ],
)  # fmt: skip
def test_phrases_that_speak_of_a_reference(text, found):
    assert len(leakage.telling_phrases(text, "Solve.")) == found
    assert leakage.telling_phrases(text, f"Solve. {text}") == []


def test_the_phrase_is_quoted_and_escaped(report):
    assert "According to the reference solution &lt;b&gt;x&lt;/b&gt; is 57." in report.read_text()
