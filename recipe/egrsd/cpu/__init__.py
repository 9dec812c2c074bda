"""Parts that let the same command run without a GPU. Imported only when VERL_PLATFORM=cpu; nothing here alters a GPU
run."""

import os


def enabled() -> bool:
    """True when the user asked for the CPU with ``VERL_PLATFORM=cpu``."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
