"""verl's FSDP engine whose head scores the responses itself, in float32 chunks: no pass of ours holds their logits.

verl divides bfloat16 logits by the rollout temperature in bfloat16, and without remove-padding takes the entropy in
bfloat16, too. Either moves a value by up to 0.1 nat, the size of what the gate and the ratio read.

For a divergence over the vocabulary the engine also hands out what the teacher's head was given, and takes it back when
it trains. A batch that does not ask for chunks (score_student=always) is scored and trained as verl does, from float32
logits.
"""

# What verl's engine sets when it is built is declared nowhere, and a pass is under way where these methods are called.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOptionalCall=false

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.ulysses import get_ulysses_sequence_parallel_rank
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from recipe.egrsd.engine.head import head_scores, product_dtype, require_plain_head, scoring_head
from recipe.egrsd.engine.layers import layers_not_shared
from recipe.egrsd.engine.packing import require_rows_apart
from recipe.egrsd.engine.shared_prompt import present, prompt_inputs, require_attention_only, response_inputs
from recipe.egrsd.method.divergence import Divergence
from recipe.egrsd.method.vocabulary import Entropy, VocabularySum

PROBED_TOKENS = 8
VENDOR = "egrsd"
"""config/algorithm/egrsd.yaml puts it into VERL_ENGINE_VENDOR, by which verl chooses among registered engines."""


def float32_logits(logits: Tensor, temperature: Tensor | None) -> Tensor:
    """logits / temperature in float32, one pass, no copy in between.

    Args:
        logits: (..., vocabulary), any dtype.
        temperature: float32, broadcasts against logits; None stands for 1.

    Returns:
        float32 logits. In a forward pass without gradients -inf (a padded vocabulary) becomes the smallest float32: the
        probability stays 0, and 0 * log 0 in an entropy is 0 instead of NaN.
    """
    scaled = logits.float() if temperature is None else logits / temperature.clamp(min=1e-8)
    return scaled if scaled.requires_grad else scaled.clamp_(min=torch.finfo(torch.float32).min)


def without_autocast(function: Callable) -> Callable:
    """The function outside of the autocast that verl opens around a micro-batch, so that float32 stays float32.

    verl's means the model; it lasts until outputs and loss are computed (transformer_impl.py:1565).
    """

    @wraps(function)
    def in_full_precision(*args, **kwargs):
        with torch.autocast(get_device_name(), enabled=False):
            return function(*args, **kwargs)

    return in_full_precision


