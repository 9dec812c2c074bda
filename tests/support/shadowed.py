"""The installed verl in another folder, under another version: what a checkout in the working directory is."""

from pathlib import Path

import verl


def shadow_verl(folder: Path, *, version: str) -> None:
    """``folder/verl``, linked to the installed files but for the version."""
    own, other = Path(verl.__file__).parent, folder / "verl"
    other.mkdir()
    for path in own.iterdir():
        if path.name not in ("version", "__pycache__"):
            (other / path.name).symlink_to(path)
    (other / "version").mkdir()
    (other / "version" / "version").write_text(f"{version}\n")
