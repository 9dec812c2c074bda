"""vLLM in processes of its own, one for each group of GPUs: prompts in, responses out as they are finished.

One request is one response, with a seed of its own, so that it does not matter which engine answers it, or when.
Engines take requests from one queue while others are under way: no batch waits for its longest response.
"""

import multiprocessing as mp
import os
import queue
import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, cast

from recipe.egrsd import cpu
from recipe.egrsd.evaluate import Refused

MAX_IN_FLIGHT = 256  # requests in one engine at a time
GRACE_SECONDS = 10  # between asking an engine to end and ending it
CPU_TOKENS = 2048  # of prompts that an engine on the CPU reads at a time, or one prompt
POLL_SECONDS = 5  # between two looks at whether every engine is alive


@dataclass(frozen=True)
class Sampling:
    """How a response is drawn."""

    temperature: float
    """0 takes the most likely token."""
    top_p: float
    top_k: int
    """0 for no limit."""
    max_tokens: int
    """Longest response."""


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; the names are those of vLLM's EngineArgs."""

    model: str
    """A folder."""
    adapter: str | None
    lora_rank: int
    dtype: str
    seed: int
    tensor_parallel_size: int


@dataclass(frozen=True)
class Request:
    """One response to be drawn."""

    number: int
    prompt: list[int]
    seed: int


@dataclass(frozen=True)
class Response:
    """The answer to the request of that number."""

    number: int
    tokens: list[int]
    finish_reason: str
    """stop or length."""


def visible_devices() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES spells them; [""] for a run on the CPU."""
    if cpu.enabled():
        return [""]
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise Refused("no GPU is visible; set VERL_PLATFORM=cpu to run a small model on the CPU.")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(device) for device in range(count)]


def generate(requests: Sequence[Request], loading: Loading, sampling: Sampling) -> Generator[Response, None, None]:
    """Responses in the order in which they are finished.

    Raises:
        Refused: fewer GPUs than one engine needs; or an engine ended, its own error stands above.
    """
    devices, size = visible_devices(), loading.tensor_parallel_size
    groups = [devices[start : start + size] for start in range(0, len(devices) - size + 1, size)][: len(requests)]
    if not groups:
        raise Refused(f"--tensor-parallel {size} needs {size} GPUs for one engine; {len(devices)} visible.")
    context = mp.get_context("spawn")
    tasks, answers = context.Queue(), context.Queue()
    for item in [*requests, *(None for _ in groups)]:
        tasks.put(item)
    length = max(len(request.prompt) for request in requests) + sampling.max_tokens
    in_flight = min(
        MAX_IN_FLIGHT, -(-len(requests) // len(groups))
    )  # a small job is shared, not taken by the first to be ready
    arguments = (loading, sampling, length, in_flight, tasks, answers)
    places = zip(groups, free_ports(len(groups)), strict=True)
    engines = [context.Process(target=_serve, args=(",".join(group), port, *arguments)) for group, port in places]
    try:
        for engine in engines:
            engine.start()
        for _ in requests:
            yield _next_answer(answers, engines)
    finally:
        for engine in engines:
            engine.terminate()
        for engine in engines:
            engine.join(GRACE_SECONDS)
            engine.kill()
        tasks.cancel_join_thread()  # what nobody asked for any more must not keep this process from ending


def _next_answer(answers: mp.Queue, engines: Sequence[BaseProcess]) -> Response:
    while True:
        try:
            return answers.get(timeout=POLL_SECONDS)
        except queue.Empty:
            codes = [engine.exitcode for engine in engines]  # None while it lives, 0 when the queue was empty
            if any(codes) or None not in codes:
                raise Refused(
                    f"a vLLM engine ended before its work was done (exit codes {codes}); its error stands above. What "
                    "was finished is stored: the same command goes on from there."
                ) from None


def free_ports(number: int) -> list[int]:
    """So many different ports. vLLM would look for one in each engine at the same time, and may find the same one
    twice."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def _serve(
    devices: str,
    port: int,
    loading: Loading,
    sampling: Sampling,
    length: int,
    in_flight: int,
    tasks: mp.Queue,
    answers: mp.Queue,
):
    """An engine's process: ends with the queue, or with its parent."""
    os.environ["VLLM_PORT"] = str(port)  # where vLLM begins to look
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not cpu.enabled():
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    # The engine lives in this very process: its scheduling is then deterministic, and it ends when the process ends.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    engine, lora = _load(loading, length, in_flight)
    more, under_way = True, 0
    while more or under_way:
        while more and under_way < in_flight:
            try:
                request = tasks.get(block=not under_way)
            except queue.Empty:
                break
            if request is None:
                more = False
            else:
                under_way += 1
                parameters = _parameters(sampling, request.seed)
                engine.add_request(
                    str(request.number), {"prompt_token_ids": request.prompt}, parameters, lora_request=lora
                )
        for output in engine.step() if under_way else ():
            if output.finished:
                under_way -= 1
                (completion,) = output.outputs  # pyright: ignore[reportGeneralTypeIssues]  no model that pools
                if completion.finish_reason not in ("stop", "length"):
                    raise RuntimeError(f"vLLM ended a response with {completion.finish_reason!r}, which is no answer.")
                number = int(output.request_id)
                answers.put(Response(number, list(completion.token_ids), completion.finish_reason))


def _load(loading: Loading, length: int, in_flight: int):
    """The engine, and the adapter for its requests (None without one)."""
    options = {}
    if cpu.enabled():
        import recipe.egrsd.cpu.vllm  # noqa: F401  before vLLM

        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        options["enforce_eager"] = True  # compiling takes longer than a small run
        # vLLM reads a long queue's prompts in pieces and takes the piece's random number back, which no CPU generator
        # can.
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(CPU_TOKENS, length)}
    if loading.adapter:
        rank = max(8, 1 << (loading.lora_rank - 1).bit_length())  # vLLM takes powers of two
        options |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
    from vllm import EngineArgs, LLMEngine
    from vllm.lora.request import LoRARequest

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=loading.model,
            dtype=cast(Any, loading.dtype),
            seed=loading.seed,
            tensor_parallel_size=loading.tensor_parallel_size,
            max_model_len=length,
            max_num_seqs=in_flight,
            disable_log_stats=True,
            **options,
        )
    )
    return engine, LoRARequest("evaluated", 1, loading.adapter) if loading.adapter else None


def _parameters(sampling: Sampling, seed: int):
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=seed,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _end_with_parent() -> None:
    cast(BaseProcess, mp.parent_process()).join()
    os._exit(1)
