"""What a machine has for a model's attention: asked before Ray, asked of every node, and answered in one line."""

import os
import subprocess
import sys

import pytest
import torch
from composing import composed
from runs import ROOT
from transformers import Qwen3Config
from transformers.masking_utils import create_causal_mask

from recipe.egrsd.machines import attention

FLASH, SDPA = "flash_attention_2", "sdpa"
ULYSSES = "actor_rollout_ref.actor.ulysses_sequence_parallel_size"
SCORING = "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu"
NOT_INSTALLED = "the package for FlashAttention2 doesn't seem to be installed"


def naming(name: str) -> str:
    return f"+{attention.KEY}={name}"


# ---------------------------------------------------------------- which attention


@pytest.mark.parametrize(
    ("named", "answers", "found", "said"),
    [
        (None, {}, FLASH, ""),  # verl's default: nobody could be asked, or everybody has it
        (None, {"a": ("", ""), "b": ("", "")}, FLASH, ""),
        (
            None,
            {"a": ("", ""), "b": ("", "is not installed")},
            SDPA,
            "flash_attention_2 cannot be used on b (is not installed)",
        ),
        (FLASH, {"a": ("", "")}, FLASH, ""),
        ("eager", {"a": ("", "")}, "eager", ""),
        (
            FLASH,
            {"a": ("", ""), "b": ("", "not there")},
            None,
            "=flash_attention_2 cannot be used on b: not there. Drop the key",
        ),
        (None, {"a": ("", ""), "b": ("no GPU", "")}, None, "b cannot train: no GPU. Update the driver"),
    ],
)
def test_the_attention_that_every_machine_has(named, answers, found, said, monkeypatch):
    """Every machine is asked for what the run would take; the answer stands in the config, in a line, or ends the
    run."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    config, asked = composed(*[naming(named)] * bool(named)), []
    if found is None:
        with pytest.raises(ValueError, match=said):
            attention.settle(config, lambda _: answers)
        return
    line = attention.settle(config, lambda question: asked.append(question) or answers)
    assert [(question.func, *question.args) for question in asked] == [(attention.faults, named or FLASH)]
    assert config.actor_rollout_ref.model.override_config.attn_implementation == found
    assert line.startswith(f"EGRSD: attn_implementation={found}{said and ': '}{said or '.'}")


def test_transformers_itself_is_asked():
    """flash-attn needs a GPU, so that it is not here; the others are part of PyTorch."""
    assert [attention.attention_fault(name) for name in (SDPA, "eager", "flex_attention")] == ["", "", ""]
    assert NOT_INSTALLED in attention.attention_fault(FLASH)
    assert '`attn_implementation="flash"` is not supported' in attention.attention_fault("flash")
    kernel = attention.attention_fault("kernels-community/nowhere")
    assert kernel and "\n" not in kernel


def outside(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, in a shell without variables of verl or Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "RAY_"))}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=kept | variables, capture_output=True, text=True, timeout=300)


def test_a_library_that_is_not_there_stops_the_command_line(tmp_path):
    """Before Ray. A worker would say so after a minute, below fifty lines of Ray's."""
    words = ["-m", "verl.trainer.main_ppo", "algorithm=egrsd", f"hydra.run.dir={tmp_path}"]
    process = outside([*words, f"++{attention.KEY}={FLASH}"], VERL_PLATFORM="cpu")
    assert process.returncode == 1
    message = process.stderr.splitlines()[-1]
    assert message.startswith(
        f"EGRSD: {attention.KEY}={FLASH} cannot be used on this machine: FlashAttention2 has been"
    )
    assert NOT_INSTALLED in message and "Drop the key, for sdpa needs no library" in message
    assert "ray init kwargs" not in process.stdout


def test_a_machine_without_gpus_does_not_speak_for_those_that_train(monkeypatch):
    """It may lead a cluster whose nodes have the library; the trainer asks those."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    attention.refuse(composed(naming(FLASH)))
    attention.refuse(composed())


ASK = """
import ray
from hydra import compose, initialize_config_module
import recipe.egrsd.hydra_plugin
from recipe.egrsd.machines import attention, nodes

ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
for named in ([], [f"+{attention.KEY}=eager"], [f"+{attention.KEY}=flash_attention_2"]):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", ["algorithm=egrsd", *named])
    try:
        print(attention.settle(config, nodes.ask_gpu_nodes))
        print(config.actor_rollout_ref.model.override_config)
    except ValueError as refused:
        print(refused)
print(nodes.ask_gpu_nodes(lambda: ray.get_gpu_ids()))
"""


@pytest.mark.long
def test_every_node_with_gpus_is_asked():
    """Real Ray, with one GPU that is none: it has PyTorch's own attention and no library."""
    process = outside(["-c", ASK])
    assert process.returncode == 0, process.stderr
    without, its_config, eager, eagers_config, refused, seen = process.stdout.splitlines()[-6:]
    assert without.startswith("EGRSD: attn_implementation=sdpa: flash_attention_2 cannot be used on Ray node ")
    assert NOT_INSTALLED in without and "the square of a pack's tokens" in without
    assert "pip install flash-attn==2.8.3 --no-build-isolation" in without and "egrsd-verl[kernels]" in without
    assert eager == "EGRSD: attn_implementation=eager."
    assert (its_config, eagers_config) == ("{'attn_implementation': 'sdpa'}", "{'attn_implementation': 'eager'}")
    assert refused.startswith(f"{attention.KEY}=flash_attention_2 cannot be used on Ray node ")
    assert seen.endswith(": [0]}")


