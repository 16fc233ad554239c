"""A TLS client on OpenSSL's own library, for what the module `ssl` cannot do: key updates."""

from __future__ import annotations

import ctypes
import ctypes.util
import ssl

import pytest

_UPDATE_REQUESTED = 1


class KeyUpdater:
    """A client without a socket: take() what it sends, give() it what its peer sends.

    It verifies nothing. Skips the test if the library cannot be loaded."""

    def __init__(self):
        names = [ctypes.util.find_library(name) for name in ("ssl", "crypto")]
        if None in names or not ssl.HAS_TLSv1_3:
            pytest.skip("no libssl with TLS 1.3 that ctypes can load")
        self._ssl, self._crypto = map(ctypes.CDLL, names)
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        for library, name, result, *arguments in (
            (self._ssl, "TLS_client_method", pointer),
            (self._ssl, "SSL_CTX_new", pointer, pointer),
            (self._ssl, "SSL_CTX_free", None, pointer),
            (self._ssl, "SSL_new", pointer, pointer),
            (self._ssl, "SSL_free", None, pointer),
            (self._ssl, "SSL_set_bio", None, pointer, pointer, pointer),
            (self._ssl, "SSL_set_connect_state", None, pointer),
            (self._ssl, "SSL_do_handshake", integer, pointer),
            (self._ssl, "SSL_key_update", integer, pointer, integer),
            (self._ssl, "SSL_write", integer, pointer, ctypes.c_char_p, integer),
            (self._crypto, "BIO_s_mem", pointer),
            (self._crypto, "BIO_new", pointer, pointer),
            (self._crypto, "BIO_read", integer, pointer, ctypes.c_char_p, integer),
            (self._crypto, "BIO_write", integer, pointer, ctypes.c_char_p, integer),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._context = self._ssl.SSL_CTX_new(self._ssl.TLS_client_method())
        self._session = self._ssl.SSL_new(self._context)
        self._in, self._out = (self._crypto.BIO_new(self._crypto.BIO_s_mem()) for _ in range(2))
        self._ssl.SSL_set_bio(self._session, self._in, self._out)
        self._ssl.SSL_set_connect_state(self._session)

    def close(self):
        self._ssl.SSL_free(self._session)
        self._ssl.SSL_CTX_free(self._context)

    def take(self):
        buffer = ctypes.create_string_buffer(1 << 16)
        sent = bytearray()
        while True:
            count = self._crypto.BIO_read(self._out, buffer, len(buffer))
            if count <= 0:
                return bytes(sent)
            sent += buffer.raw[:count]

    def give(self, data):
        self._crypto.BIO_write(self._in, data, len(data))

    def shake_hands(self):
        """Go on with the handshake; return whether it is complete."""
        return self._ssl.SSL_do_handshake(self._session) == 1

    def update_key(self):
        """Send a key update that asks the peer for another one."""
        assert self._ssl.SSL_key_update(self._session, _UPDATE_REQUESTED) == 1
        assert self.shake_hands()

    def write(self, data):
        assert self._ssl.SSL_write(self._session, data, len(data)) == len(data)
