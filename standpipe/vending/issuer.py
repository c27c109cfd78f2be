"""The issuer of tokens: the protocol that every issuer fulfils, and what it is asked."""

from dataclasses import dataclass
from typing import Protocol

from standpipe.platform.errors import StandpipeError
from standpipe.sts.keys import KeyTerms
from standpipe.vending.models import Purpose


class IssuerUnavailableError(StandpipeError):
    """The issuer did not answer; the same may be asked again."""


class IssuerRefusedError(StandpipeError):
    """The issuer will not make this token, and says why."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Request for a token. Asked again, it is answered with its first digits, however often.

    ``units`` of 0.1 m³; ``new_terms`` those of the key that a KEY_CHANGE brings, which has no TID.
    """

    id: str
    purpose: Purpose
    terms: KeyTerms
    tid: int | None
    units: int = 0
    new_terms: KeyTerms | None = None


class TokenIssuer(Protocol):
    """A vending system's token maker."""

    name: str

    async def issue(self, request: TokenRequest) -> tuple[str, ...]:
        """The token's 20 digits; four times 20 for a new key, to be typed in this order.

        Raises IssuerUnavailableError, IssuerRefusedError.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...
