"""How the head multiplies: what is low precision there is what enters a product, never its sum."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SUMS = [f"allow_{dtype}_reduced_precision_reduction" for dtype in ("bf16", "fp16")]


@contextmanager
def as_called(device: str) -> Iterator[None]:
    """Outside autocast, and with products that are summed in float32 and rounded once.

    torch lets cuBLAS split a long sum, of a vocabulary, say, and add the parts in bfloat16
    (torch.backends.cuda.matmul).
    """
    cublas = torch.backends.cuda.matmul
    before = {name: getattr(cublas, name) for name in _SUMS}
    try:
        for name in _SUMS:
            setattr(cublas, name, False)
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for name, value in before.items():
            setattr(cublas, name, value)
