"""The software issuer: vending keys in this process's memory. For development and the demo; it says so when it starts.

In production vending keys stay in a machine that guards them: see ``standpipe.vending.remote``.
"""

import hashlib
import hmac
from collections.abc import Mapping

import structlog

from standpipe.platform.errors import InvalidInputError
from standpipe.sts import tokens
from standpipe.sts.amounts import to_field
from standpipe.sts.keys import DecoderKey, KeyTerms, derive
from standpipe.vending.issuer import IssuerRefusedError, TokenRequest
from standpipe.vending.models import Purpose

_log = structlog.get_logger(__name__)


class SoftwareIssuer:
    """``vending_keys``: 20 bytes for each supply group and key revision, as ``(group, revision)``."""

    name = "software"

    def __init__(self, vending_keys: Mapping[tuple[str, int], bytes]) -> None:
        self._vending_keys = dict(vending_keys)
        _log.warning("keypad tokens are made in software: for development and demo only")

    async def issue(self, request: TokenRequest) -> tuple[str, ...]:
        """Make a token, as ``TokenIssuer`` says. Raises IssuerRefusedError."""
        try:
            return self._made(request)
        except InvalidInputError as error:
            raise IssuerRefusedError(str(error)) from error

    async def close(self) -> None:
        """Nothing is open."""

    def _made(self, request: TokenRequest) -> tuple[str, ...]:
        key = self._key(request.terms)
        if request.purpose is Purpose.KEY_CHANGE:
            if request.new_terms is None:
                raise InvalidInputError("A new key needs its terms.")
            return tuple(part.to_digits(key) for part in tokens.key_change(self._key(request.new_terms)))
        if request.tid is None:
            raise InvalidInputError("This token needs a TID.")
        rnd = self._rnd(key, request)
        if request.purpose is Purpose.CREDIT:
            field = to_field(request.units)
            token = tokens.credit(tokens.Credit.WATER, tid=request.tid, rnd=rnd, amount_field=field)
        elif request.purpose is Purpose.CLEAR_CREDIT:
            token = tokens.clear_credit(tid=request.tid, rnd=rnd)
        else:
            token = tokens.clear_tamper(tid=request.tid, rnd=rnd)
        return (token.to_digits(key),)

    def _key(self, terms: KeyTerms) -> DecoderKey:
        vending_key = self._vending_keys.get((terms.supply_group, terms.key_revision))
        if vending_key is None:
            raise InvalidInputError(
                f"There is no vending key of supply group {terms.supply_group}, revision {terms.key_revision}."
            )
        return derive(vending_key, terms)

    @staticmethod
    def _rnd(key: DecoderKey, request: TokenRequest) -> int:
        """Four bits that nobody else can tell, and that are the same each time this token is asked for."""
        return hmac.digest(key.secret, request.id.encode(), hashlib.sha256)[0] & 0xF
