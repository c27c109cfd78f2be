"""A statement's page: behind its signed link, and as rows that add up, in the reader's language."""

import re
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update

from standpipe.billing.statement_body import (
    EMPTY,
    AccountSpan,
    Adjustment,
    Bill,
    Movement,
    StatementBody,
    StatementLine,
    is_balanced,
)
from standpipe.billing.statement_pdf import owed_rows, render, wallet_rows
from standpipe.billing.statement_text import line_text
from standpipe.billing.statements import ACCOUNTS
from standpipe.meters.models import Meter
from standpipe.payments.receipt_links import TTL_S, sign_link
from standpipe.platform.pdf import shown
from tests.support.june import JUNE, MAY, ZONE, add_home, close, read, statement
from tests.support.town import Town


async def test_the_link_opens_the_page_in_the_reader_s_language(june: Town) -> None:
    await read(june, (datetime(2026, 6, 10, tzinfo=UTC), 16_000_000))
    url = (await statement(june, JUNE))["pdf"]
    for language in ("en", "sw", "fr-FR, en;q=0.8", "xx-invalid-tag-99", "*", "", ";;;", "en" * 500):
        page = await june.http.get(url, headers={"accept-language": language})
        assert (page.status_code, page.headers["content-type"]) == (200, "application/pdf"), language
        assert page.content.startswith(b"%PDF")
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-disposition"] == f'inline; filename="statement-{june.home.serial}-2026-06.pdf"'
    await close(june, MAY)
    page = await june.http.get((await statement(june, MAY))["pdf"])
    assert "max-age" in page.headers["cache-control"]


async def test_a_serial_with_strange_letters_has_a_page_too(june: Town) -> None:
    async with june.sessions.begin() as session:
        await session.execute(update(Meter).where(Meter.id == june.home.meter_id).values(serial='KW "1"; 水表\r\nX: y'))
    page = await june.http.get((await statement(june, JUNE))["pdf"])
    assert page.status_code == 200
    assert page.headers["content-disposition"] == 'inline; filename="statement-KW1Xy-2026-06.pdf"'


async def test_links_that_do_not_hold_look_like_none(june: Town) -> None:
    other = await add_home(june)
    url = (await statement(june, JUNE))["pdf"]
    secret, now_s = june.app.state.receipt_secret, time.time()
    name = f"{june.home.meter_id}/2026-06"
    expired = sign_link(secret, june.api, name, now_s - TTL_S - 1, kind="statement")
    as_receipt = sign_link(secret, june.api, name, now_s).replace("/receipts/", "/statements/")
    ours = sign_link(secret, june.api, f"{june.home.meter_id}/2030-01", now_s, kind="statement")
    nobody = sign_link(secret, june.api, "mtr_00000000000000000000000000/2026-06", now_s, kind="statement")
    garbled = sign_link(secret, june.api, f"{june.home.meter_id}/2026-13", now_s, kind="statement")
    for wrong in (
        expired, as_receipt, ours, nobody, garbled, url.split("?")[0], url.replace("sig=", "sig=0"), f"{url}0",
        url.replace(june.home.meter_id, other.meter_id), url.replace("2026-06", "2026-05"),
        re.sub(r"expires=\d+", "expires=99999999999", url), re.sub(r"expires=\d+", "expires=-1", url),
    ):  # fmt: skip
        answer = await june.http.get(wrong)
        assert answer.status_code == 404, wrong
        assert answer.json() == {"error": "There is no such statement, or this link has run out."}
    # A statement's signature opens no receipt either.
    turned = sign_link(secret, june.api, "rct_00000000000000000000000000", now_s, kind="statement")
    assert (await june.http.get(turned.replace("/statements/", "/receipts/"))).status_code == 404
    assert (await june.http.get(url)).status_code == 200


def line(kind: str, amount_minor: int, *, name: str = "", rate: str | None = None, **more: Any) -> StatementLine:
    values = {"code": "water", "tier": 0, "quantity": 5_000_000, "since": JUNE, "until": date(2026, 7, 1)} | more
    return StatementLine(
        kind=kind, name=name, rate=None if rate is None else Decimal(rate), amount_minor=amount_minor, **values
    )


