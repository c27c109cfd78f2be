"""The ``t=…,v1=…`` webhook signature scheme (Stripe's, and the sandbox's): HMAC-SHA-256 over ``t.body``. Pure."""

import hashlib
import hmac
from collections.abc import Sequence

from standpipe.payments.rails.port import SignatureInvalidError

TOLERANCE_S = 300


def verify(header: str | None, body: bytes, secrets: Sequence[str], now_s: float) -> None:
    """Accept a body signed with any of ``secrets`` within TOLERANCE_S of now, in the past or the future.

    Raises SignatureInvalidError, also where no secret is configured: a missing secret never means "unverified".
    """
    pairs = [part.partition("=")[::2] for part in (header or "").split(",")]
    stamps = [value for name, value in pairs if name.strip() == "t"]
    given = [value for name, value in pairs if name.strip() == "v1"]
    if len(stamps) != 1 or not stamps[0].isascii() or not stamps[0].isdigit() or len(stamps[0]) > 12:  # noqa: PLR2004 - seconds until year 33658.
        raise SignatureInvalidError("The signature header is missing or malformed.")
    if abs(now_s - int(stamps[0])) > TOLERANCE_S:
        raise SignatureInvalidError("The signature is too old, or from the future.")
    signed = stamps[0].encode() + b"." + body
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode() for secret in secrets if secret]
    for candidate in given:
        offered = candidate.encode("utf-8", "surrogatepass")
        if any(hmac.compare_digest(offered, digest) for digest in expected):
            return
    raise SignatureInvalidError("No signature matches.")
