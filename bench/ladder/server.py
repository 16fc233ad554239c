"""A server of the benchmarks on `tiny` as it is after one step of the ladder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import minireactor


def main(path: str) -> None:
    """Run the server that sys.argv names on the class Reactor of the file at `path`."""
    spec = importlib.util.spec_from_file_location("tiny_step", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Reactor(module.Reactor):  # type: ignore[name-defined,misc]
        """The servers ask for this one call beside those that `tiny` has."""

        def callWhenRunning(self, f: Callable[..., Any], *a: Any) -> None:
            self.callLater(0, f, *a)

    minireactor.reactor = Reactor()  # type: ignore[assignment]
    import minireactor_style  # type: ignore[import-not-found]

    minireactor_style.main()