def body(movements: int = 0, **more: Any) -> StatementBody:
    moved = tuple(
        Movement(
            at=datetime(2026, 5, 31, 21, 30, tzinfo=UTC) + timedelta(hours=16 * number),
            kind="TOP_UP",
            amounts={"WALLET": 10_000, "RECEIVABLE": 2_500},
            paid_minor=12_500,
            fee_minor=0,
        )
        for number in range(movements)
    )
    values: dict[str, Any] = {
        "currency": "KES",
        "utility_name": "Water of the Town",
        "serial": "KW-1",
        "label": "Home",
        "time_zone": str(ZONE),
        "period_start": JUNE,
        "period_end": date(2026, 7, 1),
        "accounts": {kind: AccountSpan(opening_minor=0, closing_minor=0) for kind in ACCOUNTS},
        "movements": moved,
        "use": EMPTY,
        "standing": EMPTY,
        "adjustments": (),
        "daily_ml": {},
    }
    return StatementBody(**(values | more))


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b", pdf))


def test_a_page_with_nothing_on_it_is_one_page() -> None:
    assert pages(render(body(), "000001", "en")) == 1
    assert [label for label, _, _ in wallet_rows(body(), "en")] == ["Credit at the beginning", "Credit at the end"]
    assert owed_rows(body(), "RECEIVABLE", "en") == []


@pytest.mark.parametrize("language", ["en", "sw", "fr", "ar", "tlh"])
def test_a_long_month_goes_over_several_pages(language: str) -> None:
    long = body(
        40,
        utility_name="Water <b>& Sewerage</b> " * 12,
        label="水 Nyumba ya Wanjikũ " * 40,
        daily_ml={JUNE + timedelta(days=number): 250_000 * number for number in range(20)},
    )
    page = render(long, "000001", language)
    assert pages(page) >= 2
    assert page == render(long, "000001", language), "the same bytes for the same statement"


def test_rows_add_up_and_say_what_they_are() -> None:
    use = Bill(
        volume_ml=6_000_000,
        total_minor=50_000,
        lines=(line("WATER", 30_000, rate="5345.5"), line("LEVY", 20_000, name="VAT", code="vat")),
    )
    changed = Adjustment(
        period_start=MAY, account="WALLET", was=EMPTY, now=use.model_copy(update={"lines": ()}), difference_minor=50_000
    )
    spans = {kind: AccountSpan(opening_minor=0, closing_minor=0) for kind in ACCOUNTS}
    spans["WALLET"] = AccountSpan(opening_minor=100_000, closing_minor=20_000)
    spans["RECEIVABLE"] = AccountSpan(opening_minor=-10_000, closing_minor=-5_000)
    made = body(2, use=use, adjustments=(changed,), accounts=spans)
    assert is_balanced(made)
    rows = wallet_rows(made, "en")
    assert sum(amount for _, amount, _ in rows[:-1]) == rows[-1][1] == 20_000
    # In the meter's own zone it was the first of June already.
    assert rows[1][0] == "Jun 1 – Top-up (paid KES125.00)"
    assert rows[3][0] == "Water, block 1: 5.0 m³ × KES53.455/m³"
    assert rows[5] == ("May 2026 came to KES500.00 instead of KES0.00", -50_000, False)
    owed = owed_rows(made, "RECEIVABLE", "en")
    assert [amount for _, amount, _ in owed] == [10_000, -2_500, -2_500, 5_000]
    assert wallet_rows(made, "fr")[1][0].startswith("1 juin – Recharge (payé 125,00")
    assert wallet_rows(made, "sw-KE")[1][0].startswith("1 Jun – Kuongeza salio (imelipwa Ksh")


def test_a_price_has_all_its_digits() -> None:
    assert line_text(line("WATER", 1, rate="5345.525"), "KES", "en").endswith("× KES53.45525/m³")
    assert line_text(line("WATER", 1, rate="5000"), "KES", "en").endswith("× KES50.00/m³")
    assert line_text(line("WATER", 1, rate="500"), "UGX", "en").endswith("× UGX500/m³")


def test_letters_that_the_font_lacks_lose_their_marks() -> None:
    assert shown("Wanjikũ ĩ é ß") == "Wanjiku i é ß"
    assert shown("水 \U0001f6b0") == "? ?"
    assert shown("u\u0303") == "u"
