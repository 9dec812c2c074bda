"""The receiving end of a weight sync, in vLLM's worker: verl's function, and why it failed."""

from collections.abc import Callable
from functools import wraps


def saying_why(receive: Callable) -> Callable:
    """verl's update_weights_from_ipc, which runs in vLLM's worker, with every cause of its failure in one line.

    vLLM hands on the text of the last exception alone, and that is of the clean-up: *cannot close exported pointers
    exist*.
    """

    @wraps(receive)
    def receive_or_say_why(*args, **kwargs):
        try:
            return receive(*args, **kwargs)
        except Exception as error:
            causes, seen = [], error
            while seen is not None:
                causes.insert(0, f"{type(seen).__name__}: {' '.join(str(seen).split())}")
                seen = seen.__cause__ or seen.__context__
            raise RuntimeError("; then ".join(causes)) from error

    return receive_or_say_why