@dataclass
class ChunkedPass:
    """Where the head scores in one pass through the model, and what."""

    chosen: Tensor
    """(tokens of this rank,) bool, over prompt + response of all rows."""
    layout: Tensor
    """(B, S) bool, the same positions as the model holds them: packed, or padded rows."""
    labels: Tensor
    """(N,) int64, the tokens that the positions predict."""
    temperature: float
    also: VocabularySum | None
    """What is computed beside the log-probs of the labels."""
    keeps_hidden: bool
    hidden: Tensor | None = None
    """(N, H) that the head was given, if it is kept."""


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device=["cuda", "npu"], vendor=VENDOR)
class EgrsdEngine(FSDPEngineWithLMHead):
    """Scores responses in the head, in chunks, or hands verl float32 logits that are already scaled
    (transformer_impl.py:1332).

    A batch says what it wants by flags: ``egrsd_in_chunks`` (log-probs and the like of its responses without their
    logits, in whatever pass), ``egrsd_shared_by`` (so many rows in a row have one prompt, which is read once),
    ``egrsd_keeps_hidden`` (return what the head was given, too). Without the first, verl computes everything from all
    logits.
    """

    under_way: ChunkedPass | None = None
    """The pass of the micro-batch at hand; None where verl's own way is taken."""
    divergence: Callable[..., Divergence] | None = None
    """Set by the worker before an update whose micro-batches hold ``teacher_hidden``, and dropped after it: (N, H)
    hidden states of the teacher and the temperature -> what the head computes of them."""

    def forward_step(self, micro_batch, loss_function, forward_only):
        self.under_way = None
        loss_function = loss_function and without_autocast(loss_function)
        if not _flag(micro_batch, "egrsd_in_chunks"):
            return super().forward_step(micro_batch, loss_function, forward_only)
        with scoring_head(self.module.get_output_embeddings(), self._scores):
            return super().forward_step(micro_batch, loss_function, forward_only)

    def _scores(self, hidden: Tensor) -> Tensor:
        """(B, S, H) -> what the head returns instead of logits."""
        head, under_way = self.module.get_output_embeddings(), self.under_way
        chosen, also = hidden[under_way.layout], under_way.also
        if under_way.keeps_hidden:
            under_way.hidden = chosen.detach().to(product_dtype(chosen))  # as the head's product has it
        return head_scores(
            chosen, head.weight, head.bias, under_way.labels, temperature=under_way.temperature, also=also
        )

    def require_right_scores(self) -> None:
        """See head.py and packing.py. A collective call: under FSDP every rank takes part in a forward pass."""
        ids = torch.arange(PROBED_TOKENS, device=get_device_id())[None]
        with self.eval_mode(), self._autocast():
            require_plain_head(self.module, ids)
            if self.use_remove_padding and layers_not_shared(self.model_config.hf_config):
                require_rows_apart(self)

    def _autocast(self) -> torch.autocast:
        """The context that verl opens around its own pass (transformer_impl.py:1565)."""
        return torch.autocast(get_device_name(), self._autocast_dtype, enabled=self._autocast_dtype != torch.float32)

    def prepare_model_inputs(self, micro_batch):
        if not _flag(micro_batch, "egrsd_in_chunks"):
            return super().prepare_model_inputs(micro_batch)
        if group_size := _flag(micro_batch, "egrsd_shared_by"):
            return self._inputs_after_the_prompts(micro_batch, group_size)
        model_inputs, output_args = super().prepare_model_inputs(micro_batch)
        rolled = output_args["input_ids_rmpad_rolled"]
        chosen, packed = self._response_positions(micro_batch, rolled.numel()), model_inputs["attention_mask"] is None
        layout = chosen[None] if packed else padded_positions(chosen, micro_batch["input_ids"])
        self.under_way = self._pass(micro_batch, chosen=chosen, layout=layout, labels=rolled[chosen])
        return model_inputs, output_args

    def _pass(self, micro_batch: TensorDict, **positions: Tensor) -> ChunkedPass:
        temperature, also = float(micro_batch["temperature"]), None
        if "teacher_hidden" in micro_batch:
            size = self.module.get_output_embeddings().in_features
            hidden, responses = micro_batch["teacher_hidden"], micro_batch["responses"]
            at = first_positions(hidden.offsets().diff() // size, responses.offsets()[:-1])
            also = self.divergence(hidden.values().view(-1, size), at=at, temperature=temperature)
        elif _flag(micro_batch, "calculate_entropy"):
            also = Entropy()
        keeps_hidden = _flag(micro_batch, "egrsd_keeps_hidden")
        return ChunkedPass(temperature=temperature, also=also, keeps_hidden=keeps_hidden, **positions)

    def _response_positions(self, micro_batch: TensorDict, tokens: int) -> Tensor:
        """``response_positions`` of this rank's part of the packed rows, which has so many tokens."""
        shards = self.ulysses_sequence_parallel_size if self.use_ulysses_sp else 1
        positions = F.pad(
            response_positions(micro_batch), (0, tokens * shards - micro_batch["input_ids"].offsets()[-1].item())
        )
        return positions.view(shards, -1)[get_ulysses_sequence_parallel_rank() if shards > 1 else 0]

    def _inputs_after_the_prompts(self, micro_batch: TensorDict, group_size: int) -> tuple[dict, dict]:
        """Reads the prompt of each group and leaves the responses to the pass that verl is about to make."""
        require_attention_only(self.model_config.hf_config)
        rows, responses = micro_batch["input_ids"].unbind(), micro_batch["responses"].unbind()
        prompts = [row[: -len(response)] for row, response in zip(rows, responses, strict=True)][::group_size]
        cache, inputs = DynamicCache(), prompt_inputs(prompts)
        nowhere = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)  # no scores yet
        self.under_way = self._pass(micro_batch, chosen=nowhere, layout=nowhere, labels=prompts[0][:0])
        with self._autocast():
            self.module(**inputs, past_key_values=cache, use_cache=True)
        chosen, labels = response_positions(micro_batch), micro_batch["responses"].values()
        self.under_way = self._pass(micro_batch, chosen=chosen, layout=present(responses), labels=labels)
        return response_inputs(prompts, responses, cache), {}

    @without_autocast
    def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
        if self.under_way is not None:
            return self._outputs(output.logits, output_args.get("pad_size", 0), micro_batch)
        key, temperature = _temperature(output_args)
        output.logits = float32_logits(output.logits, temperature)
        output_args = {**output_args, key: torch.ones_like(output_args[key]), "temperature_is_one": True}
        return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)

    def _outputs(self, scores: Tensor, pad_size: int, micro_batch: TensorDict) -> dict[str, Tensor]:
        """What verl returns, each (B, jagged) over prompt + response, 0 where the prompt is. scores: (N, 1 or 2)."""
        under_way, ids = self.under_way, micro_batch["input_ids"]
        columns, result = {"log_probs": scores[:, 0]}, {}
        if also := under_way.also:
            columns[also.name] = scores[:, 1]
            zeros = torch.zeros_like(scores[:, 1])
            columns |= {name: zeros.index_copy(0, also.at, values) for name, values in also.watched.items()}
        for name, column in columns.items():
            everywhere = column.new_zeros(under_way.chosen.numel()).masked_scatter(under_way.chosen, column)
            unpadded = self._gather_and_unpad_packed(everywhere, pad_size)
            result[name] = torch.nested.nested_tensor_from_jagged(unpadded, ids.offsets())
        if under_way.keeps_hidden:
            rows = under_way.hidden.split(micro_batch["responses"].offsets().diff().tolist())
            result["teacher_hidden"] = torch.nested.as_nested_tensor(
                [row.flatten() for row in rows], layout=torch.jagged
            )
        return result


