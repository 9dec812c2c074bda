"""Bytes that one logit costs at the peak of a pass: the constants of the doctor's estimate (recipe/egrsd/doctor/memory.py).

    python benchmarks/logit_memory.py

Every block of memory is counted from the operation that makes it to the end of its last tensor, through the recipe's own
engine and verl's own functions, forward and backward. CUDA's caching allocator keeps blocks of up to 1 MiB apart from
larger ones, and a row of float32 logits, of which verl's torch functions make one a token, has 594 KiB: so what it reserves
is the sum of both peaks. flash-attn's cross entropy needs a GPU; its stand-in makes the same tensors: it keeps the logits,
and its backward pass writes their gradient over them (flash_attn/ops/triton/cross_entropy.py).
"""

import argparse
import weakref
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from verl.utils import tensordict_utils as tu
from verl.workers.engine.fsdp import transformer_impl

from recipe.egrsd.engine import EgrsdEngine
from recipe.egrsd.head import scored_in_chunks
from recipe.egrsd.loss import divergence_loss

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
    return torch.randn(tokens, HIDDEN, dtype=dtype), weight, torch.randint(VOCABULARY, (tokens,))


def _through_the_engine(
    tokens: int, dtype: torch.dtype, *, entropy: bool = False, divergence: str | None = None
) -> Tensor:
    """(tokens,) log-probs, or divergences, of a packed row; nothing but autograd holds what the forward pass made."""
    hidden, weight, labels = _inputs(tokens, dtype)
    engine = object.__new__(EgrsdEngine)
    engine.scores, engine.chosen, engine.use_ulysses_sp, engine.module = None, None, False, None
    chunks = {"entropy_from_logits_with_chunking": True, "entropy_from_logits_chunk_size": 2048}
    engine.engine_config = SimpleNamespace(entropy_checkpointing=False, **chunks)
    engine.compute_entropy_from_logits = transformer_impl.verl_F.entropy_from_logits_with_chunking
    row, loss = torch.nested.as_nested_tensor([labels], layout=torch.jagged), None
    batch = TensorDict({"input_ids": row}, batch_size=1)
    tu.assign_non_tensor(batch, use_remove_padding=True, calculate_entropy=entropy, temperature=TEMPERATURE)
    if divergence:
        batch["responses"] = torch.nested.as_nested_tensor([labels[1:]], layout=torch.jagged)
        batch["teacher_hidden"] = torch.nested.as_nested_tensor([hidden[1:].flatten()], layout=torch.jagged)
        engine.teacher_head = weight.detach()
        loss = partial(divergence_loss, None, SimpleNamespace(divergence=divergence, divergence_clip=0.05))
    arguments = {"input_ids_rmpad_rolled": labels, "temperature_rmpad": torch.full((tokens,), TEMPERATURE), "pad_size": 0}
    output = SimpleNamespace(logits=(hidden @ weight.T)[None])
    return engine.prepare_model_outputs(output, arguments, batch, loss)["divergence" if divergence else "log_probs"].values()


def trained(tokens: int, dtype: torch.dtype = torch.bfloat16, divergence: str | None = None) -> float:
    """The student's update."""
    with Peak() as peak:
        _through_the_engine(tokens, dtype, divergence=divergence).sum().backward()
    return peak.reserved / tokens / VOCABULARY


@torch.no_grad()
def scored_by_verl(tokens: int) -> float:
    """verl's old_log_prob pass, of so few tokens that its entropy takes one chunk."""
    with Peak() as peak:
        _through_the_engine(tokens, torch.bfloat16, entropy=True)
    return peak.reserved / tokens / VOCABULARY


@torch.no_grad()
def scored_by_head(tokens: int) -> float:
    """The teacher's pass, two chunks of so many tokens; a logit of one chunk."""
    hidden, weight, labels = _inputs(2 * tokens, torch.bfloat16)
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=torch.bfloat16)
    head.weight = torch.nn.Parameter(weight)
    with Peak() as peak, scored_in_chunks(head, lambda given: (given, labels), temperature=TEMPERATURE, chunk_tokens=tokens):
        head(hidden)
    return peak.reserved / tokens / VOCABULARY


def main() -> None:
    """Prints a line for each pass."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tokens", type=int, default=128)
    tokens = parser.parse_args().tokens
    with flash_attention():
        print(f"trained, flash-attn's cross entropy (stand-in)  {trained(tokens):5.2f}")
    print(f"trained, verl's torch functions                 {trained(tokens):5.2f}")
    print(f"trained, the same, float32 model                {trained(tokens, torch.float32):5.2f}")
    print(f"trained, opsd's divergence                      {trained(tokens, divergence='forward_kl'):5.2f}")
    print(f"verl's scoring pass                             {scored_by_verl(tokens):5.2f}")
    print(f"a chunk of head.py                              {scored_by_head(tokens):5.2f}")


if __name__ == "__main__":
    main()
