"""The teacher's prompts with a slot for what a step brings: a peer's response, feedback, a guide."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from egrsd_dataset import dataset, shown
from rows import PROBLEMS, write

from examples.tiny_cpu.task import INSTRUCTION, reference_solution, verl_row
from recipe.egrsd.privilege.peers import spliced
from recipe.egrsd.privilege.prompts import SLOT


def test_a_peers_response_has_a_slot_where_the_solution_would_stand(tokenizer, tmp_path):
    """Splicing the solution's own ids gives the prompt that privilege=solution has, up to tokens across the border."""
    path = write(tmp_path / "rows.parquet")
    for privilege in ("peer_correct", "peer_wrong"):
        rows = dataset(tokenizer, path, privilege=privilege)
        texts = shown(tokenizer, path, "solution")
        for row, problem, text in zip(rows, PROBLEMS, texts, strict=True):
            frame = row["teacher_prompt_ids"]
            assert frame.count(SLOT) == 1
            ids = tokenizer.encode(reference_solution(problem), add_special_tokens=False)
            assert tokenizer.decode(spliced(frame, ids)) == text
    path = write(tmp_path / "rows.parquet", {2: {"solution": None}})
    assert len(dataset(tokenizer, path, privilege="peer_correct")) == 6  # no solution is needed


def test_the_answer_stands_before_a_peers_response_and_alone_without_one(tokenizer, tmp_path):
    path = write(tmp_path / "rows.parquet", {2: {"solution": None}})  # no solution is needed
    rows = dataset(tokenizer, path, privilege="answer_and_peer")
    peer = tokenizer.encode("7 + 5 = 12", add_special_tokens=False)
    for row, problem, text in zip(rows, PROBLEMS, shown(tokenizer, path, "answer_only"), strict=True):
        frame, answer = row["teacher_prompt_ids"], str(problem.answer)
        before, after = text.split(f"Solution:\n{answer}")
        assert tokenizer.decode(spliced(frame, [])) == f"{before}Solution:\n{answer}\n\n{after}"
        with_peer = tokenizer.decode(spliced(frame, peer))
        assert with_peer == f"{before}Solution:\n{answer}\n\n{tokenizer.decode(peer)}{after}"
    rows = pq.read_table(path).to_pylist()
    rows[3]["reward_model"]["ground_truth"] = None
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(ValueError, match=r"row 3: reward_model.ground_truth is None, expected the final answer"):
        dataset(tokenizer, path, privilege="answer_and_peer")


def test_feedback_has_a_slot_between_its_fences(tokenizer, tmp_path):
    path = write(tmp_path / "rows.parquet", {row: {"solution": None} for row in range(6)})
    knobs = {"privilege": "feedback", "template": None, "max_prompt_length": 450}
    frame = dataset(tokenizer, path, **knobs)[0]["teacher_prompt_ids"]
    text = tokenizer.decode(spliced(frame, tokenizer.encode("Carry the 1.", add_special_tokens=False)))
    assert f"user\n{PROBLEMS[0].question}\n\nAn earlier attempt" in text and text.endswith("assistant\n")
    assert "=== Feedback Begin ===\nCarry the 1.\n=== Feedback End ===\n" in text and f"\n\n{INSTRUCTION}<" in text
    with pytest.raises(ValueError, match=rf"the {len(frame) - 1} tokens around the feedback are more than algorithm"):
        dataset(tokenizer, path, **(knobs | {"max_prompt_length": len(frame) - 1}))
    (tmp_path / "none.jinja").write_text("{{ problem }} {{ instruction }}")
    with pytest.raises(ValueError, match=r"the teacher's prompt shows the feedback 0 times; print {{ feedback }} once"):
        dataset(tokenizer, path, **(knobs | {"template": str(tmp_path / "none.jinja")}))


def test_a_prompt_that_cannot_hold_a_peer_is_refused(tokenizer, tmp_path):
    path = write(tmp_path / "rows.parquet")
    with pytest.raises(
        ValueError, match=r"tokens around a peer's response of up to data.max_response_length=24 are more"
    ):
        dataset(tokenizer, path, privilege="peer_correct", max_prompt_length=64)
    (tmp_path / "twice.jinja").write_text("{{ problem }} {{ solution }} {{ solution }} {{ instruction }}")
    with pytest.raises(ValueError, match=r"the teacher's prompt shows the solution 2 times; print"):
        dataset(tokenizer, path, privilege="peer_correct", template=str(tmp_path / "twice.jinja"))


def test_a_solution_is_a_guide_beside_peers_where_a_row_has_one(tokenizer, tmp_path):
    """Spliced into the frame it is the prompt of privilege=solution, up to tokens across the border."""
    path = write(tmp_path / "rows.parquet", {2: {"solution": None}, 3: {"solution": "  "}})
    with_all = write(tmp_path / "all.parquet")
    texts, rows = shown(tokenizer, with_all, "solution"), dataset(tokenizer, path, privilege="peers")
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        frame, ids = row["teacher_prompt_ids"], row["teacher_solution_ids"]
        assert frame.count(SLOT) == 1 and bool(ids) == (number not in (2, 3))
        if ids:
            assert tokenizer.decode(spliced(frame, ids)) == text
    assert "teacher_solution_ids" not in dataset(tokenizer, with_all, privilege="peer_correct")[0]


@pytest.mark.parametrize(
    ("solution", "said"),
    [
        ("x " * 300, r"row 2: the \d+ tokens around a solution of \d+ are more than .*max_prompt_length=256"),
        ("done<|im_end|>", r"row 2: extra_info.solution contains the control token '<\|im_end\|>'"),
    ],
)
def test_a_solution_that_cannot_be_a_guide_is_refused(solution, said, tokenizer, tmp_path):
    path = write(tmp_path / "rows.parquet", {2: {"solution": solution}})
    with pytest.raises(ValueError, match=said):
        dataset(tokenizer, path, privilege="peers", max_prompt_length=256)


def test_a_thousand_rows_without_a_solution_may_come_first(tokenizer, tmp_path):
    """Arrow would take the column's type from them: TypeError, couldn't cast array of type int64 to null."""
    lacking = verl_row(PROBLEMS[0], 0)
    lacking["extra_info"]["solution"] = None
    rows = [*[lacking] * 1100, verl_row(PROBLEMS[1], 1)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = dataset(tokenizer, tmp_path / "rows.parquet", privilege="peers")
    assert not found[0]["teacher_solution_ids"] and found[1100]["teacher_solution_ids"]
