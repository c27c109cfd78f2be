"""meterClaim: a household gets a meter by its number and a code."""

from dataclasses import asdict
from typing import Any

import strawberry

from standpipe.billing import tenancy
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.meters import Meter, reload_meter
from standpipe.graphql.mutations.common import KEY, NULL_WHERE_FAILED, WENT_WELL, Input
from standpipe.meters import claims
from standpipe.meters.access import account_number_of
from standpipe.meters.claim_codes import hash_code, read_code
from standpipe.payments import request_keys
from standpipe.platform.database import Conn

MUTATION = "meterClaim"


@strawberry.input(description=f"Claim a meter by its number and a code. {KEY}")
class MeterClaimInput:
    """The number alone claims nothing: everybody can read it on the meter."""

    idempotency_key: strawberry.ID = strawberry.field(description="A UUID made when the screen opens.")
    serial: str = strawberry.field(description="The number on the meter; spaces and dashes do not matter.")
    code: str = strawberry.field(description="As printed; case, spaces and dashes do not matter.")
    label: str | None = strawberry.field(
        default=None, description="What to call the meter; only for one that is nobody's yet. Else its serial."
    )


@strawberry.type(description="The meter claimed, or why not.")
class MeterClaimPayload:
    """Errors as data."""

    meter: Meter | None = strawberry.field(default=None, description=NULL_WHERE_FAILED)
    joined: bool = strawberry.field(
        default=False, description="Others were there before; they are told of the new owner."
    )
    replayed: bool = strawberry.field(default=False, description="This key had claimed it before.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=WENT_WELL)


@strawberry.mutation(description="Claims a meter. Tries are limited for each account and for each meter number.")
@expected_failures(MeterClaimPayload)
async def meter_claim(info: Ctx, input: Input[MeterClaimInput]) -> MeterClaimPayload | None:
    customer_id = await info.context.require_trusted_customer()
    result, replayed = await _claim(info.context, customer_id, input)
    meter = await reload_meter(info.context, result["meter_id"])
    return MeterClaimPayload(meter=meter, joined=result["joined"], replayed=replayed)


async def _claim(context: Context, customer_id: str, wanted: MeterClaimInput) -> tuple[dict[str, Any], bool]:
    """Claim once per key. A mistyped code costs no try; every other claim does, and is counted before it is made."""
    services, code = context.services, read_code(wanted.code)
    order = {"serial": account_number_of(wanted.serial), "code": hash_code(code), "label": wanted.label}
    key = str(wanted.idempotency_key)

    async def act(conn: Conn) -> dict[str, Any]:
        claimed = await tenancy.claim(
            conn,
            customer_id=customer_id,
            serial=wanted.serial,
            code=code,
            label=wanted.label,
            now=services.clock.now(),
        )
        return asdict(claimed)

    async with services.sessions.begin() as conn:
        known = await request_keys.recall(
            conn, customer_id=customer_id, key=key, mutation=MUTATION, request_hash=request_keys.hash_of(order)
        )
        if known is None:
            await claims.count_claim(conn, customer_id=customer_id, serial=wanted.serial)
    return await request_keys.once(
        services.sessions, customer_id=customer_id, key=key, mutation=MUTATION, order=order, act=act
    )
