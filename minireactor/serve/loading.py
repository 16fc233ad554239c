"""Find the factory of the app that `minireactor serve APP` names."""

from __future__ import annotations

import importlib
import sys
from operator import attrgetter
from reprlib import repr
from typing import TYPE_CHECKING, Any, Callable, cast

from minireactor.protocol import Factory
from minireactor.serve.apps import Chargen, Discard, Echo, FileFactory, RandomFactory

if TYPE_CHECKING:
    from minireactor.interfaces import IProtocolFactory

APPS = ("random", "echo", "discard", "chargen", "file")


class LoadError(Exception):
    """An app cannot be found or used; the message says why in one line."""


def load_app(name: str, seed: int | None = None, path: str | None = None) -> IProtocolFactory:
    """Return the factory of an app, which is one of APPS or `module:name`.

    `seed` makes the integers of random repeatable. `path` names the file that the app file sends.
    A module is imported from the current directory or sys.path. The name in the module may have
    dots. It stands for a Factory, a Factory class that needs no arguments, or a Protocol class.
    Raises LoadError if there is no such app, or its name stands for something else.
    """
    if path is not None and name != "file":
        raise LoadError(f"PATH {path!r} is for file only; leave it out for {name}")
    if name == "random":
        return RandomFactory(seed)
    if name == "file":
        return _file_factory(path)
    if name in APPS:
        protocol = {"echo": Echo, "discard": Discard, "chargen": Chargen}[name]
        return Factory.forProtocol(protocol)
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{attribute}".split(".")):
        raise LoadError(f"no app {name!r}; give {', '.join(APPS)} or module:name")
    found = _find(_import(module_name), module_name, attribute)
    if isinstance(found, type):
        if hasattr(found, "buildProtocol"):
            return _make(found, name)
        if hasattr(found, "makeConnection"):
            return Factory.forProtocol(found)
    elif hasattr(found, "buildProtocol"):
        return cast("IProtocolFactory", found)
    raise LoadError(
        f"{name} is {repr(found)}; name a Factory instance or class, or a Protocol class"
    )


def _file_factory(path: str | None) -> FileFactory:
    if path is None:
        raise LoadError("file needs the PATH of the file to send")
    try:
        return FileFactory(path)
    except OSError as error:
        raise LoadError(f"cannot send {path!r}: {error.strerror}; give a file's PATH") from error
    except ValueError as error:  # the path has a NUL character in it
        raise LoadError(f"cannot send {path!r}: {error}; give a file's PATH") from error


def _import(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current directory; a console script does not search it
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    # SystemExit as well: a script that calls sys.exit() at its import would end this process.
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise LoadError(
                f"no module {error.name!r} here or on sys.path; check the name and the directory"
            ) from error
        raise LoadError(f"importing {name!r} raised {_described(error)}") from error


def _find(module: Any, module_name: str, attribute: str) -> Any:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        raise LoadError(f"module {module_name!r} has no name {attribute!r}") from error


def _make(factory: Callable[[], IProtocolFactory], name: str) -> IProtocolFactory:
    try:
        return factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit as well, as in _import()
        raise LoadError(f"{name}() raised {_described(error)}") from error


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
