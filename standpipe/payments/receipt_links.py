"""Links to a receipt's or a statement's page that need no sign-in: signed, and only for a while. Pure."""

import hashlib
import hmac

TTL_S = 7 * 24 * 3600


def sign_link(secret: str, public_url: str, name: str, now_s: float, *, kind: str = "receipt") -> str:
    """An address of the PDF that works for TTL_S seconds."""
    expires_s = int(now_s) + TTL_S
    signature = _signature(secret, kind, name, expires_s)
    return f"{public_url.rstrip('/')}/{kind}s/{name}.pdf?expires={expires_s}&sig={signature}"


def link_holds(secret: str, name: str, expires: str, signature: str, now_s: float, *, kind: str = "receipt") -> bool:
    """Tell whether a link was made by us for this receipt (or another ``kind`` of page) and has not run out."""
    if not expires.isascii() or not expires.isdigit() or len(expires) > 12 or int(expires) < now_s:  # noqa: PLR2004 - seconds until year 33658.
        return False
    wanted = _signature(secret, kind, name, int(expires))
    return hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), wanted.encode())


def _signature(secret: str, kind: str, name: str, expires_s: int) -> str:
    # The purpose is part of what is signed: no other token of this secret can pass for a link.
    words = f"{kind}-link:{name}:{expires_s}"
    return hmac.new(secret.encode(), words.encode(), hashlib.sha256).hexdigest()
