"""claimCodeIssue: an operator makes a code by which a meter can be claimed."""

from datetime import datetime

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.mutations.common import NULL_WHERE_FAILED, WENT_WELL, Input
from standpipe.meters import claims
from standpipe.utilities.models import OperatorRole


@strawberry.input(description="For operators: make a code by which a meter can be claimed.")
class ClaimCodeIssueInput:
    """The meter to claim, and how long the code lives."""

    serial: str = strawberry.field(description="The number on the meter.")
    expires_in_days: int | None = strawberry.field(default=None, description="1 to 3650; without it, it lasts.")


@strawberry.type(description="A single-use code for one meter. It is shown this once; only a hash is kept.")
class ClaimCode:
    """A new code."""

    id: strawberry.ID = strawberry.field(description="clm_…, by which it can be revoked.")
    serial: str = strawberry.field(description="The meter that it claims.")
    code: str = strawberry.field(description="As it is printed, in groups of four.")
    expires_at: datetime | None = strawberry.field(description="Null where it lasts.")


@strawberry.type(description="A claim code, or why there is none.")
class ClaimCodePayload:
    """Errors as data."""

    claim_code: ClaimCode | None = strawberry.field(default=None, description=NULL_WHERE_FAILED)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=WENT_WELL)


@strawberry.mutation(description="For operators (support, field): a new claim code for a meter.")
@expected_failures(ClaimCodePayload)
async def claim_code_issue(info: Ctx, input: Input[ClaimCodeIssueInput]) -> ClaimCodePayload | None:
    operator = info.context.require_operator(OperatorRole.SUPPORT, OperatorRole.FIELD)
    async with info.context.services.sessions.begin() as conn:
        made = await claims.issue(conn, operator=operator, serial=input.serial, expires_in_days=input.expires_in_days)
    code = ClaimCode(id=strawberry.ID(made.id), serial=made.serial, code=made.code, expires_at=made.expires_at)
    return ClaimCodePayload(claim_code=code)
