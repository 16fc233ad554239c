r"""Endpoints from strings, such as "tcp:8080:interface=127.0.0.1".

The grammar is a kind, then values and `name=value` pairs, separated by colons. A backslash makes a
following colon, equals sign or backslash part of a value: quoteStringArgument() does that.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from minireactor.endpoints import clients, servers

if TYPE_CHECKING:
    import ssl

FIRST_SYSTEMD_FD = 3  # the number of the first descriptor that systemd passes


class _Kind(NamedTuple):
    """How an endpoint is made: `make(reactor, values)`."""

    make: Callable[[Any, _Values], Any]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


class _Values(dict[str, str]):
    """The values of one description, by name."""

    def number(self, name: str, default: int = 0, base: int = 10) -> int:
        """Return a value as a number. Raises ValueError if the value is not a number."""
        if name not in self:
            return default
        try:
            return int(self[name], base)
        except ValueError:
            raise ValueError(f"{name}={self[name]!r} is not a number") from None


def quoteStringArgument(argument: str) -> str:
    """Return `argument` as a value in the description of an endpoint."""
    return re.sub(r"([\\:=])", r"\\\1", argument)


def serverFromString(reactor: Any, description: str) -> Any:
    """Return the server endpoint that `description` names.

    | kind | names; values without a name take the names in this order |
    |-|-|
    | tcp, tcp6 | port, interface, backlog |
    | ssl, tls | port, privateKey, certKey, interface, backlog |
    | unix | address, mode (octal), backlog, lockfile (0 or 1) |
    | systemd | domain (INET, INET6 or UNIX), then index or name |
    | stdio | none |

    privateKey: a PEM file, by default `server.pem`.
    certKey: a PEM file with a certificate or a chain, by default the file of privateKey.

    Raises ValueError if `description` is not valid, or a file in it cannot be used."""
    return _endpoint(reactor, description, _SERVERS)


def clientFromString(reactor: Any, description: str) -> Any:
    """Return the client endpoint that `description` names.

    | kind | names; values without a name take the names in this order |
    |-|-|
    | tcp, tcp6 | host, port, timeout, bindAddress |
    | ssl, tls | host, port, timeout, bindAddress, certificate, privateKey, trustRoots, endpoint |
    | unix | path, timeout, lockfile (0 or 1) |

    certificate, privateKey: PEM files, to identify this client.
    trustRoots: a PEM file, or a folder of them, with the authorities to trust instead of the
        system's. `certKey` and `caCertsDir` are other names for certificate and trustRoots.
    endpoint: the description of an endpoint to connect with. Then `host` is only the name that
        the certificate must have.

    Raises ValueError if `description` is not valid, or a file in it cannot be used."""
    return _endpoint(reactor, description, _CLIENTS)


def _endpoint(reactor: Any, description: str, kinds: dict[str, _Kind]) -> Any:
    try:
        (_, word), *fields = _parse(description)
        if word not in kinds:
            raise ValueError(f"the kind {word!r} is unknown; give one of {', '.join(kinds)}")
        return kinds[word].make(reactor, _named(word, kinds[word], fields))
    except ValueError as error:
        raise ValueError(f"endpoint {description!r}: {error}") from None


def _parse(description: str) -> list[tuple[str, str]]:
    """Return `(name, value)` for each field; the name is empty if there is none."""
    fields = []
    for field in re.findall(r"((?:\\.|[^\\:])*)(?::|$)", description + ":")[:-1]:
        parts = re.match(r"((?:\\.|[^\\=])*)=(.*)", field, re.DOTALL)
        name, value = parts.groups() if parts else ("", field)
        fields.append((_unquoted(name), _unquoted(value)))
    return fields[:-1] if fields[1:] and fields[-1] == ("", "") else fields  # as in "stdio:"


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _named(word: str, kind: _Kind, fields: list[tuple[str, str]]) -> _Values:
    names = kind.needed + kind.optional
    values = _Values()
    unnamed = iter(names)
    for name, value in fields:
        if not name:
            name = next(unnamed, "")
            if not name:
                raise ValueError(
                    f"{value!r} is one value too many for {word!r}; "
                    "a colon inside a value is written as \\:"
                )
        elif name not in names:
            raise ValueError(f"{name!r} is unknown; give one of {', '.join(names)}")
        if name in values:
            raise ValueError(f"{name} is given twice")
        values[name] = value
    for name in kind.needed:
        if name not in values:
            raise ValueError(f"{name} is missing: {word}:{':'.join(kind.needed)}")
    return values


# Servers.


def _tcp_server(reactor: Any, values: _Values) -> Any:
    return servers.TCP4ServerEndpoint(
        reactor, values.number("port"), values.number("backlog", 50), values.get("interface", "")
    )


def _tcp6_server(reactor: Any, values: _Values) -> Any:
    return servers.TCP6ServerEndpoint(
        reactor, values.number("port"), values.number("backlog", 50), values.get("interface", "::")
    )


def _tls_server(reactor: Any, values: _Values) -> Any:
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    key = values.get("privateKey", "server.pem")
    _load_certificate(context, values.get("certKey", key), key)
    return servers.SSL4ServerEndpoint(
        reactor,
        values.number("port"),
        context,
        values.number("backlog", 50),
        values.get("interface", ""),
    )


def _unix_server(reactor: Any, values: _Values) -> Any:
    return servers.UNIXServerEndpoint(
        reactor,
        values["address"],
        values.number("backlog", 50),
        values.number("mode", 0o666, 8),
        bool(values.number("lockfile", 1)),
    )


def _systemd_server(reactor: Any, values: _Values) -> Any:
    families = {name: getattr(socket, f"AF_{name}", None) for name in ("INET", "INET6", "UNIX")}
    family = families.get(values["domain"])
    if family is None:
        known = ", ".join(families)
        raise ValueError(f"domain={values['domain']!r} is unknown; give one of {known}")
    if ("index" in values) == ("name" in values):
        raise ValueError("give either index or name")
    names = _systemd_names()
    if "name" in values:
        if values["name"] not in names:
            raise ValueError(f"systemd has passed no descriptor with the name {values['name']!r}")
        index = names.index(values["name"])
    else:
        index = values.number("index")
        if not 0 <= index < len(names):
            raise ValueError(f"systemd has passed {len(names)} descriptors, so none is {index}")
    return servers.AdoptedStreamServerEndpoint(reactor, FIRST_SYSTEMD_FD + index, family)


def _systemd_names() -> list[str]:
    """Return a name for each descriptor that systemd has passed to this process, in order."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return (names + ["unknown"] * int(count))[: int(count)]