# ---------------------------------------------------------------- driver


PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version:  gcc 12\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (dvs-builder)\n"


@pytest.mark.parametrize(
    ("text", "cuda", "said"),
    [
        (PROPRIETARY, "13.0", "driver 535.129.03: CUDA 13.0 needs the series 580 or newer"),
        (OPEN, "13.0", "driver 550.54.14: CUDA 13.0 needs the series 580 or newer"),
        (PROPRIETARY.replace("535", "515"), "12.8", "driver 515.129.03: CUDA 12.8 needs the series 525 or newer"),
        (
            OPEN,
            None,
            f"PyTorch {torch.__version__} can use no GPU beside NVIDIA's driver 550.54.14: it was built without CUDA",
        ),
    ],
)
def test_gpus_that_pytorch_cannot_use(text, cuda, said, monkeypatch, tmp_path):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert said in attention.gpu_fault(tmp_path / "version", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert attention.gpu_fault(tmp_path / "version", tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "cuda"), [(OPEN, "12.8"), (OPEN.replace("550.54", "580.65"), "13.0"), ("nothing known", "14.1")]
)
def test_a_driver_that_is_new_enough_is_not_blamed(text, cuda, monkeypatch, tmp_path):
    """A head node, or a shell that the scheduler granted no GPU: the ranks run elsewhere."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert attention.gpu_fault(tmp_path / "version", tmp_path) == ""


def test_a_process_that_was_given_no_gpu_is_not_asked(monkeypatch, tmp_path):
    """A container on a machine with an old driver shows the driver's file and no device; a shell may hide the
    devices."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    (tmp_path / "version").write_text(OPEN)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert attention.gpu_fault(tmp_path / "version", tmp_path / "nowhere") == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert attention.gpu_fault(tmp_path / "version", tmp_path) == ""


def test_a_machine_without_gpus_has_no_fault(monkeypatch, tmp_path):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert attention.gpu_fault(tmp_path / "version") == ""
    (tmp_path / "version").write_text(OPEN)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert attention.gpu_fault(tmp_path / "version") == ""


# ---------------------------------------------------------------- packs


def test_sdpa_keeps_packed_rows_apart_with_a_square_mask():
    """What MASK_BYTES counts: one byte for each pair of tokens of a pack, and no mask at all for a row that stands
    alone."""
    config = Qwen3Config(num_hidden_layers=1, attn_implementation=SDPA)
    packed = {"config": config, "inputs_embeds": torch.empty(1, 5, 1), "attention_mask": None, "past_key_values": None}
    mask = create_causal_mask(**packed, position_ids=torch.tensor([[0, 1, 2, 0, 1]]))
    assert (mask.shape, mask.dtype) == ((1, 1, 5, 5), torch.bool)
    apart = torch.block_diag(torch.ones(3, 3).tril(), torch.ones(2, 2).tril()).bool()
    assert torch.equal(mask[0, 0], apart)
    assert create_causal_mask(**packed, position_ids=torch.arange(5)[None]) is None


def test_the_longest_pack():
    """32 rows on 8 GPUs are 4 a GPU: 4 x (512 + 512) of the student's tokens, 4 x (8192 + 512) of the teacher's."""
    batch = ["data.train_batch_size=32", "trainer.n_gpus_per_node=8", "actor_rollout_ref.actor.ppo_mini_batch_size=32"]
    key = "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu"
    assert attention.longest_pack(composed(*batch)) == (f"{key}=16384", 16384)
    assert attention.longest_pack(composed(*batch, f"{key}=100000")) == (f"{key}=100000", 4 * (8192 + 512))
    lora = attention.longest_pack(composed(*batch, "actor_rollout_ref.model.lora_rank=8"))
    assert lora == ("actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=16384", 16384)
    assert attention.longest_pack(composed(*batch, "trainer.nnodes=4")) == ("", 0)  # a row a GPU
    assert attention.longest_pack(composed(*batch, "actor_rollout_ref.model.use_remove_padding=false")) == ("", 0)


def test_the_mask_of_a_script():
    """5 x 20,000^2 bytes = 2.0e9."""
    assert attention.mask_gib(20_000) == pytest.approx(2.0e9 / 2**30)


TOO_LONG = "tokens, whose mask takes sdpa 5 bytes x 69,632 squared = 22.6 GiB; lower it to 46340"
PACKS = {
    f"{SCORING}=100000 data.train_batch_size=64 trainer.n_gpus_per_node=8": TOO_LONG,
    f"{ULYSSES}=2": (
        f"{ULYSSES}=2 needs flash attention, in which alone verl splits rows, and this run has sdpa; set it to 1"
    ),
}


@pytest.mark.parametrize("overrides", PACKS)
def test_packs_that_sdpa_cannot_take(overrides):
    config = composed(*overrides.split(" "))
    with pytest.raises(ValueError, match=r".") as refused:
        attention.check_packs(config, SDPA)
    assert PACKS[overrides] in str(refused.value) and "\n" not in str(refused.value)
    attention.check_packs(config, FLASH)
    attention.check_packs(config, "kernels-community/flash-attn2")
