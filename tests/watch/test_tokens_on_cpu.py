"""The token log: every column against the paper's loops, token texts, kinds, whole files."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from micro_batches import CONTRAST, GATE_MEAN, SCALE, jagged, rows, settings
from reference import entropy_gate, lookahead_entropy, ratio_weight
from tensordict import NonTensorStack, TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.engine.utils import prepare_micro_batches

from examples.tiny_cpu import model as tiny
from recipe.egrsd.teacher.kinds import Teacher
from recipe.egrsd.teacher.scoring import nested
from recipe.egrsd.watch import tokens


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.build_tokenizer()


def batch() -> TensorDict:
    samples = rows()
    columns = {name: jagged(column) for name, column in samples.items()}
    columns["student_log_probs"] = columns.pop("old_log_probs")
    columns["rm_scores"] = jagged([torch.eye(1, len(mask))[0].flip(0) * 1.25 for mask in samples["response_mask"]])
    return TensorDict(
        columns | {
            "uid": NonTensorStack(*"abcd"), "teacher_prompt_ids": NonTensorStack(*[[5, 6, 7]] * 4),
            "extra_info": NonTensorStack({"s": "1 + 1 = 2"}, {"s": "2"}, {}, {"s": None}),
        },
        batch_size=4,
    )  # fmt: skip


def saved(folder, tokenizer, **changes):
    egrsd = settings(**changes)
    scalars = {"entropy_scale": SCALE, "gate_mean": GATE_MEAN, "mixing": 0.25}
    path = tokens.save(folder, batch(), step=3, tokenizer=tokenizer, egrsd=egrsd, **scalars)
    return path, egrsd


def test_every_column_is_that_of_the_paper(tmp_path, tokenizer):
    path, egrsd = saved(tmp_path / "tokens", tokenizer)
    assert path == tmp_path / "tokens" / "step_3.parquet" and [file.name for file in path.parent.iterdir()] == [
        path.name
    ]
    table, samples = pq.read_table(path), rows()
    assert json.loads(table.schema.metadata[b"egrsd"])["window"] == egrsd.window == 2
    for i, row in enumerate(table.to_pylist()):
        entropy, advantage = samples["teacher_entropy"][i].tolist(), samples["advantages"][i].tolist()
        mask = samples["response_mask"][i].bool().tolist()
        student, teacher = samples["old_log_probs"][i].tolist(), samples["teacher_log_probs"][i].tolist()
        calm = lookahead_entropy([entropy], [mask], window=egrsd.window)[0]
        knobs = {"scale": SCALE, "gamma": egrsd.gamma, "floor": egrsd.floor}
        gate = entropy_gate([calm], **knobs)[0]
        ratio = ratio_weight([student], [teacher], [advantage[0]], clip_range=egrsd.clip_range)[0]
        expected = {
            "student_log_probs": student, "teacher_log_probs": teacher, "teacher_entropy": entropy,
            "lookahead_entropy": calm, "gate": gate, "gate_without_lookahead": entropy_gate([entropy], **knobs)[0],
            "ratio_weight": ratio,
            "token_weight": [g and (0.75 + 0.25 * w) * g for w, g in zip(ratio, gate, strict=True)],
            "advantage": advantage,
        }  # fmt: skip
        for name, values in expected.items():
            counted = [(a, b) for a, b, real in zip(row[name], values, mask, strict=True) if real]
            torch.testing.assert_close(*(torch.tensor(side) for side in zip(*counted, strict=True)), atol=1e-6, rtol=0)
        assert row["mask"] == mask and row["token_ids"] == samples["responses"][i].tolist()
        assert (row["step"], row["uid"], row["reward"], row["entropy_scale"]) == (3, "abcd"[i], 1.25, SCALE)
        assert row["solution"] == ["1 + 1 = 2", "2", None, None][i]
        assert row["prompt"] == tokenizer.decode(samples["prompts"][i].tolist())


def test_a_divergence_has_no_weights(tmp_path, tokenizer):
    off = {"gamma": 0.0, "window": 0, "clip_range": 0.0, "length_bonus": 0.0, "divergence": "forward_kl"}
    for row in pq.read_table(saved(tmp_path, tokenizer, **off)[0]).to_pylist():
        assert set(row["gate"]) == set(row["ratio_weight"]) == set(row["token_weight"]) == {1.0}


def test_what_no_teacher_has_scored_is_null(tmp_path, tokenizer):
    """Rows without any score, and one that is scored in part: its lookahead and kinds see nothing behind that."""
    data, window = batch(), 2
    taught = [row.clone() for row in data["teacher_mask"].unbind()]
    taught[0][:], taught[1][2:] = 0, 0
    data["teacher_mask"] = jagged(taught)
    scalars = {"entropy_scale": SCALE, "gate_mean": GATE_MEAN, "mixing": 1.0}
    egrsd = settings(window=window)
    path = tokens.save(tmp_path, data, step=3, tokenizer=tokenizer, egrsd=egrsd, **scalars)
    for row, scored, entropy in zip(pq.read_table(path).to_pylist(), taught, rows()["teacher_entropy"], strict=True):
        assert row["teacher_mask"] == scored.bool().tolist()
        for name in ("teacher_log_probs", "teacher_entropy", "lookahead_entropy", "kind"):
            assert [value is not None for value in row[name]] == row["teacher_mask"], name
        assert None not in row["student_log_probs"]
        without = [w for w, real in zip(row["token_weight"], row["teacher_mask"], strict=True) if not real]
        assert set(without) <= {1.0}  # what the loss multiplies by
        calm = lookahead_entropy([entropy.tolist()], [row["teacher_mask"]], window=window)[0]
        found = zip(row["lookahead_entropy"], calm, strict=True)
        assert all(own == pytest.approx(value, abs=1e-6) for own, value in found if own is not None)


def test_what_a_contrast_adds_has_a_column(tmp_path, tokenizer):
    """SIPO's: .5 clip(e, -.2, .2), which here turns no sign; null for a weight that adds nothing."""
    egrsd = settings(
        privilege="answer_contrast", token_weight="recipe.egrsd.method.evidence:clipped_evidence",
        contrast=replace(CONTRAST, strength=0.5),
    )  # fmt: skip
    data, samples = batch(), rows()
    data["advantages"] = jagged([10 * row for row in samples["advantages"]])
    wrong = rows(seed=1)["teacher_log_probs"]
    data["contrast_log_probs"] = jagged(wrong)
    assert set(tokens.fields(egrsd)) == {*tokens.FIELDS, "contrast_log_probs"}
    shares = {"modulated_frac": 0.5, "taught_frac": 1.0}
    scalars = {"entropy_scale": SCALE, "gate_mean": GATE_MEAN, "mixing": 1.0, **shares}
    path = tokens.save(tmp_path, data, step=3, tokenizer=tokenizer, egrsd=egrsd, **scalars)
    for i, row in enumerate(pq.read_table(path).to_pylist()):
        sides = samples["teacher_log_probs"][i].tolist(), wrong[i].tolist(), row["mask"]
        expected = [0.5 * max(-0.2, min(0.2, r - w)) if real else 0.0 for r, w, real in zip(*sides, strict=True)]
        assert row["added"] == pytest.approx(expected, abs=1e-6) and set(row["token_weight"]) == {1.0}
        shown = [value if real else None for value, real in zip(wrong[i].tolist(), row["mask"], strict=True)]
        assert row["contrast_log_probs"] == pytest.approx(shown, abs=1e-6)
    for row in pq.read_table(saved(tmp_path / "plain", tokenizer)[0]).to_pylist():
        assert row["added"] is row["contrast_log_probs"] is None


