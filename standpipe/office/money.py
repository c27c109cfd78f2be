"""Refunds, suspense, and M-Pesa's set-up."""

from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import MONEY
from standpipe.office.desk import AsJson, at_desk, by_operator, group, minor, read, show
from standpipe.payments import refunds, suspense_work
from standpipe.payments.models import Refund, TopUp
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.settings import Settings
from standpipe.platform.units import money_text
from standpipe.wiring import Database

refund = group("Refunds: asked for by one operator, approved by another.")
suspense = group("Money that waits for a person.")
mpesa = group("M-Pesa's own set-up.")


@refund.command("request")
def refund_request(
    top_up_id: str,
    amount: str,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    key: Annotated[str | None, typer.Option(help="The same key again is the same request.")] = None,
) -> None:
    """Ask for a refund; somebody else must approve it."""

    async def work(session: AsyncSession, by: str, rails: Rails, now: datetime) -> str:
        top_up = await session.get(TopUp, top_up_id)
        if top_up is None:
            raise NotFoundError(f"There is no top-up {top_up_id}.")
        return await refunds.request_refund(
            session,
            rails,
            operator=by,
            top_up_id=top_up_id,
            amount_minor=minor(amount, top_up.currency),
            reason=reason,
            request_key=key or new_id("key"),
            now=now,
        )

    typer.echo(by_operator(work, may=MONEY))


@refund.command("approve")
def refund_approve(refund_id: str) -> None:
    """Approve what another operator asked for; the meter's truth decides whether it goes out."""
    state = by_operator(
        lambda session, by, _rails, now: refunds.approve_refund(session, operator=by, refund_id=refund_id, now=now),
        may=MONEY,
    )
    typer.echo(f"{refund_id}: {state}")


@refund.command("reject")
def refund_reject(refund_id: str) -> None:
    """Turn a request down."""
    by_operator(
        lambda session, by, _rails, now: refunds.reject_refund(session, operator=by, refund_id=refund_id, now=now),
        may=MONEY,
    )


@refund.command("list")
def refund_list(as_json: AsJson = False) -> None:
    """The newest refunds."""

    async def work(session: AsyncSession) -> list[list[str]]:
        rows = await session.scalars(select(Refund).order_by(Refund.id.desc()).limit(200))
        return [
            [row.id, row.status, money_text(row.amount_minor, row.currency), row.top_up_id, row.requested_by,
             row.approved_by or "", row.failure_code or "", row.reason]
            for row in rows
        ]  # fmt: skip

    columns = ["id", "state", "amount", "top-up", "asked by", "approved by", "failure", "reason"]
    show("Refunds", columns, read(work), as_json=as_json)


@suspense.command("list")
def suspense_list(as_json: AsJson = False) -> None:
    """What waits for a person, oldest first."""

    async def work(session: AsyncSession) -> list[list[str]]:
        return [
            [item.id, money_text(item.amount_minor, item.currency), item.rail, item.rail_ref,
             item.account_reference or "", item.payer or "", item.reason]
            for item in await suspense_work.open_items(session)
        ]  # fmt: skip

    columns = ["id", "amount", "rail", "payment", "payer typed", "payer", "reason"]
    show("Suspense", columns, read(work), as_json=as_json)


@suspense.command("assign")
def suspense_assign(
    item_id: str, serial: str, note: Annotated[str, typer.Option(help="How you know; it is kept.")]
) -> None:
    """Credit an item to a meter."""
    top_up_id = by_operator(
        lambda session, by, _rails, now: suspense_work.assign(
            session, operator=by, item_id=item_id, serial=serial, note=note, now=now
        ),
        may=MONEY,
    )
    typer.echo(f"{item_id}: credited to {serial} as {top_up_id}")


@suspense.command("returned")
def suspense_returned(item_id: str, note: Annotated[str, typer.Option(help="How and where; it is kept.")]) -> None:
    """Note that an item was given back by hand, in the provider's portal."""
    by_operator(
        lambda session, by, _rails, now: suspense_work.note_returned(
            session, operator=by, item_id=item_id, note=note, now=now
        ),
        may=MONEY,
    )


@mpesa.command("register")
def mpesa_register() -> None:
    """Tell M-Pesa where to ask about paybill payments and where to confirm them. Once per paybill."""

    async def run(_settings: Settings, _database: Database, rails: Rails) -> None:
        rail = rails.get("mpesa")
        if not isinstance(rail, MpesaRail):
            raise InvalidInputError("M-Pesa is not set up: STANDPIPE_MPESA_URL is empty.")
        await rail.register_urls()

    at_desk(run)
