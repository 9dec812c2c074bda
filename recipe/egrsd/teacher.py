"""The scoring batch of the teacher, and the pass that fills it: log-prob and entropy of every response token.

Rows are ``privileged prompt + response``. verl's engines return per-token outputs aligned with the row's end, so another
prompt in front of the same response needs no other alignment (workers/utils/padding.py:194).
"""

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested


def scoring_batch(
    prompt_ids: Sequence[Sequence[int]], responses: Tensor, response_mask: Tensor, *, temperature: float
) -> TensorDict:
    """Rows for verl's compute_log_prob / compute_ref_log_prob.

    Args:
        prompt_ids: B privileged prompts, token ids.
        responses: (B, jagged) int64 token ids, prompt excluded.
        response_mask: (B, jagged), the student's; the engine needs a loss mask even where it computes no loss.
        temperature: of the rollout; student and teacher are compared at the temperature the student is trained at.
    """
    prompts = [torch.as_tensor(ids, dtype=torch.int64) for ids in prompt_ids]
    rows = [torch.cat([prompt, response]) for prompt, response in zip(prompts, responses.unbind(), strict=True)]
    columns = {
        "prompts": prompts,
        "responses": responses.unbind(),
        "response_mask": response_mask.unbind(),
        "loss_mask": response_mask.unbind(),
        "input_ids": rows,
        "position_ids": [torch.arange(len(row)) for row in rows],
    }
    batch = TensorDict({name: _nested(column) for name, column in columns.items()}, batch_size=len(rows))
    tu.assign_non_tensor(batch, calculate_entropy=True, compute_loss=False, temperature=temperature)
    return batch


def score(
    engine: Callable[[TensorDict], TensorDict], batch: TensorDict, *, adapter_off: bool, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Runs the pass and checks what comes back.

    Args:
        engine: the worker group's compute_log_prob (LoRA) or compute_ref_log_prob.
        batch: of scoring_batch.
        adapter_off: score with the LoRA adapter disabled: the frozen base.
        names: B sample names for error messages.

    Returns:
        log-probs and entropies, each (B, jagged) float32, nats, aligned with the response.

    Raises:
        TypeError: if the engine computed either in another dtype than float32.
        ValueError: if a value under the response mask is not finite; names the sample.
    """
    if adapter_off:
        tu.assign_non_tensor(batch, no_lora_adapter=True)
    output = engine(batch)
    aligned = {}
    for name in ("log_probs", "entropy"):
        if output[name].dtype != torch.float32:
            raise TypeError(
                f"the engine returned the teacher's {name} in {output[name].dtype}; EGRSD needs float32. Was "
                "recipe.egrsd.engine registered, or are fused kernels of another backend than triton in use?"
            )
        aligned[name] = response_from_nested(output[name], batch["response_mask"])
        _refuse_non_finite(name, aligned[name], batch["response_mask"], names)
    return aligned["log_probs"], aligned["entropy"]


def _refuse_non_finite(name: str, values: Tensor, mask: Tensor, names: Sequence[str]) -> None:
    bad = ~values.values().isfinite() & mask.values().bool()
    if bad.any():
        token = int(bad.nonzero()[0])
        row = int((values.offsets() <= token).sum()) - 1
        raise ValueError(
            f"the teacher's {name} is {values.values()[token].item()} for sample {names[row]} at response token "
            f"{token - int(values.offsets()[row])}; the teacher's weights or the logits are broken."
        )


def _nested(rows: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