def test_a_weight_of_the_users_own(tmp_path, tokenizer):
    """Its own column, by the same function as in the loss; null for what it does not have, in the same schema."""
    (tmp_path / "my_weights.py").write_text(
        "import torch\n\n\ndef halved(student, teacher, entropy, advantages, mask, *, clip_range):\n"
        "    return torch.where(torch.arange(mask.size(-1)) >= 2, 1 + clip_range, 0.5).expand(mask.shape)\n"
    )
    path, _ = saved(tmp_path / "own", tokenizer, token_weight=f"{tmp_path}/my_weights.py:halved")
    own, built_in = pq.read_table(path), pq.read_table(saved(tmp_path / "built_in", tokenizer)[0])
    assert list(zip(own.schema.names, own.schema.types, strict=True)) == list(
        zip(built_in.schema.names, built_in.schema.types, strict=True)
    )
    for row, theirs in zip(own.to_pylist(), built_in.to_pylist(), strict=True):
        weights = zip([0.5, 0.5, 1.2, 1.2, 1.2, 1.2], row["mask"], strict=False)
        assert row["token_weight"] == pytest.approx([weight if real else 1.0 for weight, real in weights], abs=1e-6)
        assert row["gate"] is row["gate_without_lookahead"] is row["ratio_weight"] is None
        assert row["lookahead_entropy"] == theirs["lookahead_entropy"] and row["kind"] == theirs["kind"]


