"""The options of TLS, and the contexts that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    import argparse
    import ssl

    from minireactor.cli.reload import Reloads
    from minireactor.transports.tls_start import SecureConnector, SecurePort

# Reasons of OpenSSL: another key of the same kind, or a key of another kind.
_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


def add_tls(add: Callable[..., Any]) -> None:
    """Add the options that `serve` and `proxy` share: TLS towards clients."""
    add(
        "--tls-cert",
        metavar="FILE",
        help="speak TLS to clients, with the certificate in this PEM file, followed by those of "
        "its authorities; read again on SIGHUP (default: no TLS)",
    )
    add(
        "--tls-key",
        metavar="FILE",
        help="PEM file with the key of the certificate (default: the file of --tls-cert)",
    )


def add_target_tls(add: Callable[..., Any]) -> None:
    """Add the options of `proxy` for TLS towards targets."""
    add(
        "--target-tls",
        action="store_true",
        help="speak TLS to the targets, and verify their certificates (default: no)",
    )
    add(
        "--target-ca",
        metavar="FILE",
        help="PEM file with the authorities that a target's certificate must come from (default: "
        "the system's)",
    )
    add(
        "--target-name",
        metavar="NAME",
        help="the name that a target's certificate must have (default: the host of the target)",
    )


def add_client_tls(add: Callable[..., Any]) -> None:
    """Add the options of `connect` for TLS."""
    add("--tls", action="store_true", help="speak TLS, and verify the certificate (default: no)")
    add(
        "--ca",
        metavar="FILE",
        help="with --tls: PEM file with the authorities that the certificate must come from "
        "(default: the system's)",
    )
    add(
        "--insecure",
        action="store_true",
        help="with --tls: accept any certificate, so that anybody may listen in (default: no)",
    )


def client_tls(options: argparse.Namespace) -> SecurePort | None:
    """Return what speaks TLS to clients; None without --tls-cert. Raises UsageError."""
    if options.tls_cert is None:
        _refuse(options, "--tls-cert", "--tls-key")
        return None
    from minireactor.transports.tls_start import SecurePort
    from minireactor.view.output import UsageError

    try:
        return SecurePort(_server_context(options))
    except ValueError as error:
        raise UsageError(f"minireactor {options.command}: --tls-cert: {error}") from error


def reload_certificate(reloads: Reloads, options: argparse.Namespace, tls: SecurePort) -> None:
    """Have the certificate read again with the other files."""

    def use(context: ssl.SSLContext) -> str:
        tls.context = context
        return f"read the certificate in {options.tls_cert} again"

    reloads.add("the old certificate", lambda: _server_context(options), use)


def target_tls(options: argparse.Namespace) -> SecureConnector | None:
    """Return what speaks TLS to targets; None without --target-tls. Raises UsageError."""
    if not options.target_tls:
        _refuse(options, "--target-tls", "--target-ca", "--target-name")
        return None
    return _connecting(options, "--target-ca", options.target_ca, options.target_name)


def server_tls(options: argparse.Namespace) -> SecureConnector | None:
    """Return what speaks TLS to the server of `connect`; None without --tls. Raises UsageError."""
    if not options.tls:
        _refuse(options, "--tls", "--ca", "--insecure")
        return None
    return _connecting(options, "--ca", options.ca, None, options.insecure)


def _connecting(
    options: argparse.Namespace,
    option: str,
    authorities: str | None,
    name: str | None,
    insecure: bool = False,
) -> SecureConnector:
    import ssl

    from minireactor.transports.tls_start import SecureConnector
    from minireactor.view.output import UsageError

    try:
        if authorities is not None and b"-----BEGIN CERTIFICATE" not in _content(authorities):
            raise ValueError(f"{authorities!r} has no certificate in PEM form")
        context = ssl.create_default_context(cafile=authorities)
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    except (ValueError, ssl.SSLError) as error:
        raise UsageError(f"minireactor {options.command}: {option}: {error}") from error
    try:
        return SecureConnector(context, name)
    except ValueError as error:
        raise UsageError(
            f"minireactor {options.command}: --target-name: {name!r} is not a host name"
        ) from error


def _refuse(options: argparse.Namespace, needed: str, *names: str) -> None:
    """Raise UsageError if one of these options is given, as it says nothing without `needed`."""
    from minireactor.view.output import UsageError

    for name in names:
        if getattr(options, name.strip("-").replace("-", "_")):
            raise UsageError(f"minireactor {options.command}: {name} needs {needed}; give both")


def _server_context(options: argparse.Namespace) -> ssl.SSLContext:
    """Return a context with the certificate and its key. Raises ValueError, which says why not."""
    import ssl

    cert, key = options.tls_cert, options.tls_key or options.tls_cert
    if b"-----BEGIN CERTIFICATE" not in _content(cert):
        raise ValueError(f"{cert!r} has no certificate in PEM form")
    if b"PRIVATE KEY-----" not in _content(key):
        raise ValueError(f"{key!r} has no key in PEM form; give its file with --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, lambda: _refuse_password(key))
    except ssl.SSLError as error:
        if error.reason in _MISMATCH:
            raise ValueError(
                f"the key in {key!r} is not that of the certificate in {cert!r}"
            ) from None
        raise ValueError(f"{cert!r} and {key!r} are not valid: {error.reason or error}") from None
    except OSError as error:
        raise ValueError(f"cannot read {cert!r} or {key!r}: {error.strerror}") from None
    return context


def _refuse_password(key: str) -> str:
    # Without this, OpenSSL would ask for the password on the terminal.
    raise ValueError(f"the key in {key!r} has a password; give a key without one")


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise ValueError(f"cannot read {path!r}: {error.strerror}") from None
