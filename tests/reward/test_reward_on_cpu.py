"""recipe/egrsd/reward: which answers are equal, and what a hostile one may cost. The worker processes are real."""

import inspect
import logging
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rewards import LATEX
from recipe.egrsd import reward
from recipe.egrsd.reward import compute_score, expected_answer, last_boxed, pool
from recipe.egrsd.reward import worker as worker_process

ROOT = Path(reward.__file__).parents[3]
BOMB = "9^{9^{9^9}}"
MEMORY_BOMB = "(x+1)^{1000000}"
TYPES = {
    "score": float,
    "acc": float,
    "has_answer": int,
    "answer_too_long": int,
    "timed_out": int,
    "crashed": int,
    "bad_ground_truth": int,
    "response_chars": int,
    "pred": str,
}
FLAGS = ("answer_too_long", "timed_out", "crashed", "bad_ground_truth")


def score(ground_truth, answer: str, **kwargs) -> float:
    return result(ground_truth, f"So the answer is \\boxed{{{answer}}}.", **kwargs)["score"]


def result(ground_truth, response: str, **kwargs) -> dict:
    """compute_score, with everything that holds for every result checked."""
    found = compute_score("math", response, ground_truth, {"index": 0}, **kwargs)
    assert {key: type(value) for key, value in found.items()} == TYPES
    assert found["score"] == found["acc"] and found["score"] in (0.0, 1.0)
    assert sum(found[flag] for flag in FLAGS) <= 1 and (found["score"] == 0.0 or not any(found[f] for f in FLAGS))
    assert found["response_chars"] == len(response) and len(found["pred"]) <= reward.MAX_PRED_CHARS
    return found


def flags(found: dict) -> set[str]:
    return {flag for flag in FLAGS if found[flag]}


@pytest.fixture
def worker():
    worker = pool._Worker()
    worker.renew_child()
    yield worker
    worker.stop()


def child_of(worker: pool._Worker) -> int:
    return int(Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text())


IMPORTS = "from pathlib import Path\nfrom recipe.egrsd import reward\nfrom recipe.egrsd.reward import pool\n\n"
CHILD_OF = f"{IMPORTS}{inspect.getsource(child_of)}"


def numbers_printed(code: str, output: Path) -> list[int]:
    """By a program that has just ended. What it left behind may hold its output open, so no pipe is waited for."""
    with output.open("w") as file:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=file, stderr=file, timeout=60)
    return [int(word) for word in output.read_text().split()]


# ---------------------------------------------------------------- equality

