"""Any object with `fileno() doRead() doWrite() connectionLost(reason)`, watched by the loop.

This is what `addReader` and its kin stand on. The grammar of the calls that such an object gets:

    (doRead | doWrite)*  connectionLost?

doRead and doWrite return None, or an exception or Failure that disconnects the object; so does
raising one, or a `fileno()` that is no longer what it was. An object that has been removed gets
no further call.
"""

from __future__ import annotations

from typing import Any, Callable

from minireactor.core.handler import Handler
from minireactor.core.loop import Loop
from minireactor.error import ConnectionDone, ConnectionFdescWentAway
from minireactor.failure import Failure, safe_repr


class UserDescriptor(Handler):
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
        why = do() if self._has_its_descriptor() else ConnectionFdescWentAway()
        if not self._set.holds(self):
            return
        if not why and not self._has_its_descriptor():
            why = ConnectionFdescWentAway()
        if why:
            self._disconnect(why if isinstance(why, Failure) else Failure(why), do)

    def _has_its_descriptor(self) -> bool:
        return bool(self._object.fileno() == self.fd)

    def _disconnect(self, reason: Failure, do: Callable[[], Any]) -> None:
        half = getattr(self._object, "readConnectionLost", None)
        if half is not None and do == self._object.doRead and reason.check(ConnectionDone):
            self._set.change(self._object, reading=False)
            half(reason)
        else:
            self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        if self._set.drop(self):
            self._object.connectionLost(reason)


class DescriptorSet:
    """The objects of one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._adopted: dict[int, UserDescriptor] = {}

    def change(self, obj: Any, **flags: bool) -> None:
        """Set `reading` or `writing` of an object: the reactor's own, or a foreign one.

        ValueError if another object has the same descriptor, OSError if the system cannot watch
        it."""
        handler = obj if isinstance(obj, Handler) else self._adopted.get(id(obj))
        if handler is None:
            if not any(flags.values()):
                return
            handler = self._adopt(obj)
        if not (isinstance(handler, UserDescriptor) or self._loop.knows(handler)):
            return  # a connection or port that has ended
        for name, value in flags.items():
            setattr(handler, name, value)
        if isinstance(handler, UserDescriptor) and not handler.wanted():
            self.drop(handler)
        elif self._loop.knows(handler):
            self._arm(handler, adding=any(flags.values()))

    def _arm(self, handler: Handler, adding: bool) -> None:
        try:
            self._loop.arm(handler)
        except OSError:
            if adding:
                self.drop(handler)
                raise
            # Half of it was removed after its descriptor had been closed.
            self._loop.disarm(handler)
            self.end_soon(handler)

    def _adopt(self, obj: Any) -> UserDescriptor:
        fd = obj.fileno()
        other = self._loop.handler_of(fd)
        if other is not None and _still_has(other, fd):
            raise ValueError(
                f"{safe_repr(obj)} and {safe_repr(other.owner())} share descriptor {fd}; remove one"
            )
        handler = UserDescriptor(self, obj, fd)
        if fd < 0:
            self.end_soon(handler)
        else:
            self._loop.attach(handler)
        self._adopted[id(obj)] = handler
        return handler

    def end_soon(self, handler: Handler) -> None:
        """Its descriptor is gone: tell it on the next pass."""
        reason = Failure(ConnectionFdescWentAway())
        self._loop.call_soon(self._loop.guard, handler, handler.connectionLost, reason)

    def holds(self, handler: Handler) -> bool:
        return self._adopted.get(id(handler.owner())) is handler

    def drop(self, handler: Handler) -> bool:
        """Forget an object; False if that has been done already."""
        if not self.holds(handler):
            return False
        del self._adopted[id(handler.owner())]
        self._loop.detach(handler)
        return True

    def remove_all(self) -> list[Any]:
        removed = [handler for handler in self._loop.shown() if handler.wanted()]
        for handler in removed:
            self.change(handler.owner(), reading=False, writing=False)
        return [handler.owner() for handler in removed]


def _still_has(handler: Handler, fd: int) -> bool:
    """Whether it has not closed its descriptor behind our back."""
    try:
        return handler.hidden or bool(handler.owner().fileno() == fd)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return False
