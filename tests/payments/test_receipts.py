"""Receipts: paid = sum of the lines, numbers without gaps, and a page for whoever holds the link."""

import asyncio
import re
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from standpipe.ledger.models import AccountKind
from standpipe.payments.book_models import Receipt
from standpipe.payments.models import RailEvent
from standpipe.payments.receipt_links import TTL_S, sign_link
from standpipe.payments.receipt_pdf import render
from standpipe.payments.receipt_text import SMS_LENGTH, sms_text
from standpipe.payments.receipts import ReceiptView, entries_of, issue, lines_of
from standpipe.payments.split import FeeRule, Owing, fee_for, pay_for, split
from standpipe.tariffs.periods import price_more
from standpipe.tariffs.pricing import Place, table_of, volume_for_ml
from tests.support.tariffs import plain_segment
from tests.support.town import BLOCKS, Town, until

pytestmark = pytest.mark.calendar

SEEN = (
    "query($i: ID!) { node(id: $i) { ... on TopUp { givenBack { amount } receipt { number pay { amount } smsText pdf "
    "volume { litres } lines { code label amount { amount } } } receipts { number kind pay { amount } "
    "lines { code amount { amount } } } } } }"
)
MONEY = st.integers(min_value=1, max_value=10**9)


async def paid(town: Town, amount: str = "15.00", **params: str) -> str:
    top_up_id = str((await town.start("sandbox", amount))["topUp"]["id"])
    await act(town, top_up_id, "approve", **params)
    return top_up_id


async def act(town: Town, top_up_id: str, action: str, **params: str) -> None:
    await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/{action}", params=params)
    await until(lambda: town.count(RailEvent))
    await town.drain()
    await town.poll()
    await town.drain()


async def seen(town: Town, top_up_id: str) -> Any:
    return (await town.gql(SEEN, i=top_up_id))["data"]["node"]


async def test_a_payment_has_a_receipt_that_explains_it(town: Town) -> None:
    node = await seen(town, await paid(town))
    receipt = node["receipt"]
    assert (receipt["number"], receipt["pay"]["amount"]) == ("000001", "15.00")
    assert [line["code"] for line in receipt["lines"]] == ["CREDIT"]
    assert receipt["lines"][0]["label"].startswith("Credit, tier 1")
    assert "000001" in receipt["smsText"]
    assert len(receipt["smsText"]) <= SMS_LENGTH
    page = await town.http.get(receipt["pdf"])
    assert (page.status_code, page.headers["content-type"]) == (200, "application/pdf")
    assert page.content.startswith(b"%PDF")


async def test_numbers_have_no_gaps_however_many_pay_at_once(town: Town) -> None:
    ids = await asyncio.gather(*(town.start("sandbox", f"{number + 1}.00") for number in range(12)))
    for payload in ids:
        await town.http.post(f"{town.sandbox_url}/v1/references/{payload['topUp']['id']}/lose")
    await town.poll()
    await town.poll()
    await asyncio.gather(*(town.drain() for _ in range(4)))
    async with town.sessions() as session:
        rows = (await session.scalars(select(Receipt).order_by(Receipt.number))).all()
    assert [row.number for row in rows] == list(range(1, 13))
    for row in rows:
        assert row.paid_minor == sum(line["amount_minor"] for line in row.lines)


async def test_a_receipt_that_is_rolled_back_takes_no_number(town: Town) -> None:
    first = await paid(town)
    async with town.sessions() as session:
        [key] = (await session.scalars(select(Receipt.source_key))).all()
    for end in ("rollback", "commit"):
        async with town.sessions() as session:
            # Asked again it is the same receipt; and what does not commit leaves nothing behind.
            assert (
                await issue(
                    session,
                    payment_id=first,
                    posting_key=key,
                    entries=await entries_of(session, key),
                    bill=(),
                    now=datetime.now(UTC),
                )
                is None
            )
            await getattr(session, end)()
    await paid(town, "16.00")
    async with town.sessions() as session:
        assert (await session.scalars(select(Receipt.number).order_by(Receipt.number))).all() == [1, 2]


async def test_a_stalled_receipt_does_not_make_payments_wait(town: Town) -> None:
    await paid(town)
    async with town.sessions.begin() as session:
        await session.execute(text("SELECT * FROM receipt_counters FOR UPDATE"))
        top_up_id = str((await town.start("sandbox", "16.00"))["topUp"]["id"])
        await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/lose")
        async with asyncio.timeout(10):
            await town.poll()
        assert await town.wallet() == 3100
    await town.drain()
    assert await town.count(Receipt) == 2


@pytest.mark.parametrize(
    "spoil",
    [lambda url: url.replace("sig=", "sig=0"), lambda url: url.replace("rct_", "rct_0")[:-1],
     lambda url: url.split("?")[0],
     lambda url: re.sub(r"expires=\d+", "expires=99999999999", url), lambda url: url + "ü"],
)  # fmt: skip
async def test_links_that_do_not_hold_look_like_none(town: Town, spoil: Any) -> None:
    receipt = (await seen(town, await paid(town)))["receipt"]
    answer = await town.http.get(spoil(receipt["pdf"]))
    assert answer.status_code == 404