EQUAL = [
    ("7", "7"),
    ("7", "007"),
    ("7", "+7"),
    ("7", "7.0"),
    ("7", "$7$"),
    (7, "7"),
    (np.int64(7), "7"),
    ("-5", "\u22125"),  # a typographic minus sign
    ("1/2", "0.5"),
    ("0.5", "\\frac{1}{2}"),
    ("\\frac12", "1/2"),
    ("\\frac{3}{4}", "\\dfrac34"),
    ("The answer is $\\boxed{\\frac{1}{2}}$.", "0.5"),
    ("\\boxed{3} and then \\boxed{4}", "4"),
    ("1000", "1,000"),
    ("1,000", "1000"),
    ("3\\frac{1}{2}", "3.5"),
    ("2^{100}", "1267650600228229401496703205376"),
    ("10\\text{ cm}", "10"),
    ("\\$5", "5"),
    ("90", "90^\\circ"),
    ("50\\%", "50\\%"),
    ("50\\%", "50"),
    ("50\\%", "\\frac{1}{2}"),
    ("5", "x=5"),
    ("x=5", "5"),
    ("x=5", "x = 5"),
    ("\\text{(A)}", "A"),
    ("\\text{Evelyn}", "\\mathrm{Evelyn}"),
    ("\\text{north  west}", "\\text{north west}"),
    ("\\sqrt{2}", "2^{1/2}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("3+4i", "4i+3"),
    ("\\{1,2,3\\}", "\\{3,1,2\\}"),
    ("1,2", "\\{2,1\\}"),
    ("[1,2)", "[1, 2)"),
    ("(-\\infty,2)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
]

DIFFERENT = [
    ("7", "8"),
    ("7", "77"),
    ("7", "-7"),
    ("7", ""),
    ("7", "  "),
    ("7", "seven"),
    ("7", "7, 8"),
    ("7", "7 or 8"),
    ("12", "1 2"),  # white space is collapsed, never removed
    ("5", "\u096b"),  # a digit, but not one of 0-9
    ("1/2", "0.51"),
    ("1/2", "@#! \\frac{1}{2}"),  # nothing is picked out of what cannot be read
    ("\\pi", "3.14"),
    ("50\\%", "0.05"),
    ("0.5", "0.5\\%"),
    ("\\text{yes}", "\\text{no}"),
    ("x=5", "y=5"),
    ("(1,2)", "[1,2]"),
    ("\\{1,2\\}", "\\{1,3\\}"),
    ("3", "\\frac{1}{0}"),
    ("3", "\\frac{6}"),
    ("3", "\\left( 3"),
    ("3", "\\unknowncommand{3}"),
    ("3", "\x00"),
    ("3", "\ud800"),  # a lone surrogate
    ("3", "\u56db \U0001f600"),
]


@pytest.mark.parametrize(("ground_truth", "answer"), EQUAL, ids=str)
def test_equal_answers_score_one(ground_truth, answer):
    assert score(ground_truth, answer) == 1.0


@pytest.mark.parametrize(("ground_truth", "answer"), DIFFERENT, ids=ascii)
def test_different_answers_score_zero(ground_truth, answer):
    found = result(ground_truth, f"\\boxed{{{answer}}}")
    assert found["score"] == 0.0 and not flags(found)


# ---------------------------------------------------------------- which answer

BOXES = {
    "\\boxed{7}": "7",
    "\\boxed {7}": "7",
    "\\boxed\n{ 7 }": "7",
    "$$\\boxed{7}$$ is what goes into \\boxed.": "7",
    "first \\boxed{1}, then \\boxed{2}": "2",
    "\\boxed{1}, no: \\boxed{}": "",
    "\\boxed{\\frac{1}{\\sqrt{2}}} }}": "\\frac{1}{\\sqrt{2}}",
    "\\boxed{\\{1, 2\\}}": "\\{1, 2\\}",
    "\\boxed{\\left\\{ x \\right.}": "\\left\\{ x \\right.",
    "\\boxed{1 \\\\ 2\\\\}": "1 \\\\ 2\\\\",
    "\\boxed{a\n  b}": "a b",
    "": None,
    "7": None,
    "boxed{7}": None,
    "\\boxed7": None,
    "\\boxed{7": None,
    "\\boxed{7\\}": None,
    "\\boxed{1} and, cut off by the length limit, \\boxed{\\frac{2}": None,
}


@pytest.mark.parametrize("text", BOXES, ids=ascii)
def test_the_last_box_is_the_answer(text):
    assert last_boxed(text) == BOXES[text]
    found = result("7", text)
    assert found["has_answer"] == (BOXES[text] is not None) and found["pred"] == (BOXES[text] or "")
    assert found["score"] == (BOXES[text] == "7") and not flags(found)


def test_a_wrong_last_box_is_not_saved_by_an_earlier_right_one():
    assert result("7", "\\boxed{7} or rather \\boxed{8}")["score"] == 0.0
    assert result("7", "\\boxed{8} or rather \\boxed{7}")["score"] == 1.0


THINKING = {
    "<think>maybe \\boxed{7}. But wait, check": None,
    "<think>maybe \\boxed{7}</think> So \\boxed{8}": "8",
    "<think>\\boxed{7}</think>": "7",
    "it began in the prompt: \\boxed{8}</think> \\boxed{7}": "7",
    "<think>a</think> \\boxed{8} <think> or \\boxed{7}": "8",
    "\\boxed{7} <think>": "7",
    "<think><think>a</think> \\boxed{7}": "7",
}


@pytest.mark.parametrize("text", THINKING)
def test_a_box_in_a_think_block_that_never_closes_is_no_answer(text):
    found = result("7", text)
    assert found["has_answer"] == (THINKING[text] is not None) and found["pred"] == (THINKING[text] or "")
    assert found["score"] == (THINKING[text] == "7")


LONG = ["x" * 100_000, "\\boxed" * 20_000, "\\boxed{" * 15_000, "{" * 100_000, "\\boxed{" + "\\" * 99_999]


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:10].strip())
def test_a_long_text_costs_no_more_than_reading_it(text):
    start = time.monotonic()
    assert result("7", text)["has_answer"] == 0
    assert result("7", text + " \\boxed{7}")["score"] == 1.0
    assert time.monotonic() - start < 5.0


