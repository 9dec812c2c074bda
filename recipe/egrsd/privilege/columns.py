"""Do the training files have the columns that the privilege shows? Asked before Ray starts; rows are read later."""

from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.privilege.texts import columns


def check(data: Any, egrsd: EgrsdConfig) -> None:
    """Looks at parquet files that this machine sees.

    Raises:
        ValueError: for the first file whose ``extra_info`` lacks one; names the keys that it has.
    """
    needed = columns(egrsd.privilege, egrsd.teacher)
    files = data.get("train_files") or []
    for pattern in [files] if isinstance(files, str) else files:
        for file in glob(str(Path(pattern).expanduser())) if needed and pattern.endswith(".parquet") else []:
            there = _keys_of_extra_info(file)
            for key, column in needed.items():
                if column not in there:
                    raise ValueError(
                        f"data.train_files={file} has no extra_info.{column}, which algorithm.egrsd.privilege="
                        f"{egrsd.privilege} shows; extra_info holds {there}: name the right one in {key}, or add it "
                        "to the rows (docs/modes.md)."
                    )


def _keys_of_extra_info(file: str) -> list[str]:
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"data.train_files={file} is no parquet file ({error}); write it again.") from error
    kind = schema.field("extra_info").type if "extra_info" in schema.names else None
    return [field.name for field in kind] if kind is not None and pa.types.is_struct(kind) else []
