"""What an evaluation keeps: responses as graded rows, their think blocks, and the folder that the rows are in."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from evaluated import SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from runs import ROOT

from recipe.egrsd.evaluate import Refused, run, store, summary
from recipe.egrsd.evaluate import __main__ as command
from recipe.egrsd.evaluate.responses import Recorder, Think, think_block
from recipe.egrsd.reward import RULES

OPEN, CLOSE = 1, 2


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ([5], [OPEN, 7, 8, CLOSE, 9], Think(True, True, 2)),
        ([5], [OPEN, 7, 8], Think(True, False, 2)),  # cut
        ([5, OPEN], [7, CLOSE, 9], Think(True, True, 1)),  # the template opens the block
        ([5, OPEN], [7], Think(True, False, 1)),
        ([5, OPEN, CLOSE], [7, 9], Think(False, False, None)),  # thinking off: the template closes it, too
        ([5, OPEN, CLOSE], [OPEN, CLOSE], Think(True, True, 0)),
        ([5], [7, CLOSE, 9], Think(False, False, None)),  # closes what was never opened
        ([5], [CLOSE, OPEN, 7], Think(True, False, 1)),
        ([5], [OPEN, 7, CLOSE, OPEN, 8, 8, CLOSE], Think(True, True, 1)),  # the first block counts
        ([5], [], Think(False, False, None)),
    ],
)
def test_think_block(prompt, response, expected):
    assert think_block(prompt, response, (OPEN, CLOSE)) == expected


@given(st.lists(st.integers(1, 4), max_size=12))
def test_the_tokens_of_a_think_block_are_those_between_the_tags(response):
    think = think_block([], response, (OPEN, CLOSE))
    text = "".join(map(str, response))
    opened, _, rest = text.partition(str(OPEN))
    assert think.opened == (opened != text)
    inside, closed, _ = rest.partition(str(CLOSE))
    assert think.closed == bool(closed)
    assert think.tokens == (len(inside) if think.opened else None)


def test_a_row_is_graded_and_counted(tokenizer, problems):
    recorder = Recorder(tokenizer, thinking=True)
    text = rf"<think>Ones</think>\boxed{{{problems[0].ground_truth}}}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    row = recorder.row(problems[0], 3, [*ids, tokenizer.eos_token_id], truncated=False)
    assert (row["score"], row["sample"], row["tokens"]) == (1.0, 3, len(ids) + 1)
    assert row["response"] == text
    assert (row["think_opened"], row["think_closed"]) == (True, True)
    assert row["think_tokens"] == len(tokenizer.encode("Ones"))
    assert row["prompt"].endswith("<|im_start|>assistant\n")
    assert set(row) == set(store.SCHEMA.names)
    off = Recorder(tokenizer, thinking=False)
    assert off.row(problems[0], 0, ids, truncated=False)["prompt"].endswith("<think>\n\n</think>\n\n")


def test_a_model_without_think_tokens_has_no_think_figures(tokenizer, problems):
    class Without:
        unk_token_id = tokenizer.unk_token_id

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def get_vocab(self):
            return {key: i for key, i in tokenizer.get_vocab().items() if "think" not in key}

    recorder = Recorder(Without(), thinking=True)
    row = recorder.row(problems[0], 0, tokenizer.encode("<think>x</think>"), truncated=False)
    assert (row["think_opened"], row["think_closed"], row["think_tokens"]) == (None, None, None)
    assert summary.figures(pd.DataFrame([row]))["think"] == {"opened": None, "closed": None, "tokens_mean": None}


def test_the_shares_of_think_blocks_and_the_counts_of_what_could_not_be_compared(tokenizer, problems):
    """Three of four responses open a block, one of those closes it; 4, 6 and 8 tokens stand inside: (4 + 6 + 8) / 3."""
    recorder = Recorder(tokenizer, thinking=True)
    texts = ["<think>1234</think>", "<think>123456", "<think>12345678", "5"]  # a digit is a token
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    rows = pd.DataFrame([recorder.row(problems[0], i, response, truncated=False) for i, response in enumerate(ids)])
    flags = {"answer_too_long": 3, "timed_out": 1, "crashed": 0, "bad_ground_truth": 2}  # responses that have each
    for flag, count in flags.items():
        rows[flag] = [number < count for number in range(4)]
    figures = summary.figures(rows)
    assert figures["think"] == {"opened": 3 / 4, "closed": 1 / 4, "tokens_mean": 6.0}
    assert figures["ungraded"] == flags
    benchmarks = {"tiny_addition": figures}
    printed = summary.table({"benchmarks": benchmarks, "macro": summary.macro(benchmarks)}).splitlines()
    assert printed[0].endswith("think closed  tokens in it") and printed[1].split()[-2:] == ["25.0", "6"]


def test_settings_of_a_folder_do_not_change(tmp_path):
    store.begin(tmp_path, SETTINGS)
    store.begin(tmp_path, SETTINGS)
    with pytest.raises(Refused, match=r"other settings; name another folder.\n  temperature: 1.0 there, 0.6 now"):
        store.begin(tmp_path, {**SETTINGS, "temperature": 0.6})


def test_results_under_two_versions_of_the_answers_rules_do_not_mix():
    assert command._versions()["answers"] == str(RULES)


def test_two_processes_do_not_share_a_folder(tmp_path):
    code = (
        "import sys, pathlib; from recipe.egrsd.evaluate import store\nwith store.lock(pathlib.Path(sys.argv[1])): pass"
    )
    with store.lock(tmp_path):
        process = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert "another process is evaluating into" in process.stderr
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=ROOT)


def test_only_what_is_missing_is_generated(tmp_path, tokenizer, problems):
    recorder = Recorder(tokenizer, thinking=True)
    store.begin(tmp_path, SETTINGS)
    wanted = {"tiny_addition": 2}
    everything = run.missing(tmp_path, problems, wanted)
    assert everything == [(problem, sample) for problem in problems for sample in (0, 1)]
    store.append(tmp_path, [recorder.row(problems[1], 0, [5], truncated=False)])
    store.append(tmp_path, [recorder.row(problems[0], 1, [5], truncated=False)])
    (tmp_path / "generations" / "part-00002.parquet.partial").write_bytes(b"torn")  # killed while it was written
    there = [(problems[1], 0), (problems[0], 1)]
    assert run.missing(tmp_path, problems, wanted) == [pair for pair in everything if pair not in there]
    assert len(run.missing(tmp_path, problems, {"tiny_addition": 4})) == 4 * len(problems) - 2  # --k was raised
    changed = [replace(problems[0], ground_truth="1"), *problems[1:]]
    with pytest.raises(
        Refused, match="answers to another text of tiny_addition, problem 0: the benchmark file has changed"
    ):
        run.missing(tmp_path, changed, wanted)