def test_a_long_answer_is_refused_whole():
    limit = reward.MAX_ANSWER_CHARS
    assert score("1" * limit, "1" * limit) == 1.0
    for answer in ("1" * (limit + 1), "7" + " + 0" * 25_000, "\\frac{1}{" * 1000 + "1" + "}" * 1000):
        found = result("7", f"\\boxed{{{answer}}}")
        assert found["score"] == 0.0 and flags(found) == {"answer_too_long"}
        assert found["pred"] == answer[: reward.MAX_PRED_CHARS]


# ---------------------------------------------------------------- inputs that are no answers


UNUSABLE = [None, "", "  ", 7.0, True, ["7"], {"a": 7}, np.array(["7"]), "\\boxed{7", "9" * 1001]


@pytest.mark.parametrize("ground_truth", UNUSABLE, ids=lambda value: repr(value)[:10])
def test_an_unusable_ground_truth_scores_zero_and_is_named_once(ground_truth, caplog):
    reward._warn_once.cache_clear()
    assert expected_answer(ground_truth) is None
    with caplog.at_level(logging.WARNING, logger="recipe.egrsd.reward"):
        for response in ("\\boxed{7}", "no answer", "\\boxed{None}", "\\boxed{True}"):
            assert flags(result(ground_truth, response)) == {"bad_ground_truth"}
    assert len(caplog.messages) == 1 and repr(ground_truth)[:100] in caplog.text


def test_a_ground_truth_that_math_verify_cannot_read_leaves_the_identical_answer(caplog):
    reward._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="recipe.egrsd.reward"):
        assert score("north-west", "north-west") == 1.0
        assert not caplog.messages
        for answer in ("south", "7"):
            assert flags(result("north-west", f"\\boxed{{{answer}}}")) == {"bad_ground_truth"}
    assert len(caplog.messages) == 1 and "'north-west'" in caplog.text


@pytest.mark.parametrize("response", [None, 7, b"\\boxed{7}", ["\\boxed{7}"]])
def test_a_response_that_is_no_string_is_an_error(response):
    with pytest.raises(TypeError, match=f"solution_str is {type(response).__name__}"):
        compute_score("math", response, "7")


