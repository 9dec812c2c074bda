"""One Ray and one TransferQueue for all tests of what a training step makes of its batch, and the batches that several
files need."""

from collections.abc import Iterator

import pytest
import ray
import torch
import transfer_queue as tq
from guided_steps import ANSWER, CONTRASTED, SOLUTIONS
from omegaconf import OmegaConf
from queued_steps import END, EOS, ROLLOUTS, TOLD, row_of, told_row
from queues import queued
from transfer_queue import KVBatchMeta


@pytest.fixture(scope="package")
def queue():
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield
    tq.close()
    ray.shutdown()


@pytest.fixture
def peer_batch(queue) -> Iterator[KVBatchMeta]:
    """Eight rows: the seven of ROLLOUTS and a padding sample, out of order."""
    torch.manual_seed(0)
    with queued({key: row_of(key, *ROLLOUTS[key]) for key in ROLLOUTS}, EOS) as batch:
        yield batch


@pytest.fixture
def guide_batch(queue) -> Iterator[KVBatchMeta]:
    """The same rows with the solutions of their problems."""
    torch.manual_seed(0)
    rows = {key: row_of(key, *ROLLOUTS[key]) | {"teacher_solution_ids": SOLUTIONS[key[0]]} for key in ROLLOUTS}
    with queued(rows, EOS) as batch:
        yield batch


@pytest.fixture
def contrast_batch(queue) -> Iterator[KVBatchMeta]:
    """Eight rows: the seven of CONTRASTED with the answers of their problems, and a padding sample, out of order."""
    torch.manual_seed(0)
    rows = {key: row_of(key, *CONTRASTED[key]) | {"teacher_answer_ids": ANSWER[key[0]]} for key in CONTRASTED}
    with queued(rows, EOS) as batch:
        yield batch


@pytest.fixture
def feedback_batch(queue) -> Iterator[KVBatchMeta]:
    """Eight rows: the five of TOLD and three padding samples, out of order."""
    with queued({key: told_row(key) for key in TOLD}, END) as batch:
        yield batch