async def test_a_link_runs_out(town: Town) -> None:
    receipt = (await seen(town, await paid(town)))["receipt"]
    receipt_id = receipt["pdf"].split("/receipts/")[1].split(".pdf")[0]
    secret = town.app.state.receipt_secret
    fresh = sign_link(secret, town.api, receipt_id, datetime.now(UTC).timestamp())
    old = sign_link(secret, town.api, receipt_id, datetime.now(UTC).timestamp() - TTL_S - 5)
    assert (await town.http.get(fresh)).status_code == 200
    assert (await town.http.get(old)).status_code == 404


def _view(**more: Any) -> ReceiptView:
    values: dict[str, Any] = {
        "id": "rct_" + "0" * 26,
        "number": 42,
        "utility_name": "Kijani Water",
        "meter_id": "mtr_1",
        "meter_serial": "KW1001",
        "top_up_id": "top_1",
        "kind": "SALE",
        "method_id": "mpesa",
        "provider_receipt": "RKTQDM7W6S",
        "currency": "KES",
        "paid_minor": 15_000,
        "lines": (
            {"kind": "CREDIT", "tier": 0, "volume_ml": 200_000, "amount_minor": 10_000},
            {"kind": "RESIDUE", "amount_minor": 3},
            {"kind": "DEBT", "amount_minor": 4_000},
            {"kind": "FEE", "amount_minor": 997},
        ),
        "issued_at": datetime(2026, 5, 1, 21, 30, tzinfo=UTC),
        "time_zone": "Africa/Nairobi",
    }
    return ReceiptView(**(values | more))


@pytest.mark.parametrize("language", ["en", "sw-KE", "fr", "ar", "xx", "", "zh-Hant-TW"])
@pytest.mark.parametrize("name", ["Kijani Water", "مياه", "<b>&", "水" * 300, "", "Ünïcode Wässer " * 20])
def test_any_language_and_name_makes_a_page(language: str, name: str) -> None:
    view = _view(utility_name=name)
    assert render(view, language) == render(view, language)
    assert len(sms_text(view, language)) <= SMS_LENGTH
    assert b"%%EOF" in render(_view(lines=view.lines * 30), language)


def test_the_day_is_the_meters_not_greenwichs() -> None:
    assert "2026-05-02" in sms_text(_view(), "en")


@given(
    pay=MONEY,
    owed=st.integers(0, 10**9),
    share=st.integers(0, 100),
    points=st.integers(0, 10_000),
    used=st.integers(0, 10**8),
    emergency=st.integers(0, 10**5),
    standing=st.integers(0, 10**5),
    weekly=st.integers(0, 10**6),
    guaranteed=st.integers(0, 10**5),
)
def test_paid_is_the_sum_of_the_lines(
    pay: int,
    owed: int,
    share: int,
    points: int,
    used: int,
    emergency: int,
    standing: int,
    weekly: int,
    guaranteed: int,
) -> None:
    parts = split(
        pay,
        fee_minor=fee_for(FeeRule(points, 7), pay),
        owing=Owing(emergency, standing, owed, share, weekly, guaranteed),
    )
    assert parts.paid_minor == parts.credit_minor + sum(parts.kept_back().values())
    assert min(parts.credit_minor, *parts.kept_back().values(), 0) == 0
    rest = pay - parts.fee_minor - parts.emergency_minor
    assert parts.credit_minor >= min(rest, guaranteed)
    assert parts.debt_minor <= min(weekly, rest * share // 100)
    assert parts.debt_minor <= owed
    table = table_of(BLOCKS)
    volume_ml = volume_for_ml(table, used, parts.credit_minor)
    segment = plain_segment(table, date(2026, 5, 1))
    entries = [
        (AccountKind.CLEARING, -pay),
        (AccountKind.WALLET, parts.credit_minor),
        (AccountKind.RECEIVABLE, parts.debt_minor),
        (AccountKind.SERVICE_FEES, parts.fee_minor),
        (AccountKind.STANDING_DUE, parts.standing_minor),
        (AccountKind.EMERGENCY, parts.emergency_minor),
    ]
    bill = price_more(segment, Place(table, used), volume_ml).lines
    lines = lines_of([entry for entry in entries if entry[1]], bill)
    assert sum(line["amount_minor"] for line in lines) == pay


@given(
    credit=MONEY,
    owed=st.integers(0, 10**9),
    share=st.integers(0, 99),
    points=st.integers(0, 5_000),
    fixed=st.integers(0, 500),
    standing=st.integers(0, 10**5),
    guaranteed=st.integers(0, 10**5),
)
def test_the_payment_for_a_credit_is_the_least_that_reaches_it(
    credit: int, owed: int, share: int, points: int, fixed: int, standing: int, guaranteed: int
) -> None:
    rule = FeeRule(points, fixed)
    owing = Owing(standing_minor=standing, debt_minor=owed, share_percent=share, guaranteed_minor=guaranteed)

    def credit_of(pay: int) -> int:
        return split(pay, fee_minor=fee_for(rule, pay), owing=owing).credit_minor

    pay = pay_for(credit, rule, owing)
    assert pay is not None
    assert credit_of(pay) >= credit > credit_of(pay - 1)
