"""What looks at Alice and Bob from outside: the wire between them, the command line, the console, reports, notebooks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.notebook import Comparison, Figure, Result, TransmissionError, compare, transmit

__all__ = ["Comparison", "Figure", "Result", "TransmissionError", "compare", "transmit"]


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is asked for."""
    if name in __all__:
        from harness import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
