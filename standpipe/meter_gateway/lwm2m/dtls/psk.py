"""The callback that names the key in DTLS 1.2 with pre-shared keys (RFC 4279), which pyOpenSSL leaves out.

OpenSSL asks for the key in the middle of a handshake step and waits for the answer on the spot, so the caller must
have it at hand by then: ``standpipe.meter_gateway.lwm2m.dtls.server`` holds a datagram back until it has.
"""

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

DTLS_1_2 = 0xFEFD
# TLS_PSK_WITH_AES_128_CCM_8 is what LwM2M demands (OMA-TS-LightweightM2M_Transport-V1_1, §5.2.8). Its tag of 64 bits
# puts it below OpenSSL's first security level, hence level 0; the list itself keeps everything weaker out.
SUITES = b"PSK-AES128-CCM8:PSK-AES128-GCM-SHA256:@SECLEVEL=0"
MTU_BYTES = 1_200


class PskServerContext:
    """An ``SSL.Context`` for servers; its callbacks live as long as this does."""

    def __init__(
        self,
        *,
        key_for: Callable[[bytes], bytes],
        make_cookie: Callable[[], bytes],
        is_cookie: Callable[[bytes], bool],
    ) -> None:
        self._key_for = key_for
        binding = Binding()
        self._ffi: Any = binding.ffi
        lib: Any = binding.lib
        self.context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        self.context.set_min_proto_version(DTLS_1_2)
        self.context.set_max_proto_version(DTLS_1_2)
        self.context.set_cipher_list(SUITES)
        # No tickets and no cache: a session ends with us, and a key that was revoked opens none. No renegotiation:
        # a client that starts anew proves its address first.
        self.context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_QUERY_MTU)
        self.context.set_options(SSL.OP_COOKIE_EXCHANGE or 0)
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self.context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        self.context.set_cookie_generate_callback(lambda _: make_cookie())
        self.context.set_cookie_verify_callback(lambda _, cookie: is_cookie(cookie))
        self._callback = self._ffi.callback("unsigned int(SSL *, char *, unsigned char *, unsigned int)", self._psk)
        lib.SSL_CTX_set_psk_server_callback(self.context._context, self._callback)  # noqa: SLF001 - pyOpenSSL has no door here.

    def connection(self) -> SSL.Connection:
        """A server side over memory, which has heard nothing yet."""
        made = SSL.Connection(self.context, None)
        made.set_accept_state()
        made.set_ciphertext_mtu(MTU_BYTES)
        return made

    def _psk(self, _ssl: Any, identity: Any, key_out: Any, room_bytes: int) -> int:
        key = self._key_for(self._ffi.string(identity))
        if len(key) > room_bytes:
            return 0
        self._ffi.memmove(key_out, key, len(key))
        return len(key)