@pytest.mark.parametrize("timeout_seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_that_is_none_is_an_error(timeout_seconds):
    with pytest.raises(ValueError, match="timeout_seconds"):
        compute_score("math", "\\boxed{7}", "7", timeout_seconds=timeout_seconds)


# ---------------------------------------------------------------- hostile answers

BOMBS = [
    BOMB,
    "99999999!",
    "\\binom{10^9}{10^8}",
    "(x+y+z)^{200}",
    MEMORY_BOMB,
    "[" * 999,
    "(" * 450 + "1" + ")" * 450,
    "\\frac{1}{" * 90 + "1" + "}" * 90,
    "\\sqrt{" * 120 + "2" + "}" * 120,
    "{" * 450 + "1" + "}" * 450,
    "-" * 999 + "1",
    "x_" * 499 + "x",
]


def test_a_bomb_ends_in_time_and_the_next_answer_is_judged_as_ever(worker):
    """One worker, so that each ordinary answer meets the child that had the bomb, or its successor."""
    for bomb in BOMBS:
        start = time.monotonic()
        assert worker.compare("5", bomb, 0.5) in ("timed_out", "different"), bomb
        assert time.monotonic() - start < 10.0, bomb
        assert worker.compare("1/2", "0.5", 30.0) == "equal", bomb
        assert worker.compare("1/2", "0.6", 30.0) == "different", bomb


def test_a_timed_out_answer_says_so():
    found = result("5", f"\\boxed{{{BOMB}}}", timeout_seconds=0.5)
    assert flags(found) == {"timed_out"} and found["score"] == 0.0 and found["pred"] == BOMB


def test_bombs_among_many_threads_cost_their_own_time_only():
    """300 responses with 3 bombs on 8 threads: the bound is generous, one that never gets its worker back breaks it."""
    ordinary = [("7", "7", 1.0), ("7", "8", 0.0), ("12", "12", 1.0), ("\\frac12", "0.5", 1.0), ("\\frac13", "0.3", 0.0)]
    cases = [ordinary[i % 5] for i in range(300)]
    with ThreadPoolExecutor(8) as threads:

        def seconds(cases) -> float:
            start = time.monotonic()
            got = threads.map(lambda case: score(case[0], case[1], timeout_seconds=2.0), cases)
            assert list(got) == [case[2] for case in cases]
            return time.monotonic() - start

        seconds(cases[:40])
        without = seconds(cases)
        for place in (20, 21, 200):
            cases[place] = ("7", BOMB, 0.0)
        assert seconds(cases) < 2 * without + 3 * (2.0 + 1.0)  # a time-out and a new child for each


@pytest.mark.long
def test_a_hundred_bombs_among_ten_thousand_responses_cost_little_but_their_own_time():
    draw = random.Random(0)
    cases = []
    for number in range(10_000):
        first, second, right = draw.randint(2, 99), draw.randint(100, 199), draw.random() < 0.5
        expected, answer = LATEX[number // 3 % len(LATEX)] if number % 3 == 0 else ("%d%d", "%d%d")
        cases.append((expected % (first, second), answer % (first, second + (not right)), float(right)))
    with_bombs = list(cases)
    for place in draw.sample(range(len(cases)), 100):
        with_bombs[place] = ("7", BOMB, 0.0)

    def seconds(cases) -> float:
        start = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda case: result(case[0], f"\\boxed{{{case[1]}}}", timeout_seconds=1.0), cases))
        for case, one in zip(cases, found, strict=True):
            assert one["timed_out"] if case[1] == BOMB else one["timed_out"] or one["score"] == case[2], case
        late = sum(one["timed_out"] for one in found) - [case[1] for case in cases].count(BOMB)
        assert late <= 20  # on a busy machine an ordinary answer may take its second, too
        return time.monotonic() - start

    plain, bombs = seconds(cases), seconds(with_bombs)
    print(
        f"10,000 responses: {plain:.1f} s; with 100 bombs of 1 s among them: {bombs:.1f} s, {bombs / plain:.2f} times "
        "that"
    )
    assert bombs <= 2 * plain + 100 * 1.0


def test_all_workers_can_hang_at_once_and_again():
    """A plain process pool lets the answers that wait behind the bombs time out with them."""
    cases = [BOMB, BOMB, BOMB, BOMB, "0.5", "0.5", "0.5", "0.5"]
    assert len([case for case in cases if case == BOMB]) >= 2 * pool.WORKERS
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda answer: score("1/2", answer, timeout_seconds=1.5), cases))
    assert found == [0.0] * 4 + [1.0] * 4
    assert pool._idle.qsize() == pool.WORKERS


# ---------------------------------------------------------------- the worker process


def alive(pid: int) -> bool:
    try:  # a process can end before the file is opened, and before it is read
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_a_child_out_of_memory_is_replaced(worker):
    pid = child_of(worker)
    assert resource.prlimit(pid, resource.RLIMIT_AS) == (worker_process.WORKER_BYTES,) * 2
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    assert worker.compare("1/2", "0.5", 30.0) == "equal" and child_of(worker) == pid
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 28,) * 2)  # less than half: as if an earlier pair had taken it
    assert worker.compare("5", MEMORY_BOMB, 30.0) == "different" and not alive(pid)
    assert worker.compare("1/2", "0.5", 30.0) == "equal" and child_of(worker) != pid


def test_the_next_child_comes_without_a_new_process(worker):
    process, waits = worker.process, []
    for _ in range(10):
        hung = child_of(worker)
        start = time.monotonic()
        assert worker.compare("5", BOMB, 0.2) == "timed_out" and not alive(hung)
        waits.append(time.monotonic() - start - 0.2)
    assert worker.process is process and process.poll() is None
    assert min(waits) < 0.1, waits  # the imports alone take longer


