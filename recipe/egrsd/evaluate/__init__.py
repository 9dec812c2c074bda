"""The parts of ``python -m recipe.egrsd.evaluate``. torch and vLLM are imported only where something is generated."""


class Refused(ValueError):
    """What the user can mend: one sentence with the reason and the way out."""
