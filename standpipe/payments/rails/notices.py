"""Shared by the rails whose notices are JSON events: reading one without ever failing. Pure."""

import hashlib
import json
from typing import Any

from standpipe.payments.rails.port import RailNotice
from standpipe.platform.units import is_storable

MAX_TEXT = 255
"""Stripe's own limit of an id."""


def read_json(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body, or None where it is no object, no JSON, no UTF-8 or nested past all reason."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def text_at(value: object, *path: str) -> str | None:
    """The string at a path of keys, or None where there is none that can be stored."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        return None
    return value if is_storable(value) else None


def unreadable(body: bytes, why: str, *, kind: str = "") -> RailNotice:
    """A notice that is kept but names no payment; its id is its content, so that it too is stored once."""
    return RailNotice(event_id=f"sha256:{hashlib.sha256(body).hexdigest()}", kind=kind, ignored=why)
