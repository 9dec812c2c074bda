"""What a config's value may be, and the one line that is said of one that may not.

A value is taken as YAML reads it: no text becomes a number, no number a text; 1 is no true, 2.5 no integer.
An integer is a float.
"""

import ctypes
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
SHOWN_CHARS = 80  # of a refused value


def _float32(value: float) -> float:
    if value and ctypes.c_float(value).value in (0.0, float("inf"), float("-inf")):
        raise ValueError("it should fit into a float32, in which the weights are computed")
    return value


def _object_name(value: str) -> str:
    module, _, attribute = value.rpartition(":")
    if not module or not attribute.isidentifier():
        raise ValueError("it should name a function as module:function")
    return value


ObjectName = Annotated[str, AfterValidator(_object_name)]
Number = Annotated[float, AfterValidator(_float32)]
Count = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]


def require_defaults(part: Any, name: str, defaults: Mapping[str, Any], reason: str) -> None:
    """ValueError for the first of these keys of ``algorithm.egrsd.<name>`` that is set, for nothing would read it."""
    for key, default in defaults.items():
        value = getattr(part, key)
        require(value == default, f"{name}.{key}", value, f"{reason}; leave it at {shown(default)}")


def container(node: Any) -> Any:
    """A config node as plain Python, interpolations resolved; OmegaConf's error names a key that has no value."""
    return _plain(node, throw_on_missing=True)


def shown(value: Any) -> str:
    """A value in one line, as it would be typed; cut if it is long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def complaint(error: ValidationError, key: str) -> str:
    """Pydantic's first complaint, about a key or one below it; a sentence of our own is left as it is."""
    first = error.errors()[0]
    own = first.get("ctx", {}).get("error")
    if own is not None and not first["loc"]:
        return str(own)
    name = ".".join([key, *map(str, first["loc"])])
    given = first["input"]
    return f"{name}={shown(given)} is {type(given).__name__}; {own or first['msg'].replace('Input', 'it')}."


def one_line(error: BaseException) -> str:
    """An exception as a sentence in one line; those that are no refusals of ours bring their type along."""
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}."
    text = " ".join(line.strip() for line in str(error).splitlines())
    return text if type(error) in (ValueError, RuntimeError) else f"{type(error).__name__}: {text}"


def resolved(config: DictConfig) -> dict[str, Any]:
    """A whole config but for hydra's own node, in plain Python; OmegaConf's error names a key that refers to nothing.

    What others refer to comes first, so that the key with the fault is named and not one that follows it.
    """
    first = [key for key in ("algorithm", "trainer", "data") if key in config]
    return {key: _plain(config[key]) for key in [*first, *config] if key != "hydra"}


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything below it; a list and an empty dict are values."""
    if not isinstance(node, dict) or not node:
        yield key, node
        return
    for name, value in node.items():
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def _plain(node: Any, **options: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True, **options) if OmegaConf.is_config(node) else node


def require(ok: bool, key: str, value: Any, reason: str) -> None:
    """ValueError naming the key under ``algorithm.egrsd``, unless ok."""
    if not ok:
        raise ValueError(f"algorithm.egrsd.{key}={shown(value)} {reason}.")
