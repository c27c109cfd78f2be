"""Access tokens: short-lived JWTs (RFC 7519) signed HS256. Real time, never the town's clock."""

import time
from dataclasses import dataclass, field

import jwt

from standpipe.platform.errors import NotAuthenticatedError
from standpipe.platform.language import phrase

ISSUER = "standpipe"
AUDIENCE = "standpipe-customer"
_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """Claims of an access token. ``expires_at_s`` is a Unix second: a live connection must end with it.

    ``session_id`` (claim ``sid``) is the sign-in that it came out of, None in tokens of releases before there were any.
    ``replaces`` (claim ``rpl``) is the hash of the refresh token that was given up for the one handed out beside it.
    """

    customer_id: str
    expires_at_s: int
    session_id: str | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """Issues and verifies tokens with one secret; ``ttl_s`` is a token's life in seconds."""

    secret: str = field(repr=False)
    ttl_s: int

    def issue(self, customer_id: str, *, session_id: str | None = None, replaces: str | None = None) -> str:
        """A token that says "this is customer X" until it expires or its session ends."""
        now_s = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": customer_id, "iat": now_s, "exp": now_s + self.ttl_s}
        more = {"sid": session_id, "rpl": replaces}
        return jwt.encode(
            claims | {name: value for name, value in more.items() if value is not None},
            self.secret,
            algorithm=_ALGORITHM,
        )

    def read(self, token: str) -> AccessToken:
        """Return the token's claims. Raises NotAuthenticatedError for anything but a live token of ours."""
        try:
            claims = jwt.decode(
                token,
                self.secret,
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": ["exp", "iat", "sub", "aud", "iss"]},
            )
        except jwt.InvalidTokenError as error:
            raise NotAuthenticatedError(phrase("The access token is not valid or has expired.")) from error
        return AccessToken(str(claims["sub"]), int(claims["exp"]), claims.get("sid"), claims.get("rpl"))
