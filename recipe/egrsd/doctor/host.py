"""What a run takes of the machines besides their GPUs."""

from collections.abc import Iterator

from recipe.egrsd import slots
from recipe.egrsd.doctor.case import Case, Finding, graded


def cpus(case: Case) -> Iterator[Finding]:
    """What the run holds of Ray's, with verl's lines; against what Ray is told, or has here, which may be another machine."""
    config, known = case.config, slots.known_cpus(case.config)
    short, told = known is not None and known < slots.total(config), config.ray_kwargs.ray_init.num_cpus is not None
    has = "" if known is None else f"; Ray is told that it has {known}" if told else f"; this machine has {known}"
    refused = f", and a run would be refused. {slots.WAY_OUT}" if short else ""
    sources = "".join(f"\n  {summand.cpus} for {summand.holder}: {summand.source}" for summand in slots.cpu_slots(config))
    yield Finding(graded(red=short and told, yellow=short), f"a run holds {slots.total(config)}{has}{refused}{sources}")