def response_positions(micro_batch: TensorDict) -> Tensor:
    """(tokens,) bool over prompt + response of all rows: True where a position predicts a response token, one before
    it."""
    ids, responses = micro_batch["input_ids"], micro_batch["responses"]
    positions = torch.zeros(ids.values().numel(), dtype=torch.bool, device=ids.device)
    for end, length in zip(ids.offsets()[1:].tolist(), responses.offsets().diff().tolist(), strict=True):
        positions[end - length - 1 : end - 1] = True
    return positions


def first_positions(counts: Tensor, starts: Tensor) -> Tensor:
    """The first so many positions of each response, where they stand among those of all: (B,), (B,) -> (sum,)."""
    within = torch.arange(int(counts.sum()), device=counts.device) - (counts.cumsum(0) - counts).repeat_interleave(
        counts
    )
    return starts.repeat_interleave(counts) + within


def padded_positions(positions: Tensor, ids: Tensor) -> Tensor:
    """(tokens,) bool -> (B, S), row by row as verl pads the jagged ids."""
    return pad_sequence(list(positions.split(ids.offsets().diff().tolist())), batch_first=True)


def _flag(micro_batch: TensorDict, key: str) -> Any:
    return tu.get_non_tensor_data(data=micro_batch, key=key, default=False)


def _temperature(output_args: dict) -> tuple[str, Tensor | None]:
    """Where verl keeps the temperatures, and in a shape that divides the logits: one a token if packed, one a row if
    padded."""
    key, new_axes = ("temperature_rmpad", 1) if "temperature_rmpad" in output_args else ("temperature", 2)
    if output_args.get("temperature_is_one", False):
        return key, None
    return key, output_args[key][(..., *[None] * new_axes)]
