"""Refunds, suspense, and M-Pesa's set-up."""

from typing import Annotated

import typer

from standpipe.office.desk import AsJson, group, perform, perform_long, show
from standpipe.office.desk import amount as major
from standpipe.operations import refunds, settlements
from standpipe.platform.ids import new_id
from standpipe.platform.units import money_text

refund = group("Refunds: asked for by one operator, approved by another.")
suspense = group("Money that waits for a person.")
mpesa = group("M-Pesa's own set-up.")


@refund.command("request")
def refund_request(
    payment_id: str,
    amount: str,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    key: Annotated[str | None, typer.Option(help="The same key again is the same request.")] = None,
) -> None:
    """Ask for a refund of a payment (a top-up's id is its first payment's); somebody else must approve it."""
    typer.echo(perform(refunds.request, payment_id, major(amount), reason=reason, key=key or new_id("key")))


@refund.command("approve")
def refund_approve(refund_id: str) -> None:
    """Approve what another operator asked for; the meter's truth decides whether it goes out."""
    typer.echo(f"{refund_id}: {perform(refunds.approve, refund_id)}")


@refund.command("reject")
def refund_reject(refund_id: str) -> None:
    """Turn a request down."""
    perform(refunds.refuse, refund_id)


@refund.command("list")
def refund_list(as_json: AsJson = False) -> None:
    """The newest refunds."""
    rows = [
        [row.id, row.status, money_text(row.amount_minor, row.currency), row.payment_id, row.requested_by,
         row.approved_by or "", row.failure_code or "", row.reason]
        for row in perform(refunds.list_refunds)
    ]  # fmt: skip
    columns = ["id", "state", "amount", "payment", "asked by", "approved by", "failure", "reason"]
    show("Refunds", columns, rows, as_json=as_json)


@suspense.command("list")
def suspense_list(as_json: AsJson = False) -> None:
    """List the money that waits for a person, oldest first."""
    rows = [
        [item.id, money_text(item.amount_minor, item.currency), item.rail, item.rail_ref,
         item.account_reference or "", item.payer or "", item.reason]
        for item in perform(refunds.list_suspense)
    ]  # fmt: skip
    columns = ["id", "amount", "rail", "payment", "payer typed", "payer", "reason"]
    show("Suspense", columns, rows, as_json=as_json)


@suspense.command("assign")
def suspense_assign(
    item_id: str, serial: str, note: Annotated[str, typer.Option(help="How you know; it is kept.")]
) -> None:
    """Credit an item to a meter."""
    top_up_id = perform(refunds.assign, item_id, serial, note=note)
    typer.echo(f"{item_id}: credited to {serial} as {top_up_id}")


@suspense.command("returned")
def suspense_returned(item_id: str, note: Annotated[str, typer.Option(help="How and where; it is kept.")]) -> None:
    """Note that an item was given back by hand, in the provider's portal."""
    perform(refunds.note_returned, item_id, note=note)


@mpesa.command("register")
def mpesa_register() -> None:
    """Tell M-Pesa where to ask about paybill payments and where to confirm them. Once per paybill."""
    perform_long(settlements.register_mpesa)
