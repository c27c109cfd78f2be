"""An issuer elsewhere, over HTTPS: a security module or a vending service (docs/meters/keypad-tokens.md)."""

from dataclasses import asdict
from typing import Any

import httpx

from standpipe.sts.tokens import DIGITS
from standpipe.vending.issuer import IssuerRefusedError, IssuerUnavailableError, TokenRequest
from standpipe.vending.models import Purpose

MAX_ANSWER = 10_000
_SECTIONS = 4


class RemoteIssuer:
    """Asks ``POST {url}/v1/tokens`` with a bearer key; the request's id is its idempotency key."""

    name = "remote"

    def __init__(self, *, url: str, api_key: str, timeout_s: float = 10.0) -> None:
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers={"Authorization": f"Bearer {api_key}"}, timeout=timeout_s
        )

    async def issue(self, request: TokenRequest) -> tuple[str, ...]:
        """Ask for a token, as ``TokenIssuer`` says. Raises IssuerUnavailableError, IssuerRefusedError."""
        body: dict[str, Any] = {
            "id": request.id,
            "purpose": request.purpose,
            "terms": asdict(request.terms),
            "tid": request.tid,
            "units": request.units,
            "new_terms": None if request.new_terms is None else asdict(request.new_terms),
        }
        try:
            answer = await self._http.post("/v1/tokens", json=body, headers={"Idempotency-Key": request.id})
        except httpx.HTTPError as error:
            raise IssuerUnavailableError(f"no answer: {type(error).__name__}") from error
        if answer.status_code in {400, 403, 404, 409, 422}:
            raise IssuerRefusedError(f"{answer.status_code}: {answer.text[:200]}")
        if answer.status_code != httpx.codes.OK or len(answer.content) > MAX_ANSWER:
            raise IssuerUnavailableError(f"answered {answer.status_code}")
        return _tokens(answer, request)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()


def _tokens(answer: httpx.Response, request: TokenRequest) -> tuple[str, ...]:
    """The digits of an answer that is about this request and looks like tokens; anything else may be asked again."""
    try:
        told = answer.json()
        found = tuple(told["tokens"])
        about = told["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise IssuerUnavailableError("an answer that is none") from error
    wanted = _SECTIONS if request.purpose is Purpose.KEY_CHANGE else 1
    whole = all(isinstance(text, str) and len(text) == DIGITS and text.isascii() and text.isdecimal() for text in found)
    if about != request.id or len(found) != wanted or not whole:
        raise IssuerUnavailableError("an answer that holds no such token")
    return found
