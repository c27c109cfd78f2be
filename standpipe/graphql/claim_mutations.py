"""Mutations around who lives at a meter: codes, claims, moving out, labels."""

from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import strawberry

from standpipe.customers.models import OperatorRole
from standpipe.graphql.base import Money, money
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import UserError, user_error
from standpipe.graphql.meters import Meter, meter_of
from standpipe.meters import claims, sharing
from standpipe.meters.access import account_number_of
from standpipe.meters.claim_codes import hash_code, read_code
from standpipe.payments import request_keys
from standpipe.platform.errors import NotFoundError, StandpipeError
from standpipe.platform.ids import is_id
from standpipe.usage import tenancy
from standpipe.usage.supply import Closing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

KEY = "idempotencyKey: a UUID made when the screen opens; same key and input replays the first answer."
CLAIM = "meterClaim"
MOVE_OUT = "moveOut"


@strawberry.input(description="For operators: make a code by which a meter can be claimed.")
class ClaimCodeIssueInput:
    """Which meter, and for how long."""

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

    claim_code: ClaimCode | None = strawberry.field(description="Null where it failed.")
    user_errors: list[UserError] = strawberry.field(description="Empty where it went well.")


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

    meter: Meter | None = strawberry.field(description="Null where it failed.")
    joined: bool = strawberry.field(description="Others were there before; they are told of the new owner.")
    replayed: bool = strawberry.field(description="This key had claimed it before.")
    user_errors: list[UserError] = strawberry.field(description="Empty where it went well.")


@strawberry.input(description=f"Say that the household has left a meter. For owners. {KEY}")
class MoveOutInput:
    """The household's other meters stay."""

    idempotency_key: strawberry.ID = strawberry.field(description="A UUID made when the screen opens.")
    meter_id: strawberry.ID = strawberry.field(description="The meter left.")
    day: date = strawberry.field(
        description="The first day that is not theirs any more: today, or one of the last 7, by the meter's clock."
    )


@strawberry.type(description="What a meter's account stands at when its household leaves. No money has moved.")
class FinalBalance:
    """For the office to give back or to ask for."""

    day: date = strawberry.field(description="The first day that is not theirs any more.")
    wallet: Money = strawberry.field(description="The household's credit.")
    on_its_way: Money = strawberry.field(description="Of the credit, what had not reached the meter.")
    standing: Money = strawberry.field(description="Standing charges due.")
    arrears: Money = strawberry.field(description="Owed from before.")
    emergency: Money = strawberry.field(description="Emergency credit in use.")


@strawberry.type(description="The final account, or why there is none.")
class MoveOutPayload:
    """Errors as data."""

    final_balance: FinalBalance | None = strawberry.field(description="Null where it failed.")
    replayed: bool = strawberry.field(description="This key had moved them out before.")
    user_errors: list[UserError] = strawberry.field(description="Empty where it went well.")


@strawberry.input(description="Call a meter something else. For owners.")
class MeterRenameInput:
    """For all members of the household."""

    meter_id: strawberry.ID = strawberry.field(description="Which meter.")
    label: str = strawberry.field(description="1 to 60 characters.")


@strawberry.type(description="The meter, or why it was not changed.")
class MeterPayload:
    """Errors as data."""

    meter: Meter | None = strawberry.field(description="Null where it failed.")
    user_errors: list[UserError] = strawberry.field(description="Empty where it went well.")


