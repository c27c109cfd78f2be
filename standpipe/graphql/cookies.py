"""A web session's cookies, and who may use them.

Two cookies that scripts cannot read: the access token, and the refresh token. A browser adds them to whatever is asked
of us, so a request counts as theirs only from a page of our own origin (``Sec-Fetch-Site``, which no page can write, or
``Origin`` from browsers that do not send it) and with a header of the client's own (G5).
"""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

from standpipe.platform.errors import ForbiddenError
from standpipe.platform.language import phrase

CLIENT_HEADER = "x-standpipe-client"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebCookies:
    """The cookies of the site at ``public_url``: Secure, unless that is plain http on this very machine."""

    public_url: str

    @property
    def secure(self) -> bool:
        """Tell whether the cookies go over TLS alone."""
        parts = urlsplit(self.public_url)
        return parts.scheme != "http" or not _is_loopback(parts.hostname or "")

    @property
    def access(self) -> str:
        """Name of the cookie with the access token."""
        return self._name("standpipe-access")

    @property
    def refresh(self) -> str:
        """Name of the cookie with the refresh token."""
        return self._name("standpipe-refresh")

    def put(self, response: Response, name: str, value: str, max_age_s: int) -> None:
        """Set a cookie; the browser forgets it after ``max_age_s``."""
        response.set_cookie(
            name, value, max_age=max_age_s, path="/", secure=self.secure, httponly=True, samesite="strict"
        )

    def clear(self, response: Response) -> None:
        """Take both cookies away."""
        for name in (self.access, self.refresh):
            self.put(response, name, "", 0)

    def check_own_page(self, connection: HTTPConnection) -> None:
        """Raises ForbiddenError for a request that did not come from a page of ours.

        A WebSocket's handshake takes no headers from a page, so there the origin alone counts.
        """
        headers = connection.headers
        if connection.scope["type"] == "http" and not headers.get(CLIENT_HEADER, "").strip():
            raise ForbiddenError(phrase("A request with a cookie needs the header X-Standpipe-Client."))
        site = headers.get("sec-fetch-site")
        own = site == "same-origin" if site is not None else _origin(headers.get("origin", "")) == self._own_origin()
        if not own:
            raise ForbiddenError(phrase("A request with a cookie must come from a page of this origin."))

    def _name(self, name: str) -> str:
        # The prefix keeps other hosts of the domain, and plain http, from setting it (RFC 6265bis §4.1.3.2).
        return f"__Host-{name}" if self.secure else name

    def _own_origin(self) -> tuple[str, str, int] | None:
        return _origin(self.public_url)


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
