"""Keypad tokens (STS): which meters have a keypad, tokens that an operator asks for, and all there are."""

from collections.abc import Sequence

from standpipe.meters import keypads
from standpipe.operations.operation import Desk, operation
from standpipe.sts.keys import KeyTerms
from standpipe.utilities.operators import ANYBODY, FIELD_WORK
from standpipe.vending import management
from standpipe.vending.models import KeypadToken, Purpose


@operation("keypads.enrol", may=FIELD_WORK)
async def enrol(desk: Desk, serial: str, terms: KeyTerms) -> None:
    """Say that a meter has a keypad. Raises NotFoundError, InvalidInputError."""
    await keypads.enrol(desk.session, operator=desk.by, serial=serial, terms=terms, now=desk.now)


@operation("tokens.request", may=FIELD_WORK)
async def request(desk: Desk, serial: str, purpose: Purpose, key_revision: int | None = None) -> str:
    """Ask for a management token; returns its id. Raises NotFoundError, InvalidInputError."""
    return await management.request_management(
        desk.session, operator=desk.by, serial=serial, purpose=purpose, now=desk.now, key_revision=key_revision
    )


@operation("keypads.key_changed", may=FIELD_WORK)
async def key_changed(desk: Desk, serial: str) -> int:
    """Note that a meter has taken its next key; returns the revision that tokens are made under from now on."""
    return await management.key_changed(desk.session, operator=desk.by, serial=serial)


@operation("tokens.retry", may=FIELD_WORK)
async def retry(desk: Desk, token_id: str) -> None:
    """Ask again for a token that could not be had. Raises NotFoundError, InvalidInputError."""
    await management.try_again(desk.session, operator=desk.by, token_id=token_id)


@operation("tokens.withdraw", may=FIELD_WORK)
async def withdraw(desk: Desk, token_id: str, note: str) -> None:
    """Give up a token that could not be had. Raises NotFoundError, InvalidInputError."""
    await management.withdraw(desk.session, operator=desk.by, token_id=token_id, note=note)


@operation("tokens.list", may=ANYBODY, reads=True)
async def list_tokens(desk: Desk, serial: str) -> Sequence[KeypadToken]:
    """Read all tokens of a meter, newest first. Raises NotFoundError."""
    return await management.tokens_of(desk.session, serial)
