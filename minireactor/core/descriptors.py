"""Watch objects of the application that have a descriptor: addReader(), addWriter(), removeAll().

Such an object has the methods `fileno() doRead() doWrite() connectionLost(reason)`. The grammar of
the calls that it gets:

    (doRead | doWrite)*  connectionLost?

doRead and doWrite return None to go on. The object is disconnected if one of them returns or raises
an exception, if one returns a Failure, or if `fileno()` changes. An object that has been removed
gets no further call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from minireactor.core.handler import Handler
from minireactor.core.loop import Loop
from minireactor.error import ConnectionDone, ConnectionFdescWentAway
from minireactor.failure import Failure, safe_repr

if TYPE_CHECKING:
    from minireactor.core.handler import Target


class UserDescriptor(Handler):
    """The handler of an object of the application, which is its target."""

    __slots__ = ("_object", "_set")

    def __init__(self, descriptors: DescriptorSet, obj: Target, fd: int) -> None:
        super().__init__(fd)
        self._set = descriptors
        self._object = obj

    def target(self) -> Target:
        return self._object

    def doRead(self) -> None:
        self._call(self._object.doRead)

    def doWrite(self) -> None:
        self._call(self._object.doWrite)

    def _call(self, do: Callable[[], Exception | Failure | None]) -> None:
        why = do() if self._has_its_descriptor() else ConnectionFdescWentAway()
        if not self._set.holds(self):
            return
        if not why and not self._has_its_descriptor():
            why = ConnectionFdescWentAway()
        if why:
            self._disconnect(why if isinstance(why, Failure) else Failure(why), do)

    def _has_its_descriptor(self) -> bool:
        return bool(self._object.fileno() == self.fd)

    def _disconnect(self, reason: Failure, do: Callable[[], Exception | Failure | None]) -> None:
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
    """The application's objects that one loop watches."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._watched: dict[int, UserDescriptor] = {}  # the keys are the ids of the objects

    def change(self, obj: Target, **flags: bool) -> None:
        """Set the flags `reading` and `writing` of a handler or of an object of the application.

        Raises ValueError if another object has the same descriptor, and OSError if the system
        cannot watch the descriptor."""
        handler = obj if isinstance(obj, Handler) else self._watched.get(id(obj))
        if handler is None:
            if not any(flags.values()):
                return
            handler = self._watch(obj)
        if not (isinstance(handler, UserDescriptor) or self._loop.knows(handler)):
            return  # a connection or port that has ended
        for name, value in flags.items():
            setattr(handler, name, value)
        if isinstance(handler, UserDescriptor) and not handler.interest():
            self.drop(handler)
        elif self._loop.knows(handler):
            self._update(handler, adding=any(flags.values()))

    def _update(self, handler: Handler, adding: bool) -> None:
        try:
            self._loop.update_interest(handler)
        except OSError:
            if adding:
                self.drop(handler)
                raise
            # The application has closed the descriptor, and then removed only reader or writer.
            self._loop.unregister(handler)
            self.end_soon(handler)

    def _watch(self, obj: Target) -> UserDescriptor:
        fd = obj.fileno()
        other = self._loop.handler_of(fd)
        if other is not None and _still_has(other, fd):
            raise ValueError(
                f"{safe_repr(obj)} and {safe_repr(other.target())} share descriptor {fd}; "
                "remove one"
            )
        handler = UserDescriptor(self, obj, fd)
        if fd < 0:
            self.end_soon(handler)
        else:
            self._loop.attach(handler)
        self._watched[id(obj)] = handler
        return handler

    def end_soon(self, handler: Handler) -> None:
        """Report in the next iteration that the handler's descriptor has gone away."""
        reason = Failure(ConnectionFdescWentAway())
        self._loop.call_soon(self._loop.guard, handler, handler.connectionLost, reason)

    def holds(self, handler: Handler) -> bool:
        """Return whether `handler` is the present handler of its object."""
        return self._watched.get(id(handler.target())) is handler

    def drop(self, handler: Handler) -> bool:
        """Stop watching the object of `handler`. Return False if that has been done already."""
        if not self.holds(handler):
            return False
        del self._watched[id(handler.target())]
        self._loop.detach(handler)
        return True

    def remove_all(self) -> list[Target]:
        """Clear the flags of all application handlers, and return the targets that had one set."""
        removed = [handler for handler in self._loop.application_handlers() if handler.interest()]
        for handler in removed:
            self.change(handler.target(), reading=False, writing=False)
        return [handler.target() for handler in removed]


def _still_has(handler: Handler, fd: int) -> bool:
    """Return whether `fd` is still the descriptor of the handler's target.

    The target may have closed its descriptor without a call of removeReader() or removeWriter()."""
    try:
        return handler.internal or bool(handler.target().fileno() == fd)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return False
