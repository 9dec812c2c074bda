"""The paper's mechanism from saved tokens: against loops over real files, and by hand."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_runs import write_tokens

from recipe.egrsd.report import figures, mechanism, page
from recipe.egrsd.report.runs import Run, read_run

SCALE = 2.6


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    for step in (1, 10):
        write_tokens(folder, step)
    return read_run(folder, "run")


@pytest.fixture(scope="module")
def rows(run) -> list[dict]:
    return [row for step in run.tokens.values() for row in step]


def made_up(**columns) -> Run:
    """One response of step 1, every column a list over its tokens."""
    number = len(columns["teacher_entropy"])
    names = ("teacher_mask", "token_weight", "ratio_weight", "gate", "gate_without_lookahead")
    defaults = {name: [1.0] * number for name in names}
    log_probs = {"teacher_log_probs": [0.0] * number, "student_log_probs": [0.0] * number}
    row = {"entropy_scale": 2.0, **defaults, **log_probs, **columns}
    return Run("run", {}, [], {1: [row]}, {"window": 0, "clip_range": 0.2}, [])


def test_tenths_by_hand():
    """20 tokens, entropies 19 ... 0 and distances 19 ... 0 tenths: the first tenth holds entropies 0 and 1."""
    entropy = [float(h) for h in range(19, -1, -1)]
    weights = {"ratio_weight": [1.2 if h < 2 else 0.8 if h > 17 else 1.0 for h in entropy]}
    tokens = mechanism.sampled(
        made_up(teacher_entropy=entropy, student_log_probs=[-h / 10 for h in entropy], **weights)
    )
    tenths = mechanism.of_tenths(tokens, clip_range=0.2)
    assert [row["entropy"] for row in tenths] == [2 * i + 0.5 for i in range(10)]
    assert [row["distance"] for row in tenths] == pytest.approx([0.2 * i + 0.05 for i in range(10)])
    assert [row["clipped_high"] for row in tenths] == [1.0, *[0.0] * 9]
    assert [row["clipped_low"] for row in tenths] == [*[0.0] * 9, 1.0]
    assert [row["ratio_weight"] for row in tenths] == pytest.approx([1.2, *[1.0] * 8, 0.8])
    assert {row["clipped_low"] for row in mechanism.of_tenths(tokens, clip_range=0.0)} == {None}


def test_kinds_by_hand():
    """Scale 2, W 3 (the run's own is 0): bounds .02 and .34 nats; the median is .5, the 70th percentile .9 nats."""
    entropy = [0.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.02, 0.5, 0.1, 0.5]
    restored = [0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0]
    run = made_up(teacher_entropy=entropy, gate=restored, gate_without_lookahead=[0.0] * 10)
    found = mechanism.kinds(mechanism.sampled(run))
    # token 1 sees .9 .9 .9 ahead: fork; 2 also; 3 sees token 6 (.02): pivot, as 4, 5; 7 sees .1 .5: neither; 9 ends
    assert [found["fixed"][kind]["share"] for kind in ("lock", "fork", "pivot", "mid")] == [0.2, 0.3, 0.3, 0.2]
    assert found["fixed"]["pivot"]["restored"] == pytest.approx((0.2 + 0.3 + 0.4) / 3)
    assert found["fixed"]["mid"]["restored"] == 0.0
    # sorted: 0 .02 .1 .5 .5 .9 .9 .9 .9 .9; the median (.5 + .9) / 2 = .7; the 70th .9
    shares = [found["percentiles"][kind]["share"] for kind in ("lock", "fork", "pivot", "mid")]
    assert shares == [0.5, 0.2, 0.3, 0.0]
    assert found["percentiles"]["mid"]["restored"] is None


def test_tenths_are_those_of_a_loop(run, rows):
    tokens = [
        (row["teacher_entropy"][t], abs(row["teacher_log_probs"][t] - row["student_log_probs"][t]), row["gate"][t])
        for row in rows
        for t in range(len(row["mask"]))
        if row["mask"][t]
    ]
    tokens.sort(key=lambda token: token[0])
    tenths = mechanism.of_tenths(mechanism.sampled(run), clip_range=0.2)
    size, more = divmod(len(tokens), 10)
    start = 0
    for i, found in enumerate(tenths):
        part = tokens[start : start + size + (i < more)]
        start += len(part)
        assert found["entropy"] == pytest.approx(sum(token[0] for token in part) / len(part), abs=1e-6)
        if part[0][0] > 0.001:  # equal entropies stand in the order of the files, here and there
            assert found["distance"] == pytest.approx(sum(token[1] for token in part) / len(part), abs=1e-6)
            assert found["gate"] == pytest.approx(sum(token[2] for token in part) / len(part), abs=1e-6)
    assert start == len(tokens) == len(mechanism.sampled(run))


@pytest.mark.parametrize("bounds", ["fixed", "percentiles"])
def test_kinds_are_those_of_a_loop(bounds, run, rows):
    """W 3; what is masked is skipped."""
    nows = [row["teacher_entropy"][t] / SCALE for row in rows for t in range(len(row["mask"])) if row["mask"][t]]
    high, low = (0.17, 0.01) if bounds == "fixed" else np.percentile(nows, [70, 50])
    counts, restored = dict.fromkeys(("mid", "lock", "fork", "pivot"), 0), 0.0
    for row in rows:
        entropy = [h / SCALE if h is not None else None for h in row["teacher_entropy"]]
        for t, now in enumerate(entropy):
            if not row["mask"][t]:
                continue
            ahead = min(h for h, real in zip(entropy[t : t + 4], row["mask"][t : t + 4], strict=True) if real)
            kind = "lock" if now <= low else "mid"
            if low < now >= high:
                kind = "fork" if ahead >= high else "pivot" if ahead <= low else "mid"
            counts[kind] += 1
            restored += (row["gate"][t] - row["gate_without_lookahead"][t]) * (kind == "pivot")
    shown = page._kinds(run)
    assert shown["total"] == sum(counts.values()) and counts["lock"] and counts["pivot"]
    assert {kind: own["share"] for kind, own in shown[bounds].items()} == pytest.approx(
        {kind: number / shown["total"] for kind, number in counts.items()}
    )
    assert shown[bounds]["pivot"]["restored"] == pytest.approx(restored / counts["pivot"])


DIVERGENCE = {"divergence": "forward_kl", "gamma": 0.0, "window": 0, "clip_range": 0.0, "length_bonus": 0.0}


def test_tokens_that_no_teacher_has_scored_are_left_out(tmp_path):
    """As ssopd saves a group: 20 tokens of one response are pulled and scored, and all have a teacher's prompt."""
    write_tokens(tmp_path, 1, scored=[20, 0, 0, 0], **DIVERGENCE)
    run = read_run(tmp_path, "run")
    tokens, row = mechanism.sampled(run), run.tokens[1][0]
    assert all(row["teacher_prompt"] for row in run.tokens[1]) and len(tokens) == page._kinds(run)["total"] == 20
    distances = [abs(t - s) for t, s in zip(row["teacher_log_probs"][:20], row["student_log_probs"], strict=False)]
    assert sorted(tokens["distance"]) == pytest.approx(sorted(distances))
    shown = page._tokens(run)["steps"][0]["responses"]
    assert [sum(kind is not None for kind in response["kind"]) for response in shown] == [20, 0, 0, 0]
    assert [sum(response["teacher_mask"]) for response in shown] == [20, 0, 0, 0]


def test_a_run_of_which_no_token_is_scored_draws_nothing(tmp_path):
    """As ogls_sd: what several readings make together has no log-probs before the update."""
    write_tokens(tmp_path, 1, scored=[0, 0, 0, 0], **DIVERGENCE)
    run = read_run(tmp_path, "run")
    assert mechanism.tenths([run]) == {} and len(mechanism.sampled(run)) == 0
    assert mechanism.kinds(mechanism.sampled(run))["fixed"]["lock"] == {"share": None, "restored": None}
    assert "no log-probs before the update" in page.render([run], {"run": []})


def test_files_without_the_teachers_mask_are_read_as_before(tmp_path):
    """Every sampled token of a response that has a teacher's prompt."""
    path = write_tokens(tmp_path, 1)
    table, taught = pq.read_table(path), len(mechanism.sampled(read_run(tmp_path, "run")))
    prompts = table["teacher_prompt"].to_pylist()
    place, without = table.schema.get_field_index("teacher_prompt"), ["", *prompts[1:]]
    old = table.drop_columns(["teacher_mask"]).set_column(place, "teacher_prompt", pa.array(without))
    pq.write_table(old, path)
    run = read_run(tmp_path, "run")
    assert len(mechanism.sampled(run)) == taught - len(run.tokens[1][0]["tokens"])
    assert [any(row["teacher_mask"]) for row in run.tokens[1]] == [False, True, True, True]


def test_few_tokens_leave_tenths_empty():
    tenths = mechanism.tenths([made_up(teacher_entropy=[0.1, 0.2, 0.3])])["run"]
    assert [row["entropy"] for row in tenths[:3]] == pytest.approx([0.1, 0.2, 0.3])
    assert {row[name] for row in tenths[3:] for name in row} == {None}
    assert figures.svg((12, 4), figures.mechanism, {"run": tenths}).startswith("<svg")


def test_the_page_shows_it_beside_the_papers(run):
    text = page.render([run], {"run": []})
    section = text[text.index('<section id="mechanism">') : text.index('<section id="leakage">')]
    assert "0.00237 nats in the first tenth, 0.329 in the last" in section
    assert section.count("<tr><th scope=") == 10 + 4
    cells = {kind: re.findall(r"<td[^>]*>([^<]*)</td>", section.split(f'">{kind}<')[1]) for kind in ("lock", "pivot")}
    assert cells["lock"][5:9] == ["–", "–", "50.0 %", "+0.001"]  # behind its meaning and the four of the run
    assert cells["pivot"][5:9] == ["–", "–", "20.9 %", "+0.111"]
