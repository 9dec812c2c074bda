"""verl's FSDP engine with float32 logits, so that log-probs and entropies carry no rounding but the model's own.

verl divides bfloat16 logits by the rollout temperature in bfloat16, and without remove-padding takes the entropy in
bfloat16, too. Either moves a value by up to 0.1 nat, the size of what the gate and the ratio read.

The head runs where it counts, at the responses: in chunks without gradients when teacher rows are scored (head.py), at once when
the student trains. For a divergence over the vocabulary the engine also hands out what the teacher's head was given there, and
takes it back when it trains.
"""

from collections.abc import Callable
from functools import partial, wraps

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

from recipe.egrsd.head import HeadScores, require_heads_logits, scored_in_chunks
from recipe.egrsd.shared_prompt import present, prompt_inputs, require_attention_only, response_inputs

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


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device=["cuda", "npu"], vendor=VENDOR)
class EgrsdEngine(FSDPEngineWithLMHead):
    """Hands verl float32 logits that are already scaled; verl computes everything from them (transformer_impl.py:1332).

    A batch says what it wants by flags: ``egrsd_scores_responses`` (no logits, but log-prob and entropy of the responses in
    chunks), ``egrsd_shared_by`` (so many rows in a row have one prompt, which is read once), ``egrsd_head_on_responses`` (logits
    of the responses alone; packed rows only, padded ones keep theirs).
    """

    scores: HeadScores | None = None
    """Of the scoring micro-batch under way, or of the last one; None in any other pass."""
    chosen: Tensor | None = None
    """(tokens of this rank,) bool: packed positions whose head is computed; None = all."""
    teacher_head: Tensor | None = None
    """(V, H), set by the worker before an update whose micro-batches hold ``teacher_hidden``, and dropped after it."""

    def forward_step(self, micro_batch, loss_function, forward_only):
        self.scores = self.chosen = None
        loss_function = loss_function and without_autocast(loss_function)
        if not _flag(micro_batch, "egrsd_scores_responses"):
            return super().forward_step(micro_batch, loss_function, forward_only)
        head = self.module.get_output_embeddings()
        with scored_in_chunks(head, self._responses_of, temperature=micro_batch["temperature"]) as self.scores:
            return super().forward_step(micro_batch, loss_function, forward_only)

    def require_heads_logits(self) -> None:
        """See head.py. A collective call: under FSDP every rank takes part in a forward pass."""
        ids = torch.arange(PROBED_TOKENS, device=get_device_id())[None]
        with self.eval_mode(), self._autocast():
            require_heads_logits(self.module, ids)

    def _autocast(self) -> torch.autocast:
        """The context that verl opens around its own pass (transformer_impl.py:1565)."""
        return torch.autocast(get_device_name(), self._autocast_dtype, enabled=self._autocast_dtype != torch.float32)

    def prepare_model_inputs(self, micro_batch):
        if self.scores is not None and (group_size := _flag(micro_batch, "egrsd_shared_by")):
            return self._inputs_after_the_prompts(micro_batch, group_size)
        model_inputs, output_args = super().prepare_model_inputs(micro_batch)
        packed = model_inputs["attention_mask"] is None
        narrow = packed and _flag(micro_batch, "egrsd_head_on_responses")
        if self.scores is None and not narrow:
            return model_inputs, output_args
        self.chosen = self._response_positions(micro_batch, output_args["input_ids_rmpad_rolled"].numel())
        self.labels = output_args["input_ids_rmpad_rolled"][self.chosen]
        self.layout = self.chosen[None] if packed else padded_positions(self.chosen, micro_batch["input_ids"])
        if self.scores is None:
            model_inputs["logits_to_keep"] = self.chosen.nonzero()[:, 0]
            temperature = output_args["temperature_rmpad"][self.chosen]
            output_args |= {"input_ids_rmpad_rolled": self.labels, "temperature_rmpad": temperature}
        return model_inputs, output_args

    def _response_positions(self, micro_batch: TensorDict, tokens: int) -> Tensor:
        """``response_positions`` of this rank's part of the packed rows, which has so many tokens."""
        shards = self.ulysses_sequence_parallel_size if self.use_ulysses_sp else 1
        positions = F.pad(response_positions(micro_batch), (0, tokens * shards - micro_batch["input_ids"].offsets()[-1].item()))
        return positions.view(shards, -1)[get_ulysses_sequence_parallel_rank() if shards > 1 else 0]

    def _responses_of(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return hidden[self.layout], self.labels

    def _inputs_after_the_prompts(self, micro_batch: TensorDict, group_size: int) -> tuple[dict, dict]:
        """Reads the prompt of each group and leaves the responses to the pass that verl is about to make."""
        require_attention_only(self.model_config.hf_config)
        rows, responses = micro_batch["input_ids"].unbind(), micro_batch["responses"].unbind()
        prompts = [row[: -len(response)] for row, response in zip(rows, responses, strict=True)][::group_size]
        cache, inputs = DynamicCache(), prompt_inputs(prompts)
        self.layout, self.labels = torch.zeros_like(inputs["input_ids"], dtype=torch.bool), prompts[0][:0]  # no scores yet
        with self._autocast():
            self.module(**inputs, past_key_values=cache, use_cache=True)
        self.chosen, self.layout = response_positions(micro_batch), present(responses)
        self.labels = micro_batch["responses"].values()
        return response_inputs(prompts, responses, cache), {}

    @without_autocast
    def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
        if self.scores is not None:
            return self._scores_by_row(output_args, micro_batch)
        if self.chosen is not None and output.logits.size(1) != len(self.labels):
            raise TypeError(
                f"{type(self.module).__name__} computed {output.logits.size(1)} logits where {len(self.labels)} were asked "
                "for (logits_to_keep); algorithm.egrsd.score_student=always trains on all of them."
            )
        key, temperature = _temperature(output_args)
        output.logits = float32_logits(output.logits, temperature)
        output_args = {**output_args, key: torch.ones_like(output_args[key]), "temperature_is_one": True}
        if "teacher_hidden" in micro_batch and logits_processor_func is not None:
            # verl's seam for what a loss computes from the logits; it is named after the one loss of verl's that does.
            tu.assign_non_tensor(micro_batch, distillation_use_topk=True)
            logits_processor_func = partial(logits_processor_func, teacher_head=self.teacher_head)
        return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)

    def _gather_and_unpad_packed(self, tensor, pad_size):
        """verl's, of values at the chosen positions: 0 everywhere else."""
        if self.chosen is not None:
            tensor = tensor.new_zeros(self.chosen.numel()).masked_scatter(self.chosen, tensor)
        return super()._gather_and_unpad_packed(tensor, pad_size)

    def _scores_by_row(self, output_args, micro_batch) -> dict[str, Tensor]:
        """What verl returns, (B, jagged) over prompt + response; 0 where the prompt is."""
        result, offsets = {}, micro_batch["input_ids"].offsets()
        for name in ("log_probs", "entropy"):
            everywhere = self._gather_and_unpad_packed(getattr(self.scores, name)[-1], output_args.get("pad_size", 0))
            result[name] = torch.nested.nested_tensor_from_jagged(everywhere, offsets)
        if _flag(micro_batch, "egrsd_keeps_hidden"):
            rows = self.scores.hidden[-1].split(micro_batch["responses"].offsets().diff().tolist())
            result["teacher_hidden"] = torch.nested.as_nested_tensor([row.flatten() for row in rows], layout=torch.jagged)
        return result


