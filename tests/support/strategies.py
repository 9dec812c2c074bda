"""Generated inputs of the tests.

B  responses      T  response positions

Under a False of the mask lies NaN, inf, -inf or an ordinary number: results must not depend on it.

Two kinds of batches: ``small_batches`` draws each number by hypothesis, so that a failure shrinks to a few readable
tokens; ``batches`` draws one seed and spreads it over up to 80 rows, so that many rows are compared at little cost.
"""

import math
import random
from typing import NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

torch.set_num_threads(1)

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)

UNREAD = [math.nan, math.inf, -math.inf, 1e30, -7.0, 0.0]
CLIP_EDGES = [math.log(1.2), math.log(0.8), math.log(1.05), 1e-6, -1e-6, 0.1, -0.1, 0.0]

WINDOWS = [0, 1, 2, 3, 5, 8, 400]
GAMMAS = [0.0, 0.1, 0.3, 0.5, 1.0, 2.0]
FLOORS = [0.0, 0.1, 0.5, 1.0]
CLIP_RANGES = [0.0, 0.05, 0.2, 0.5, 1.0]
MIN_NATS = [1.0, 0.25, 2.0]
ADVANTAGES = [0.0, -0.0, 1e-30, -1e-30, 0.5, -0.5, 1.0, 1.5, -1.5]


class Batch(NamedTuple):
    """Inputs of one call of every function of method/weights.py."""

    student_log_probs: Tensor  # (B, T) float32
    teacher_log_probs: Tensor  # (B, T) float32
    entropy: Tensor  # (B, T) float32, nats
    response_mask: Tensor  # (B, T) bool
    advantages: Tensor  # (B, T) float32, one value for each row
    window: int
    gamma: float
    floor: float
    clip_range: float
    min_nats: float


def num_cases(batch: Batch) -> int:
    """Rows with at least one token: a row without one can't disagree with anything."""
    return int(batch.response_mask.any(dim=-1).sum())


def make_batch(
    rows: list[list[tuple[bool, float, float, float]]], advantages: list[float], num_pad: int = 0, **knobs
) -> Batch:
    """Rows of (is token, student log-prob, teacher log-prob, entropy), right-padded with NaN to one length."""
    length = max((len(row) for row in rows), default=0) + num_pad
    padding = (False, math.nan, math.nan, math.nan)
    cells = [row + [padding] * (length - len(row)) for row in rows]

    def column(index: int, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[cell[index] for cell in row] for row in cells], dtype=dtype).reshape(len(rows), length)

    per_row = torch.tensor(advantages, dtype=torch.float32).reshape(len(rows), 1)
    return Batch(
        student_log_probs=column(1, torch.float32),
        teacher_log_probs=column(2, torch.float32),
        entropy=column(3, torch.float32),
        response_mask=column(0, torch.bool),
        advantages=per_row.expand(len(rows), length).clone(),
        **knobs,
    )


