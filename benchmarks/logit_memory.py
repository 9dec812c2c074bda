"""Bytes that one logit costs at the peak of a pass: the constants of the doctor's estimate
(recipe/egrsd/doctor/memory.py).

    python benchmarks/logit_memory.py

Every block of memory is counted from the operation that makes it to the end of its last tensor, through the recipe's
own engine and verl's own functions, forward and backward. CUDA's caching allocator keeps blocks of up to 1 MiB apart
from larger ones, and a row of float32 logits, of which verl's torch functions make one a token, has 594 KiB: so what it
reserves is the sum of both peaks. flash-attn's cross entropy needs a GPU; its stand-in makes the same tensors: it keeps
the logits, and its backward pass writes their gradient over them (flash_attn/ops/triton/cross_entropy.py).
"""

import argparse
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from verl.utils import tensordict_utils as tu
from verl.workers.engine.fsdp import transformer_impl

from recipe.egrsd.engine.fsdp import EgrsdEngine
from recipe.egrsd.engine.head import head_scores
from recipe.egrsd.method.divergence import Divergence
from recipe.egrsd.method.vocabulary import Entropy

VOCABULARY, HIDDEN = 151_936, 4  # Qwen3's vocabulary; a head so narrow that it does not count
SMALL_BLOCK = 2**20
TEMPERATURE = 1.1


class Peak(TorchDispatchMode):
    """While it lasts, counts the bytes of every storage that an operation makes."""

    def __init__(self):
        super().__init__()
        self.known: set[int] = set()
        self.live, self.peaks = [0, 0], [0, 0]

    @property
    def reserved(self) -> int:
        """Peak of the small blocks plus peak of the large ones."""
        return sum(self.peaks)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if (
            function is torch.ops.aten.logsumexp.default
        ):  # makes a copy of its input inside, which nothing here would see
            size = args[0].nbytes
            self.peaks[size > SMALL_BLOCK] = max(self.peaks[size > SMALL_BLOCK], self.live[size > SMALL_BLOCK] + size)
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self.known:
                storage = tensor.untyped_storage()
                size, pool = storage.nbytes(), storage.nbytes() > SMALL_BLOCK
                self.known.add(key)
                self.live[pool] += size
                self.peaks[pool] = max(self.peaks[pool], self.live[pool])
                weakref.finalize(storage, self._freed, key, size, pool)
        return result

    def _freed(self, key: int, size: int, pool: bool) -> None:
        self.known.discard(key)
        self.live[pool] -= size


class OverwritingCrossEntropy(torch.autograd.Function):
    """(N, V) float32 logits, (N,) labels -> (N,) log-probs; the logits become their own gradient."""

    @staticmethod
    def forward(context, logits: Tensor, labels: Tensor) -> Tensor:
        normaliser = torch.stack([row.logsumexp(-1) for row in logits])
        context.save_for_backward(logits, normaliser, labels)
        return logits.gather(-1, labels[:, None])[:, 0] - normaliser

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        logits, normaliser, labels = context.saved_tensors
        logits.sub_(normaliser[:, None]).exp_().neg_()
        logits[torch.arange(len(labels)), labels] += 1
        return logits.mul_(gradient[:, None]), None


@contextmanager
def flash_attention():
    """verl's log-probs by the stand-in."""
    verls = transformer_impl.logprobs_from_logits
    transformer_impl.logprobs_from_logits = lambda logits, labels, **_: OverwritingCrossEntropy.apply(logits, labels)
    try:
        yield
    finally:
        transformer_impl.logprobs_from_logits = verls


def _inputs(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(VOCABULARY, HIDDEN, dtype=dtype).requires_grad_()
    return torch.randn(tokens, HIDDEN, dtype=dtype).requires_grad_(), weight, torch.randint(VOCABULARY, (tokens,))


def _by_verl(tokens: int, dtype: torch.dtype, *, entropy: bool = False) -> Tensor:
    """(tokens,) log-probs of a packed row from all logits; nothing but autograd holds what the forward pass made."""
    hidden, weight, labels = _inputs(tokens, dtype)
    engine = object.__new__(EgrsdEngine)
    engine.use_ulysses_sp, engine.module = False, None
    chunks = {"entropy_from_logits_with_chunking": True, "entropy_from_logits_chunk_size": 2048}
    engine.engine_config = SimpleNamespace(entropy_checkpointing=False, **chunks)
    engine.compute_entropy_from_logits = transformer_impl.verl_F.entropy_from_logits_with_chunking
    row = torch.nested.as_nested_tensor([labels], layout=torch.jagged)
    batch = TensorDict({"input_ids": row}, batch_size=1)
    tu.assign_non_tensor(batch, use_remove_padding=True, calculate_entropy=entropy, temperature=TEMPERATURE)
    arguments = {
        "input_ids_rmpad_rolled": labels,
        "temperature_rmpad": torch.full((tokens,), TEMPERATURE),
        "pad_size": 0,
    }
    output = SimpleNamespace(logits=(hidden @ weight.T)[None])
    return engine.prepare_model_outputs(output, arguments, batch, None)["log_probs"].values()


def trained_by_verl(tokens: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """The student's update with score_student=always."""
    with Peak() as peak:
        _by_verl(tokens, dtype).sum().backward()
    return peak.reserved / tokens / VOCABULARY


@torch.no_grad()
def scored_by_verl(tokens: int) -> float:
    """verl's old_log_prob pass, of so few tokens that its entropy takes one chunk."""
    with Peak() as peak:
        _by_verl(tokens, torch.bfloat16, entropy=True)
    return peak.reserved / tokens / VOCABULARY


def in_chunks(tokens: int, *, also: str | None = None, backward: bool = True, chunks: int = 2) -> float:
    """The head's own way: bytes of each of the logits that exist at a time, of so many chunks of so many tokens.

    Args:
        also: entropy, or a divergence by its kind.
    """
    hidden, weight, labels = _inputs(chunks * tokens, torch.bfloat16)
    beside = Entropy() if also == "entropy" else None
    if also and beside is None:
        beside = Divergence(hidden.detach(), weight.detach(), temperature=TEMPERATURE, kind=also, clip=0.05)
    with Peak() as peak, torch.set_grad_enabled(backward):
        knobs = {"temperature": TEMPERATURE, "also": beside, "chunk_logits": tokens * VOCABULARY}
        scores = head_scores(hidden, weight, None, labels, **knobs)
        if backward:
            scores.sum().backward()
    return peak.reserved / tokens / VOCABULARY


def main() -> None:
    """Prints a line for each pass."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tokens", type=int, default=128)
    tokens = parser.parse_args().tokens
    with flash_attention():
        print(f"trained by verl, flash-attn's cross entropy (stand-in)  {trained_by_verl(tokens):5.2f}")
    print(f"trained by verl, its torch functions                    {trained_by_verl(tokens):5.2f}")
    print(f"the same, float32 model                                 {trained_by_verl(tokens, torch.float32):5.2f}")
    print(f"verl's scoring pass                                     {scored_by_verl(tokens):5.2f}")
    print(
        "a chunk of engine/head.py, scored (log-prob and entropy)       "
        f"{in_chunks(tokens, also='entropy', backward=False):5.2f}"
    )
    for chunks in (2, 8):
        print(
            f"a chunk of engine/head.py, trained, {chunks} chunks                   "
            f"{in_chunks(tokens, chunks=chunks):5.2f}"
        )
    for kind in ("forward_kl", "reverse_kl"):
        print(f"a chunk of engine/head.py, trained on {kind:26s}{in_chunks(tokens, also=kind):5.2f}")


if __name__ == "__main__":
    main()
