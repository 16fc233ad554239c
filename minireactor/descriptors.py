"""Any object with `fileno() doRead() doWrite() connectionLost(reason)`, watched by the loop.

This is what `addReader` and its kin stand on. The grammar of the calls that such an object gets:

    (doRead | doWrite)*  connectionLost?

doRead and doWrite return None, or an exception or Failure that disconnects the object; so does
raising one, or a `fileno()` of -1.
"""

from __future__ import annotations

from typing import Any, Callable

from minireactor.error import ConnectionDone, ConnectionFdescWentAway
from minireactor.failure import Failure
from minireactor.handler import Handler
from minireactor.loop import Loop


class Foreign(Handler):
    """Stands for somebody else's object."""

    __slots__ = ("_object", "_set")

    def __init__(self, owners: DescriptorSet, obj: Any, fd: int) -> None:
        super().__init__(fd)
        self._set = owners
        self._object = obj

    def owner(self) -> Any:
        return self._object

    def doRead(self) -> None:
        self._call(self._object.doRead)

    def doWrite(self) -> None:
        self._call(self._object.doWrite)

    def _call(self, do: Callable[[], Any]) -> None:
        why = do() if self._object.fileno() != -1 else ConnectionFdescWentAway()
        if not why:
            return
        reason = why if isinstance(why, Failure) else Failure(why)
        half = getattr(self._object, "readConnectionLost", None)
        if half is not None and do == self._object.doRead and reason.check(ConnectionDone):
            self._set.change(self._object, reading=False)
            half(reason)
        else:
            self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        self._set.drop(self._object)
        self._object.connectionLost(reason)


class DescriptorSet:
    """The objects of one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._foreign: dict[int, Foreign] = {}

    def change(self, obj: Any, **flags: bool) -> None:
        """Set `reading` or `writing` of an object: the reactor's own, or a foreign one."""
        handler = obj if isinstance(obj, Handler) else self._foreign.get(id(obj))
        if handler is None:
            if not any(flags.values()):
                return
            handler = self._adopt(obj)
        if not self._loop.knows(handler):
            return
        for name, value in flags.items():
            setattr(handler, name, value)
        if isinstance(handler, Foreign) and not handler.wanted():
            self.drop(obj)
            return
        try:
            self._loop.arm(handler)
        except OSError:
            self.drop(obj)
            raise

    def _adopt(self, obj: Any) -> Handler:
        fd = obj.fileno()
        handler = Foreign(self, obj, fd)
        other = self._loop.handler_of(fd)
        if fd < 0:
            self._end_soon(handler)
            return handler
        if other is not None:
            if other.owner().fileno() == fd:
                raise ValueError(f"{obj!r} and {other.owner()!r} share descriptor {fd}; remove one")
            other.armed = None  # closed behind our back, and its number taken again
            self._end_soon(other)
        self._loop.attach(handler)
        self._foreign[id(obj)] = handler
        return handler

    def _end_soon(self, handler: Handler) -> None:
        reason = Failure(ConnectionFdescWentAway())
        self._loop.call_soon(self._loop.guard, handler, handler.connectionLost, reason)

    def drop(self, obj: Any) -> None:
        """Forget an object, which may have closed its descriptor already."""
        handler = self._foreign.pop(id(obj), None)
        if handler is not None:
            try:
                self._loop.detach(handler)
            except (OSError, ValueError, KeyError):
                self._loop.forget(handler)

    def remove_all(self) -> list[Any]:
        removed = [handler for handler in self._loop.shown() if handler.wanted()]
        for handler in removed:
            self.change(handler.owner(), reading=False, writing=False)
        return [handler.owner() for handler in removed]