VICTIMS = {
    "child": lambda worker: os.kill(child_of(worker), signal.SIGKILL),
    "process": lambda worker: worker.process.kill(),
    "both": lambda worker: os.killpg(worker.process.pid, signal.SIGKILL),
}


@pytest.mark.parametrize("victim", ["child", "both"])
def test_a_child_that_dies_costs_one_response(worker, victim):
    threading.Timer(0.5, VICTIMS[victim], [worker]).start()
    assert worker.compare("5", BOMB, 30.0) == "crashed"
    assert worker.compare("1/2", "0.5", 30.0) == "equal"


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_died_idle_costs_none(worker, victim):
    child = child_of(worker)
    VICTIMS[victim](worker)
    assert victim == "process" or gone_within(child, 5.0)
    assert worker.compare("1/2", "0.5", 30.0) == "equal"
    assert worker.compare("5", BOMB, 0.5) == "timed_out"
    assert worker.compare("1/2", "0.5", 30.0) == "equal"


def test_a_hung_child_whose_process_died_is_killed_too(worker):
    hung = child_of(worker)
    worker.pipe.send(("5", BOMB, 60.0))
    time.sleep(0.2)
    worker.process.kill()
    start = time.monotonic()
    worker.renew_child()
    assert gone_within(hung, 1.0) and time.monotonic() - start < 30.0
    assert worker.compare("1/2", "0.5", 30.0) == "equal"


