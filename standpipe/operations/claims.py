"""Claim codes: issued for the door or the post, listed, revoked."""

from collections.abc import Sequence

from standpipe.meters import claims
from standpipe.meters.claims import ClaimRow, IssuedClaim
from standpipe.operations.operation import Desk, operation
from standpipe.platform.ids import is_id
from standpipe.utilities.operators import ANYBODY, CLAIM_CODES


@operation("claims.issue", may=CLAIM_CODES)
async def issue(desk: Desk, serials: Sequence[str], *, expires_in_days: int | None) -> list[IssuedClaim]:
    """Make one code for each meter; none, where one of them is not known. Raises NotFoundError, InvalidInputError."""
    return [
        await claims.issue(desk.session, operator=desk.by, serial=serial, expires_in_days=expires_in_days)
        for serial in serials
    ]


@operation("claims.revoke", may=CLAIM_CODES)
async def revoke(desk: Desk, claim_or_serial: str) -> int:
    """End a code (clm_…), or every open code of a meter; returns how many. Raises NotFoundError."""
    if is_id(claim_or_serial, "clm"):
        await claims.revoke(desk.session, operator=desk.by, claim_id=claim_or_serial)
        return 1
    return await claims.revoke_all(desk.session, operator=desk.by, serial=claim_or_serial)


@operation("claims.list", may=ANYBODY, reads=True)
async def list_claims(desk: Desk, serial: str | None) -> Sequence[ClaimRow]:
    """Read the codes of a meter, or of all, newest first."""
    return await claims.list_claims(desk.session, serial)
