"""Access tokens: short-lived JWTs (RFC 7519) signed HS256. Real time, never the town's clock."""

import time
from dataclasses import dataclass, field

import jwt

from standpipe.errors import NotAuthenticatedError

ISSUER = "standpipe"
AUDIENCE = "standpipe-customer"
_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """Issues and verifies tokens with one secret; ``ttl_s`` is a token's life in seconds."""

    secret: str = field(repr=False)
    ttl_s: int

    def issue(self, customer_id: str) -> str:
        """A token that says "this is customer X" until it expires."""
        now_s = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": customer_id, "iat": now_s, "exp": now_s + self.ttl_s}
        return jwt.encode(claims, self.secret, algorithm=_ALGORITHM)

    def verify(self, token: str) -> str:
        """The customer id. Raises NotAuthenticatedError for anything but a live token of ours."""
        return self.verify_with_expiry(token)[0]

    def verify_with_expiry(self, token: str) -> tuple[str, int]:
        """The customer id, and the Unix second at which the token ends: a live connection must end with it."""
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
            raise NotAuthenticatedError("The access token is not valid or has expired.") from error
        return str(claims["sub"]), int(claims["exp"])