@strawberry.type
class ClaimMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="For operators (support, field): a new claim code for a meter.")
    async def claim_code_issue(self, info: Ctx, input: ClaimCodeIssueInput) -> ClaimCodePayload | None:
        context = info.context
        operator = context.require_operator(OperatorRole.SUPPORT, OperatorRole.FIELD)
        try:
            async with context.tools.sessions.begin() as session:
                made = await claims.issue(
                    session, operator=operator, serial=input.serial, expires_in_days=input.expires_in_days
                )
        except StandpipeError as error:
            return ClaimCodePayload(claim_code=None, user_errors=[user_error(error, context.language)])
        code = ClaimCode(id=strawberry.ID(made.id), serial=made.serial, code=made.code, expires_at=made.expires_at)
        return ClaimCodePayload(claim_code=code, user_errors=[])

    @strawberry.mutation(description="Claims a meter. Tries are limited for each account and for each meter number.")
    async def meter_claim(self, info: Ctx, input: MeterClaimInput) -> MeterClaimPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            result, replayed = await _claim(context, customer_id, input)
        except StandpipeError as error:
            return MeterClaimPayload(
                meter=None, joined=False, replayed=False, user_errors=[user_error(error, context.language)]
            )
        meter = await _meter(context, result["meter_id"])
        return MeterClaimPayload(meter=meter, joined=result["joined"], replayed=replayed, user_errors=[])

    @strawberry.mutation(description="Moves the household out: final account, and access ends for all its members.")
    async def move_out(self, info: Ctx, input: MoveOutInput) -> MoveOutPayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()

        async def act(session: "AsyncSession") -> dict[str, Any]:
            closing = await tenancy.move_out(
                session, customer_id=customer_id, meter_id=meter_id, day=input.day, now=tools.clock.now()
            )
            return {"day": input.day.isoformat(), "closing": asdict(closing)}

        try:
            meter_id = _meter_id(input.meter_id)
            result, replayed = await request_keys.once(
                tools.sessions,
                customer_id=customer_id,
                key=str(input.idempotency_key),
                mutation=MOVE_OUT,
                order={"meter_id": meter_id, "day": input.day.isoformat()},
                act=act,
            )
        except StandpipeError as error:
            return MoveOutPayload(final_balance=None, replayed=False, user_errors=[user_error(error, context.language)])
        context.forget_meters()
        return MoveOutPayload(final_balance=_final(result, context.language), replayed=replayed, user_errors=[])

    @strawberry.mutation(description="Gives a meter another label.")
    async def meter_rename(self, info: Ctx, input: MeterRenameInput) -> MeterPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            meter_id = _meter_id(input.meter_id)
            async with context.tools.sessions.begin() as session:
                await sharing.rename(session, customer_id=customer_id, meter_id=meter_id, label=input.label)
        except StandpipeError as error:
            return MeterPayload(meter=None, user_errors=[user_error(error, context.language)])
        return MeterPayload(meter=await _meter(context, meter_id), user_errors=[])


async def _claim(context: Context, customer_id: str, wanted: MeterClaimInput) -> tuple[dict[str, Any], bool]:
    """Claim once per key. A mistyped code costs no try; every other claim does, and is counted before it is made."""
    tools, code = context.tools, read_code(wanted.code)
    order = {"serial": account_number_of(wanted.serial), "code": hash_code(code), "label": wanted.label}
    key = str(wanted.idempotency_key)

    async def act(session: "AsyncSession") -> dict[str, Any]:
        claimed = await tenancy.claim(
            session,
            customer_id=customer_id,
            serial=wanted.serial,
            code=code,
            label=wanted.label,
            now=tools.clock.now(),
        )
        return asdict(claimed)

    async with tools.sessions.begin() as session:
        known = await request_keys.recall(
            session, customer_id=customer_id, key=key, mutation=CLAIM, request_hash=request_keys.hash_of(order)
        )
        if known is None:
            await claims.count_claim(session, customer_id=customer_id, serial=wanted.serial)
    return await request_keys.once(
        tools.sessions, customer_id=customer_id, key=key, mutation=CLAIM, order=order, act=act
    )


async def _meter(context: Context, meter_id: str) -> Meter | None:
    """The meter as it is after a change, whatever this request has read of it before."""
    context.forget_meters()
    view = await context.meters.load(meter_id)
    return None if view is None else meter_of(view)


def _meter_id(id: strawberry.ID) -> str:
    if not is_id(str(id), "mtr"):
        raise NotFoundError("No such meter.")
    return str(id)


def _final(result: dict[str, Any], language: str) -> FinalBalance:
    closing = Closing(**result["closing"])
    return FinalBalance(
        day=date.fromisoformat(result["day"]),
        wallet=money(closing.wallet_minor, closing.currency, language),
        on_its_way=money(closing.on_its_way_minor, closing.currency, language),
        standing=money(closing.standing_minor, closing.currency, language),
        arrears=money(closing.arrears_minor, closing.currency, language),
        emergency=money(closing.emergency_minor, closing.currency, language),
    )
