"""Writes checkpoints with verl's own FSDP checkpoint manager, as a run would: python verl_checkpoints.py MODEL FOLDER

full    weights in shards         full_hf    the same, and saved as a model under huggingface/
lora    an adapter and its base   lora_only  the adapter alone (save_lora_only=true)
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard
from transformers import AutoTokenizer, Qwen3ForCausalLM
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager


def save(model, folder: Path, tokenizer, contents: list[str], *, lora_only: bool = False) -> None:
    config = OmegaConf.create({"save_contents": contents, "load_contents": contents, "save_lora_only": lora_only})
    manager = FSDPCheckpointManager(model, None, None, processing_class=tokenizer, checkpoint_config=config)
    manager.save_checkpoint(str(folder / "global_step_1" / "actor"), global_step=1)


def main(source: str, folder: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = dist.init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",))
    tokenizer = AutoTokenizer.from_pretrained(source)
    full = fully_shard(Qwen3ForCausalLM.from_pretrained(source), mesh=mesh)
    save(full, folder / "full", tokenizer, ["model"])
    save(full, folder / "full_hf", tokenizer, ["model", "hf_model"])
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    tied = Qwen3ForCausalLM.from_pretrained(source, tie_word_embeddings=True)  # as in Qwen3-0.6B to 4B
    lora = fully_shard(get_peft_model(tied, config), mesh=mesh)
    save(lora, folder / "lora", tokenizer, ["model", "hf_model"])
    save(lora, folder / "lora_only", tokenizer, ["model"], lora_only=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
