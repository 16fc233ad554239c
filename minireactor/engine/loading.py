"""Load the class of a small reactor, from `tiny` or from a file."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from typing import Any

TINY = "tiny"


class EngineError(Exception):
    """A small reactor cannot be loaded, or has failed. The message is one line."""


def load(name: str) -> Any:
    """Return the class Reactor of `tiny`, or of the Python file at the path `name`.

    Raises EngineError if there is no such file, if running it raises, or if it has no Reactor."""
    if name == TINY:
        from minireactor import tiny

        return tiny.Reactor
    path = Path(name).absolute()
    if not path.is_file():
        raise EngineError(f"{name}: there is no such file; give core, {TINY} or a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise EngineError(f"{name}: it is no Python file; its name has to end with .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as reason:
        raise EngineError(located(reason, name)) from reason
    try:
        return module.Reactor
    except AttributeError:
        raise EngineError(f"{name}: it defines no class Reactor") from None


def located(reason: BaseException, file: str) -> str:
    """Return an exception in one line, with the last line of `file` that it came through."""
    if isinstance(reason, SyntaxError):
        return f"{file}, line {reason.lineno}: {reason.msg}"
    frames = traceback.extract_tb(reason.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(file).absolute()]
    where = f"{file}, line {lines[-1]}" if lines else file
    return f"{where}: {type(reason).__name__}: {' '.join(str(reason).split())}"
