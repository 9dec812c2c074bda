"""The doctor's estimates of memory by phase and term, and a model that they are made of."""

from types import SimpleNamespace

from recipe.egrsd.doctor import host, memory
from recipe.egrsd.doctor.case import Case
from recipe.egrsd.doctor.shapes import shapes

GIB = 2**30


def verls_model(config, **own) -> SimpleNamespace:
    """verl's HFModelConfig, as far as the doctor reads it."""
    plain = {"lora_rank": 0, "lora_adapter_path": None, "target_modules": "all-linear", "exclude_modules": None}
    plain |= {"trust_remote_code": False, "enable_gradient_checkpointing": True}
    return SimpleNamespace(hf_config=config, **plain | own)


def estimates(built: Case) -> dict[str, dict[str, float]]:
    """GiB, by phase without its tokens and by term."""
    phases = memory.phases(built, shapes(built.model)) | host.demands(built, shapes(built.model))
    return {name.split(", T")[0]: {term.name: term.size / GIB for term in terms} for name, terms in phases.items()}