def test_kinds():
    """In units of the scale, 2 nats: high 0.17, low 0.01; window 2."""
    entropy = 2 * torch.tensor([[0.5, 0.3, 0.0, 0.3, 0.2, 0.17, 0.1, 0.01, 0.011, 0.9]])
    names = [tokens.KINDS[kind] for kind in tokens.token_kinds(entropy, entropy > -1, entropy_scale=2.0, window=2)[0]]
    assert names == ["pivot", "pivot", "lock", "fork", "mid", "pivot", "mid", "lock", "mid", "fork"]
    hole = torch.tensor([[True, True, False] + 7 * [True]])  # what lies under False cannot make a pivot
    assert tokens.token_kinds(entropy, hole, entropy_scale=2.0, window=2)[0, 1] == tokens.KINDS.index("fork")


class Bytes:
    """A tokenizer with one byte in a token."""

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("text", ["plain", "é…∑", "a😀b", "e\u0301"])
def test_no_character_is_torn(text):
    strings = tokens.token_strings(Bytes(), text.encode())
    assert len(strings) == len(text.encode()) and "".join(strings) == text


def test_broken_bytes_do_not_swallow_the_rest():
    assert "".join(tokens.token_strings(Bytes(), b"\xff\xff\xff\xff\xffabc")).endswith("abc")
    assert tokens.token_strings(Bytes(), b"a\xe2\x82") == ["a", "", "\ufffd"]


def test_the_first_step_and_every_so_many():
    assert [step for step in range(1, 11) if tokens.is_due(step, 5)] == [1, 5, 10]
    assert not any(tokens.is_due(step, None) for step in range(1, 11))


class FixedMicroBatches:
    """A worker group of eight ranks that splits its rows as verl does where micro-batches have a fixed number of
    them."""

    compute_ref_log_prob = None

    def _query_dispatch_info(self, _: str) -> list[int]:
        return list(range(8))

    def compute_log_prob(self, batch: TensorDict) -> TensorDict:
        for share in tu.chunk_tensordict(batch, 8):
            defaults = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 4}
            tu.assign_non_tensor(
                share, **{key: tu.get_non_tensor_data(share, key, value) for key, value in defaults.items()}
            )
            prepare_micro_batches(share)
        values = nested([row.float() for row in batch["input_ids"].unbind()])
        return TensorDict({"log_probs": values, "entropy": values}, batch_size=len(batch))


@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_student_is_scored_whatever_the_ranks_and_micro_batches(count):
    """16 rows are two a rank, which no micro-batch of four divides; each rank takes its rows one by one."""
    teacher = Teacher(settings().teacher, FixedMicroBatches(), uses_lora=False)
    lengths = [i % 3 + 1 for i in range(count)]
    responses = nested([torch.full((length,), 100 + i) for i, length in enumerate(lengths)])
    mask = nested([torch.ones(length, dtype=torch.int64) for length in lengths])
    prompts, names = [torch.arange(i % 4 + 1) for i in range(count)], [str(i) for i in range(count)]
    found = teacher.score_student(prompts, responses, mask, temperature=1.0, names=names).unbind()
    # The stand-in's log-probs are the ids of the row; those of a response begin one position before it.
    assert [len(row) for row in found] == lengths
    for i, row in enumerate(found):
        assert row.tolist() == [float(prompts[i][-1]), *[100.0 + i] * (lengths[i] - 1)]


def test_padding_is_never_chosen():
    keys = [f"{i:02d}" for i in reversed(range(40))]
    assert tokens.chosen(keys, [int(key) % 2 == 0 for key in keys]) == [f"{i:02d}" for i in range(0, 32, 2)]
