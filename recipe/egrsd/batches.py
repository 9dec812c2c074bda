"""A step's batch, whose columns TransferQueue holds: what of it is read and written here, under verl's row names."""

from collections.abc import Sequence

import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict


def is_real(batch: KVBatchMeta) -> list[bool]:
    """False for the samples with which verl fills a batch up to a multiple of the ranks."""
    return [not tag.get("is_padding", False) for tag in batch.tags]


def read(batch: KVBatchMeta, *fields: str) -> TensorDict:
    """These columns of every row, jagged where rows differ in length."""
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(fields))


def write(batch: KVBatchMeta, **fields: Tensor) -> None:
    """Columns of as many rows as the batch has, new or in place of what was there."""
    columns = TensorDict(fields, batch_size=len(batch.keys))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=columns)


def write_lists(batch: KVBatchMeta, **fields: Sequence[list]) -> None:
    """The same for columns of plain lists, as the data set's own are."""
    rows = [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=list_of_dict_to_tensordict(rows))
