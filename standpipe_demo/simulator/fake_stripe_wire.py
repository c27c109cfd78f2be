"""The Stripe stand-in's wire: errors as Stripe words them, forms, lists."""

import re
from http import HTTPStatus
from typing import Any


class StripeRefusalError(Exception):
    """An error as Stripe words it. ``intent``: the payment that a card's refusal belongs to."""

    def __init__(
        self, status: int, kind: str, code: str, message: str, *, intent: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.intent = status, kind, code, intent


def bad(message: str, code: str = "parameter_invalid") -> StripeRefusalError:
    """A request that makes no sense."""
    return StripeRefusalError(HTTPStatus.BAD_REQUEST, "invalid_request_error", code, message)


def missing(kind: str, object_id: str) -> StripeRefusalError:
    """An id that names nothing."""
    return StripeRefusalError(
        HTTPStatus.NOT_FOUND, "invalid_request_error", "resource_missing", f"No such {kind}: {object_id}"
    )


def key_reused() -> StripeRefusalError:
    """An idempotency key with another request."""
    return StripeRefusalError(
        HTTPStatus.BAD_REQUEST,
        "idempotency_error",
        "idempotency_error",
        "Keys for idempotent requests can only be used with the same parameters they were first used with.",
    )


def metadata_of(form: dict[str, str], name: str = "metadata") -> dict[str, str]:
    """``metadata[key]=value`` pairs of a form."""
    found = (re.fullmatch(re.escape(name) + r"\[([^\]]+)\]", key) for key in form)
    return {match[1]: form[match[0]] for match in found if match}


def page_of(rows: list[dict[str, Any]], asked: dict[str, str], url: str) -> dict[str, Any]:
    """A page of a list, newest first, as ``limit`` and ``starting_after`` ask."""
    after, limit = asked.get("starting_after"), int(asked.get("limit", "10"))
    newest = list(reversed(rows))
    if after is not None:
        newest = newest[[row["id"] for row in newest].index(after) + 1 :]
    return {"object": "list", "data": newest[:limit], "has_more": len(newest) > limit, "url": url}