def _stdio_server(reactor: Any, values: _Values) -> Any:
    return servers.StandardIOEndpoint(reactor)


# Clients.


def _tcp_client(reactor: Any, values: _Values) -> Any:
    return clients.TCP4ClientEndpoint(*_host_arguments(reactor, values))


def _tcp6_client(reactor: Any, values: _Values) -> Any:
    return clients.TCP6ClientEndpoint(*_host_arguments(reactor, values))


def _host_arguments(reactor: Any, values: _Values) -> tuple[Any, ...]:
    port = values.number("port")
    return reactor, values["host"], port, values.number("timeout", 30), values.get("bindAddress")


def _tls_client(reactor: Any, values: _Values) -> Any:
    import ssl

    context = ssl.create_default_context()
    roots = values.get("trustRoots", values.get("caCertsDir"))
    if roots is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_roots(context, roots)
    certificate = values.get("certificate", values.get("certKey", values.get("privateKey")))
    if certificate is not None:
        _load_certificate(context, certificate, values.get("privateKey", certificate))
    if "endpoint" in values:
        endpoint = clientFromString(reactor, values["endpoint"])
    else:
        endpoint = clients.HostnameEndpoint(*_host_arguments(reactor, values))
    return clients.wrapClientTLS(context, endpoint, values["host"])


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(
            f"the certificate {certificate!r} and the key {key!r} cannot be used: {error}"
        ) from None


def _load_roots(context: ssl.SSLContext, roots: str) -> None:
    files = [roots]
    if os.path.isdir(roots):
        files = [entry.path for entry in os.scandir(roots) if entry.name.endswith(".pem")]
    for file in files:
        try:
            context.load_verify_locations(str(file))  # PyPy takes no Path
        except OSError as error:
            raise ValueError(f"the authorities in {file!r} cannot be used: {error}") from None


def _unix_client(reactor: Any, values: _Values) -> Any:
    timeout = values.number("timeout", 30)
    return clients.UNIXClientEndpoint(
        reactor, values["path"], timeout, bool(values.number("lockfile", 0))
    )


_TLS_SERVER = _Kind(_tls_server, ("port",), ("privateKey", "certKey", "interface", "backlog"))
_SERVERS = {
    "tcp": _Kind(_tcp_server, ("port",), ("interface", "backlog")),
    "tcp6": _Kind(_tcp6_server, ("port",), ("interface", "backlog")),
    "ssl": _TLS_SERVER,
    "tls": _TLS_SERVER,
    "unix": _Kind(_unix_server, ("address",), ("mode", "backlog", "lockfile")),
    "systemd": _Kind(_systemd_server, ("domain",), ("index", "name")),
    "stdio": _Kind(_stdio_server, ()),
}
_TLS_CLIENT = _Kind(
    _tls_client,
    ("host", "port"),
    (
        *("timeout", "bindAddress", "certificate", "privateKey", "trustRoots", "endpoint"),
        *("certKey", "caCertsDir"),
    ),
)
_CLIENTS = {
    "tcp": _Kind(_tcp_client, ("host", "port"), ("timeout", "bindAddress")),
    "tcp6": _Kind(_tcp6_client, ("host", "port"), ("timeout", "bindAddress")),
    "ssl": _TLS_CLIENT,
    "tls": _TLS_CLIENT,
    "unix": _Kind(_unix_client, ("path",), ("timeout", "lockfile")),
}
