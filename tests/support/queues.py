"""A batch as the trainer's steps find it in TransferQueue, what they leave there, and a table that stands for the
scoring engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import transfer_queue as tq
from micro_batches import jagged
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.utils import tensordict_utils as tu


def written_row(
    key: str, score: float, prompt: list[int], response: list[int], *, shown: list[int], mask: Sequence[int]
) -> dict:
    """A row as verl's agent loop writes it: its prompt, the teacher's, the score at its last token."""
    ids = torch.tensor(prompt + response)
    return {
        "uid": key.split("_", maxsplit=1)[0], "teacher_prompt_ids": shown, "prompts": torch.tensor(prompt),
        "responses": torch.tensor(response), "response_mask": torch.tensor(mask), "loss_mask": torch.tensor(mask),
        "input_ids": ids, "position_ids": torch.arange(len(ids)),
        "rm_scores": torch.tensor([0.0] * (len(mask) - 1) + [score]),
    }  # fmt: skip


@contextmanager
def queued(rows: dict[str, dict], eos: int) -> Iterator[KVBatchMeta]:
    """These rows in the queue, with verl's padding samples eight in all, out of order, as balancing leaves them."""
    keys, tags = list(rows), [{"seq_len": 1} for _ in rows]
    fields = tu.list_of_dict_to_tensordict(list(rows.values()))
    tq.kv_batch_put(keys=keys, partition_id="train", fields=fields, tags=tags)
    padded = upsample_batch_to_divisible_size(KVBatchMeta(keys=keys, tags=tags, partition_id="train"), 8, eos)
    padded.reorder([6, 4, 1, 0, 7, 3, 2, 5])
    yield padded
    tq.kv_clear(keys=padded.keys, partition_id="train")


def columns(batch: KVBatchMeta, *names: str) -> dict[str, dict[str, list]]:
    """Column -> key of a row -> its values."""
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=list(names))
    found = {}
    for name in names:
        rows = data[name].unbind() if isinstance(data[name], torch.Tensor) else list(data[name])
        found[name] = {key: torch.as_tensor(r).tolist() for key, r in zip(batch.keys, rows, strict=True)}
    return found


class PromptTable:
    """Stands for the scoring engine: numbers that depend on the prompt, and rows that it has seen."""

    def __init__(self, ranks: int = 1):
        self.ranks = ranks

    @staticmethod
    def log_probs(prompt: list[int], length: int) -> list[float]:
        return [-0.001 * sum(prompt) * (t + 1) for t in range(length)]

    def _query_dispatch_info(self, mesh: str) -> list[int]:
        return list(range(self.ranks))

    def compute_log_prob(self, batch: TensorDict) -> TensorDict:
        assert len(batch) % self.ranks == 0
        self.rows = [ids.tolist() for ids in batch["input_ids"].unbind()]
        log_probs, entropy, hidden = [], [], []
        for prompt, mask in zip(batch["prompts"].unbind(), batch["response_mask"].unbind(), strict=True):
            scores = torch.tensor(self.log_probs(prompt.tolist(), len(mask)))
            before = torch.full((len(prompt) - 1,), 500.0)
            log_probs.append(torch.cat([before, scores, torch.tensor([600.0])]))
            entropy.append(torch.cat([before, -20 * scores, torch.tensor([600.0])]))
            hidden.append(scores.repeat_interleave(2))  # of size 2
        columns = {"log_probs": jagged(log_probs), "entropy": jagged(entropy)}
        if tu.get_non_tensor_data(batch, "egrsd_keeps_hidden", False):
            columns["teacher_hidden"] = jagged(hidden)
        return TensorDict(columns, batch_size=len(log_probs))

    def hold_teacher_head(self, *, part: str, **knobs) -> None:
        self.part, self.knobs = part, knobs
