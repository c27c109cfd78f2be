"""Receipts as the app sees them: paid = sum of the lines."""

import time
from datetime import datetime

import strawberry

from standpipe.graphql.base import Money, Node, Url, Volume, money, volume
from standpipe.graphql.context import Context
from standpipe.graphql.quotes import Charge
from standpipe.payments.receipt_links import sign_link
from standpipe.payments.receipt_text import line_label, number_text, sms_text
from standpipe.payments.receipts import ReceiptView


@strawberry.type(description="What was paid and what it became. The lines sum to what was paid.")
class Receipt(Node):
    """Numbered without gaps per utility. ``pay`` is below zero where money was given back."""

    number: str = strawberry.field(description="The utility's own, without gaps.")
    kind: str = strawberry.field(description="SALE or GIVEN_BACK.")
    issued_at: datetime = strawberry.field(description="When the money was booked.")
    pay: Money = strawberry.field(description="What was paid; below zero where money was given back.")
    tax: Money = strawberry.field(description="Tax among the lines.")
    lines: list[Charge] = strawberry.field(description="What the money became; they sum to `pay`.")
    volume: Volume = strawberry.field(description="What the credit buys at this period's use so far.")
    pdf: Url = strawberry.field(description="A page to keep or print; the link works for a week, for whoever has it.")
    sms_text: str = strawberry.field(
        description="The receipt in at most 160 characters, in the language that the request asks for."
    )


def receipt_of(context: Context, view: ReceiptView) -> Receipt:
    """A receipt for its reader."""
    language, services = context.language, context.services
    return Receipt(
        id=strawberry.ID(view.id),
        number=number_text(view),
        kind=view.kind,
        issued_at=view.issued_at,
        pay=money(view.paid_minor, view.currency, language),
        tax=money(sum(line["amount_minor"] for line in view.lines if line["kind"] == "TAX"), view.currency, language),
        lines=[
            Charge(
                code=line["kind"],
                label=line_label(line, language),
                amount=money(line["amount_minor"], view.currency, language),
            )
            for line in view.lines
        ],
        volume=volume(sum(line.get("volume_ml", 0) for line in view.lines), language),
        pdf=Url(sign_link(services.signer.secret, services.public_url, view.id, time.time())),
        sms_text=sms_text(view, language),
    )