def _random_length(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.1:
        return rng.choice([0, 1, 1, 1])
    if kind < 0.7:
        return rng.randint(2, 8)
    if kind < 0.88:
        return rng.randint(9, 30)
    return rng.choice([300, rng.randint(31, 300)])


def _random_cell(rng: random.Random, hole_frac: float, max_entropy: float) -> tuple[bool, float, float, float]:
    if rng.random() < hole_frac:
        return False, rng.choice(UNREAD), rng.choice(UNREAD), rng.choice(UNREAD)
    student = -rng.expovariate(0.5)
    kind = rng.random()
    if kind < 0.15:
        teacher = student  # equal log-probs
    elif kind < 0.3:
        student, teacher = rng.choice([(-80.0, 0.0), (0.0, -80.0), (-1e4, 0.0), (0.0, -1e4), (-80.0, -81.0)])
    elif kind < 0.5:
        teacher = student + rng.choice(CLIP_EDGES)
    else:
        teacher = student + rng.gauss(0.0, 0.2)
    entropy = rng.choice([0.0, max_entropy]) if rng.random() < 0.1 else rng.uniform(0.0, max_entropy)
    return True, student, teacher, entropy


def batch_from_seed(seed: int) -> Batch:
    """A whole batch from one number: up to 80 rows, 8 when they are long; lengths 0 to 300, holes, empty rows."""
    rng = random.Random(seed)
    max_length = _random_length(rng)
    num_rows = rng.randint(40, 80) if max_length <= 30 else rng.randint(1, 8)
    hole_frac = rng.choice([0.0, 0.0, 0.2, 0.6])
    max_entropy = rng.choice([0.3, 0.9, 1.0, 4.0, 11.9])  # 11.93 nats: log of Qwen3's vocabulary
    # Pivots: uncertain tokens, each followed by a sure one, so that lookahead removes the batch's largest entropy.
    pivots = rng.random() < 0.3
    rows = []
    for _ in range(num_rows):
        length = max_length if rng.random() < 0.3 else rng.randint(0, max_length)
        sure = [pivots and (t % 2 == 1 or t == length - 1) for t in range(length)]
        rows.append([_random_cell(rng, hole_frac, max_entropy * (0.1 if is_sure else 1.0)) for is_sure in sure])
    return make_batch(
        rows,
        [rng.choice(ADVANTAGES) if rng.random() < 0.4 else rng.uniform(-1.5, 1.5) for _ in rows],
        num_pad=rng.randint(0, 3),
        window=rng.choice(WINDOWS),
        gamma=rng.choice(GAMMAS),
        floor=rng.choice(FLOORS),
        clip_range=rng.choice(CLIP_RANGES),
        min_nats=rng.choice(MIN_NATS),
    )


def batches() -> st.SearchStrategy[Batch]:
    return st.builds(batch_from_seed, st.integers(0, 2**62))


def _tokens() -> st.SearchStrategy[tuple[bool, float, float, float]]:
    log_probs = st.floats(-30.0, 0.0, width=32)
    token = st.tuples(st.just(True), log_probs, log_probs, st.floats(0.0, 12.0, width=32))
    return st.one_of(
        token,
        token.map(lambda cell: (True, cell[1], cell[1], cell[3])),
        st.tuples(st.just(False), *[st.sampled_from(UNREAD)] * 3),
    )


@st.composite
def small_batches(draw: st.DrawFn) -> Batch:
    rows = draw(st.lists(st.lists(_tokens(), max_size=6), max_size=4))
    return make_batch(
        rows,
        [draw(st.sampled_from(ADVANTAGES)) for _ in rows],
        num_pad=draw(st.integers(0, 2)),
        window=draw(st.sampled_from(WINDOWS)),
        gamma=draw(st.sampled_from(GAMMAS)),
        floor=draw(st.sampled_from(FLOORS)),
        clip_range=draw(st.sampled_from(CLIP_RANGES)),
        min_nats=draw(st.sampled_from(MIN_NATS)),
    )


class Scores(NamedTuple):
    """Inputs of shaped_reward."""

    correct: Tensor  # (B,) float32, 0 or 1
    length: Tensor  # (B,) int64, 0 ... max_length
    max_length: int
    length_bonus: float


@st.composite
def scores(draw: st.DrawFn) -> Scores:
    max_length = draw(st.sampled_from([1, 2, 7, 1024, 38912]))
    responses = draw(st.lists(st.tuples(st.booleans(), st.integers(0, max_length)), max_size=32))
    return Scores(
        correct=torch.tensor([float(is_correct) for is_correct, _ in responses]),
        length=torch.tensor([length for _, length in responses], dtype=torch.int64),
        max_length=max_length,
        length_bonus=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
    )


class Rewards(NamedTuple):
    """Rewards of a whole run and the knobs of its baseline."""

    steps: list[list[float]]  # float32 values: 0, or 1 ... 1.5
    warmup_steps: int
    warmup_mean: float
    min_std: float


def rewards_from_seed(seed: int) -> Rewards:
    """Batches of unequal size. min_std is at least 1/4, so that float32 advantages can agree to an absolute 1e-6."""
    rng = random.Random(seed)
    correct_frac = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    steps = []
    for _ in range(rng.randint(0, 15)):
        values = [1.0 + 0.5 * rng.random() if rng.random() < correct_frac else 0.0 for _ in range(rng.randint(1, 32))]
        steps.append(torch.tensor(values).tolist())
    return Rewards(steps, rng.choice([0, 1, 3, 10]), rng.choice([0.5, 0.0, 1.0]), rng.choice([0.25, 0.5]))


def reward_runs() -> st.SearchStrategy[Rewards]:
    return st.builds(rewards_from_seed, st.integers(0, 2**62))