def response_positions(micro_batch: TensorDict) -> Tensor:
    """(tokens,) bool over prompt + response of all rows: True where a position predicts a response token, one before it."""
    ids, responses = micro_batch["input_ids"], micro_batch["responses"]
    positions = torch.zeros(ids.values().numel(), dtype=torch.bool, device=ids.device)
    for end, length in zip(ids.offsets()[1:].tolist(), responses.offsets().diff().tolist(), strict=True):
        positions[end - length - 1 : end - 1] = True
    return positions


def padded_positions(positions: Tensor, ids: Tensor) -> Tensor:
    """(tokens,) bool -> (B, S), row by row as verl pads the jagged ids."""
    return pad_sequence(positions.split(ids.offsets().diff().tolist()), batch_first=True)


def _flag(micro_batch: TensorDict, key: str) -> bool:
    return tu.get_non_tensor_data(data=micro_batch, key=key, default=False)


def _temperature(output_args: dict) -> tuple[str, Tensor | None]:
    """Where verl keeps the temperatures, and in a shape that divides the logits: one a token if packed, one a row if padded."""
    key, new_axes = ("temperature_rmpad", 1) if "temperature_rmpad" in output_args else ("temperature", 2)
    if output_args.get("temperature_is_one", False):
        return key, None
    return key, output_args[key][(..., *[None] * new_axes)]