@pytest.mark.parametrize("seconds", [30.0, pool.WORKER_START_SECONDS], ids=["for the verdict", "for the next child"])
def test_an_interrupted_wait_leaves_no_verdict_for_the_next_one(worker, monkeypatch, seconds):
    poll = pool.Connection.poll

    def interrupted(pipe, timeout=0.0):
        if timeout == seconds:
            raise KeyboardInterrupt
        return poll(pipe, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(pool.Connection, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.compare("1/2", "0.5", 30.0) if seconds == 30.0 else worker.compare("5", BOMB, 0.2)
    assert worker.compare("1/2", "0.6", 30.0) == "different"


def test_a_late_verdict_is_not_the_next_ones(worker):
    outcomes = set()
    for step in range(60):
        outcomes.add(worker.compare("1/2", "0.5", 0.0001 * step + 0.0001))
        assert worker.compare("1/2", "0.6", 30.0) == "different"
    assert outcomes <= {"timed_out", "equal"} and "timed_out" in outcomes


def test_half_a_verdict_is_none(worker):
    def die_in_the_middle() -> None:
        theirs.recv()
        os.write(theirs.fileno(), b"\0\0\0\x20half")  # the length says 32
        theirs.close()

    worker.pipe, theirs = pool.Pipe()
    threading.Thread(target=die_in_the_middle).start()
    assert worker.compare("1/2", "0.5", 30.0) == "crashed"
    assert worker.compare("1/2", "0.6", 30.0) == "different"


@pytest.mark.parametrize("alone", [False, True])
def test_a_hung_child_outlives_a_killed_parent_by_no_more_than_its_time(alone, tmp_path):
    """It is killed at once; if the process that does that is dead as well (alone), by its own timer."""
    code = f"""
import os, threading, time
{CHILD_OF}
worker, idle = pool._Worker(), pool._Worker()
worker.renew_child()
idle.renew_child()
pids = child_of(worker), child_of(idle), worker.process.pid, idle.process.pid
threading.Thread(target=worker.compare, args=("5", "{BOMB}", 4.0), daemon=True).start()
time.sleep(0.5)
if {alone}:
    worker.process.kill()
    idle.process.kill()
print(*pids, flush=True)
os.kill(os.getpid(), 9)
"""
    hung, *others = numbers_printed(code, tmp_path / "pids")
    assert alive(hung) or not alone
    assert all(gone_within(pid, 2.0) for pid in others)
    assert gone_within(hung, 10.0 if alone else 2.0)


def test_nothing_is_left_when_the_parent_ends(tmp_path):
    code = "reward.compute_score('', '\\\\boxed{2^{-1}}', '1/2'); worker = pool._idle.queue[-1]\n"
    code = f"{CHILD_OF}\n{code}print(worker.process.pid, child_of(worker))"
    process, child = numbers_printed(code, tmp_path / "pids")
    assert not alive(process) and gone_within(child, 0.5)


def test_a_forked_child_does_not_share_its_parents_workers():
    assert score("1/2", "2^{-1}") == 1.0
    ours = {worker.process.pid for worker in pool._idle.queue if worker.process}
    with multiprocessing.get_context("fork").Pool(1) as forked:
        theirs = forked.apply(_score_and_pids)
    assert theirs[0] == 1.0 and ours and not ours & theirs[1]
    assert all(alive(pid) for pid in ours) and score("1/2", "2^{-1}") == 1.0


def _score_and_pids() -> tuple[float, set[int]]:
    return score("1/2", "2^{-1}"), {worker.process.pid for worker in pool._idle.queue if worker.process}


def test_it_loads_nothing_heavy_and_runs_nothing_twice(tmp_path):
    """A worker must not run the parent's __main__ again: in a Ray worker that would import ray."""
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\nfrom recipe.egrsd import reward\n"
        "print('main', *{'math_verify', 'sympy', 'verl', 'ray', 'torch', 'numpy'} & set(sys.modules))\n"
        "print(reward.compute_score('', '\\\\boxed{2^{-1}}', '1/2')['score'])\n"
        "from recipe.egrsd.reward.worker import outcome\n"
        "outcome('1/2', 'x^2')  # what a worker does\n"
        "print('worker', *{'verl', 'ray', 'torch', 'numpy'} & set(sys.modules))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n") == ["main", "1.0", "worker", ""]


def test_a_checker_that_cannot_start_is_an_error_not_a_zero(monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    worker = pool._Worker()
    with pytest.raises(RuntimeError, match="/bin/false import math_verify"):
        worker.compare("1/2", "0.5", 5.0)
    assert worker.process is None


# ---------------------------------------------------------------- verl


def test_verl_can_call_it_by_name():
    parameters = inspect.signature(compute_score).parameters
    assert list(parameters)[:4] == ["data_source", "solution_str", "ground_truth", "extra_info"]
    found = compute_score(
        data_source="math",
        solution_str="\\boxed{7}",
        ground_truth="7",
        extra_info={"num_turns": 2, "rollout_reward_scores": {}},
        reward_router_address="host:1",
        reward_model_tokenizer=None,
    )
    assert found["score"] == 1.0


class Text:
    """A tokenizer for responses that are lists of code points."""

    def decode(self, ids, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids.tolist()))


class Scorer:
    """What verl's RewardLoopWorker does with our function, in the Ray actor that it is."""

    def __init__(self):
        from omegaconf import OmegaConf
        from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
        from verl.trainer.ppo.reward import get_custom_reward_fn

        ours = {"path": "pkg://recipe.egrsd.reward", "name": "compute_score", "reward_kwargs": {"timeout_seconds": 1.5}}
        config = OmegaConf.create({"reward": {"custom_reward_function": ours}})
        self.manager = NaiveRewardManager(config, Text(), get_custom_reward_fn(config))

    async def score(self, answers: list[str]) -> list[dict]:
        import asyncio

        import torch
        from verl import DataProto

        def row(answer: str) -> DataProto:
            ids = torch.tensor([list(map(ord, f"\\boxed{{{answer}}}"))])
            truth = {"data_source": "math", "reward_model": {"ground_truth": "1/2"}, "extra_info": {}}
            return DataProto.from_dict(
                tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
                non_tensors={key: np.array([value], dtype=object) for key, value in truth.items()},
            )

        return await asyncio.gather(*(self.manager.run_single(row(answer)) for answer in answers))


def test_verls_reward_manager_in_a_ray_actor():
    import ray

    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    ray.init(num_cpus=1, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        scorer = ray.remote(Scorer).remote()
        answers = [BOMB, BOMB, BOMB, *["0.5", "1/2", "0.6"] * 5]
        found = ray.get(scorer.score.remote(answers), timeout=120)
    finally:
        ray.shutdown()
    assert [one["reward_score"] for one in found] == [0.0] * 3 + [1.0, 1.0, 0.0] * 5
    assert [one["reward_extra_info"]["timed_out"] for one in found] == [1] * 3 + [0] * 15
    assert all(list(one["reward_extra_info"]) == list(TYPES) for one in found)
