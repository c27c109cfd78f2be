"""M-Pesa through HTTP: pushes to phones, paybill money by meter number, and callbacks that anybody could send."""

import asyncio
import json
from ipaddress import ip_network
from typing import Any

import pytest
from sqlalchemy import func, select, text

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, account_sum_minor
from standpipe.meters.models import Meter
from standpipe.payments.models import Payment, RailEvent, Refund, SuspenseItem, TopUp
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.payments.rails.mpesa_wire import amount_minor, read_c2b
from standpipe.payments.refunds import approve_refund, request_refund, work_refunds
from standpipe.payments.suspense_work import assign
from standpipe.platform.errors import InvalidInputError
from tests.support.town import MPESA_SECRET, Town, make_home, until


async def begin(town: Town, amount: str = "15.00", phone: str | None = "+254712345678") -> tuple[str, str]:
    """A push that rings; returns the top-up's id and the push's."""
    mutation = (
        "mutation($k: ID!, $m: ID!, $a: Decimal!, $n: PhoneNumber) { topUpStart(input: {idempotencyKey: $k, "
        'meterId: $m, pay: {amount: $a, currency: "KES"}, methodId: "mpesa", phone: $n}) { topUp { id status '
        "nextAction { instructions ... on StkPush { phoneMasked } } } userErrors { code field message } } }"
    )
    pushes = set(town.mpesa.pushes)
    key = f"k{len(pushes)}{amount}"
    answer = await town.gql(mutation, k=key, m=town.home.meter_id, a=amount, n=phone)
    payload = answer["data"]["topUpStart"]
    assert payload["userErrors"] == [], payload
    [push] = set(town.mpesa.pushes) - pushes
    return payload["topUp"]["id"], push


async def decide(town: Town, push: str, action: str) -> None:
    answer = await town.http.post(f"{town.mpesa_url}/_control/stk/{push}/{action}")
    assert answer.status_code == 200
    await town.mpesa.sender.settle()


async def paybill(town: Town, account: str, amount: str = "20", **more: str) -> dict[str, Any]:
    params = {"account": account, "amount": amount, "phone": "254700000099"} | more
    answer: dict[str, Any] = (await town.http.post(f"{town.mpesa_url}/_control/paybill", params=params)).json()
    await town.mpesa.sender.settle()
    return answer


async def work(town: Town) -> None:
    """Work off notices, the questions that they raise, and the answers to these."""
    for _ in range(3):
        await town.drain()
        await town.mpesa.sender.settle()
        await town.hurry(RailEvent)
    await town.drain()


async def call(town: Town, channel: str, body: Any, secret: str = MPESA_SECRET, **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await town.http.post(f"{town.api}/webhooks/mpesa/{secret}/{channel}", content=content, headers=headers)


async def suspended(town: Town) -> int:
    async with town.sessions() as session:
        return await account_sum_minor(session, AccountRef(AccountKind.SUSPENSE, "mpesa", "KES"))


@pytest.fixture
async def registered(town: Town) -> Town:
    rail = town.rails["mpesa"]
    assert isinstance(rail, MpesaRail)
    await rail.register_urls()
    return town


async def test_a_push_is_approved_and_credited_once(town: Town) -> None:
    top_up_id, push = await begin(town)
    assert town.mpesa.pushes[push]["phone"] == "254712345678"
    await decide(town, push, "approve_twice")
    await work(town)
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)
    async with town.sessions() as session:
        assert (await session.get_one(Payment, top_up_id)).receipt_ref == town.mpesa.pushes[push]["receipt"]


async def test_without_a_number_the_customers_own_phone_rings(town: Town) -> None:
    async with town.sessions.begin() as session:
        await session.execute(text("UPDATE customers SET phone = '+254711222333'"))
    _, push = await begin(town, phone=None)
    assert town.mpesa.pushes[push]["phone"] == "254711222333"


async def test_p50_a_push_whose_callback_is_lost_is_found_by_asking(town: Town) -> None:
    top_up_id, push = await begin(town)
    await decide(town, push, "approve_silent")
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


@pytest.mark.parametrize(
    ("action", "status"),
    [("cancel", "CANCELLED"), ("no_answer", "EXPIRED"), ("insufficient", "FAILED"), ("wrong_pin", "FAILED")],
)
async def test_p16_a_push_that_failed_and_then_succeeds_is_credited(town: Town, action: str, status: str) -> None:
    top_up_id, push = await begin(town)
    await decide(town, push, action)
    await work(town)
    assert await town.status(top_up_id) == status
    await decide(town, push, "approve")
    await work(town)
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_a_create_whose_answer_is_lost_never_rings_twice(registered: Town) -> None:
    town = registered
    await town.http.post(f"{town.mpesa_url}/_control/withhold?n=1")
    top_up_id, push = await begin(town)
    for _ in range(4):
        await town.poll()
    assert len(town.mpesa.pushes) == 1
    assert await town.status(top_up_id) == "CREATED"
    # The payer pays all the same; M-Pesa confirms the money with the account reference that the push carried.
    await decide(town, push, "approve_with_c2b")
    await work(town)
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)
    assert await suspended(town) == 0


@pytest.mark.parametrize("channel", ["stk", "c2b/confirmation", "result/abc", "timeout/abc"])
async def test_p10_callbacks_without_our_secret_or_from_elsewhere_are_refused(town: Town, channel: str) -> None:
    body = {"TransID": "ABCDEF1234"}
    assert (await call(town, channel, body, secret="x" * 35)).status_code == 400
    assert (await town.http.post(f"{town.api}/webhooks/mpesa", json=body)).status_code == 400
    rail = town.rails["mpesa"]
    assert isinstance(rail, MpesaRail)
    rail._networks = ["196.201.214.200/32"]
    assert (await call(town, channel, body)).status_code == 400
    # What a stranger writes into the header is not where they are.
    assert (await call(town, channel, body, **{"X-Forwarded-For": "196.201.214.200"})).status_code == 400
    assert await town.count(RailEvent) == 0


async def test_p10_a_trusted_proxy_is_believed_about_the_last_hop_only(town: Town) -> None:
    rail = town.rails["mpesa"]
    assert isinstance(rail, MpesaRail)
    rail._networks = ["196.201.214.200/32"]
    town.app.state.trusted_proxies = [ip_network("127.0.0.1/32")]
    body = {"TransID": "ABCDEF1234", "TransAmount": "5.00"}
    good = {"X-Forwarded-For": "6.6.6.6, 196.201.214.200"}
    spoofed = {"X-Forwarded-For": "196.201.214.200, 6.6.6.6"}
    assert (await call(town, "c2b/confirmation", body, **spoofed)).status_code == 400
    assert (await call(town, "c2b/confirmation", body, **good)).status_code == 200


async def test_p10_a_known_sender_is_a_hint_only(registered: Town) -> None:
    town = registered
    forged = {"TransID": "FORGED1234", "TransAmount": "9000.00", "BillRefNumber": town.home.serial}
    assert (await call(town, "c2b/confirmation", forged)).json()["ResultCode"] == 0
    await work(town)
    assert await town.credits() == (0, 0, 0)
    real = await paybill(town, town.home.serial, "20", mode="lost")
    lie = {"TransID": real["transaction"], "TransAmount": "9000.00", "BillRefNumber": town.home.serial}
    await call(town, "c2b/confirmation", lie)
    await work(town)
    assert await town.credits() == (1, 1, 2000)


async def test_p10_money_that_went_to_another_paybill_is_not_ours(registered: Town) -> None:
    town = registered
    real = await paybill(town, town.home.serial, "20", mode="lost")
    town.mpesa.money[real["transaction"]]["payee"] = "123456"
    await call(town, "c2b/confirmation", town.mpesa.c2b(town.mpesa.money[real["transaction"]]))
    await work(town)
    assert await town.credits() == (0, 0, 0)
    assert await suspended(town) == 0


async def test_p10_an_answer_that_nobody_asked_for_changes_nothing(registered: Town) -> None:
    town = registered
    items = [{"Key": "Amount", "Value": 9000}, {"Key": "ReceiptNo", "Value": "FORGED1234"}]
    body = {"Result": {"ResultCode": 0, "ResultParameters": {"ResultParameter": items}}}
    assert (await call(town, "result/0123456789abcdef", body)).status_code == 200
    await work(town)
    assert await town.credits() == (0, 0, 0)


@pytest.mark.parametrize(
    ("value", "minor"),
    [("5.00", 500), ("10", 1000), (10.0, 1000), ("1,250.50", 125_050), (7, 700), ("0", None), ("-5", None),
     (True, None), (None, None), ("", None), ("NaN", None), ("1.001", None), ("9" * 200, None), ({}, None)],
)  # fmt: skip
async def test_p24_amounts_as_m_pesa_writes_them(value: Any, minor: int | None) -> None:
    read = read_c2b(json.dumps({"TransID": "ABCDEF1234", "TransAmount": value}).encode())
    assert read is not None
    assert read.amount_minor == minor
    if not isinstance(value, float):
        assert amount_minor(value) == minor


@pytest.mark.parametrize("code", [0, "0"])
@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"Item": None}, {"Item": {"Name": "Amount"}}, {"Item": [{"Name": "Balance"}, "x", {"Value": 1}]}],
)
async def test_p24_callbacks_with_holes_still_lead_to_the_question(town: Town, code: Any, metadata: Any) -> None:
    top_up_id, push = await begin(town)
    await decide(town, push, "approve_silent")
    inner = {"CheckoutRequestID": push, "ResultCode": code}
    if metadata is not None:
        inner["CallbackMetadata"] = metadata
    assert (await call(town, "stk", {"Body": {"stkCallback": inner}})).status_code == 200
    await work(town)
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


@pytest.mark.parametrize("channel", ["stk", "c2b/confirmation", "result/q1", "timeout/q1", "nowhere", "stk/../x"])
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b"[" * 9000, b'{"Body": 1}', b'{"TransID": "\\u0000"}'])
async def test_p5_nonsense_from_a_known_sender_is_no_500(town: Town, channel: str, body: bytes) -> None:
    assert (await call(town, channel, body)).status_code in {200, 400}
    await town.drain()


async def test_p41_m_pesa_asks_and_is_told_the_truth(registered: Town) -> None:
    town = registered
    assert (await paybill(town, "KW9999999"))["code"] == "C2B00012"
    assert (await paybill(town, town.home.serial, "0.50"))["code"] == "C2B00013"
    assert (await paybill(town, town.home.serial, "250001"))["code"] == "C2B00013"
    assert (await paybill(town, town.home.serial))["accepted"] is True
    async with town.sessions.begin() as session:
        (await session.get_one(Meter, town.home.meter_id)).closed_at = func.now()
    assert (await paybill(town, town.home.serial))["code"] == "C2B00012"
    for body in (b"", b"[]", b'{"TransID": "ABCDEF1234"}'):
        assert (await call(town, "c2b/validation", body)).json()["ResultCode"] == "C2B00012"
    assert (await call(town, "c2b/validation", b"{}", secret="y" * 35)).status_code == 400


async def test_p41_a_database_that_hangs_does_not_keep_m_pesa_waiting(
    registered: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = registered
    monkeypatch.setattr("standpipe.api.paybill.ANSWER_WITHIN_S", 0.3)
    async with town.sessions.begin() as session:
        await session.execute(text("LOCK TABLE meters IN ACCESS EXCLUSIVE MODE"))
        asked = {"TransID": "ABCDEF1234", "TransAmount": "5.00", "BillRefNumber": town.home.serial}
        # While the lock lasts nobody can look a meter up; the answer comes all the same, and it is yes.
        answer = await call(town, "c2b/validation", asked)
    assert answer.json()["ResultCode"] == "0"


async def test_p42_money_for_an_unknown_meter_waits_and_is_assigned_once(registered: Town) -> None:
    town = registered
    del town.mpesa.urls["ValidationURL"]
    await paybill(town, "NO SUCH METER", "20", mode="double")
    await work(town)
    assert (await town.credits(), await suspended(town)) == ((0, 0, 0), 2000)
    async with town.sessions() as session:
        [item] = (await session.scalars(select(SuspenseItem))).all()
    assert (item.account_reference, item.reason) == ("NO SUCH METER", "no meter has the number 'NO SUCH METER'")

    async def place() -> bool:
        try:
            async with town.sessions.begin() as session:
                await assign(
                    session,
                    operator="amina",
                    item_id=item.id,
                    serial=town.home.serial,
                    note="called the payer",
                    now=town.settings.clock.now(),
                )
        except Exception:
            return False
        return True

    assert sorted(await asyncio.gather(*(place() for _ in range(5)))) == [False] * 4 + [True]
    await paybill_again(town)
    assert (await town.credits(), await suspended(town)) == ((1, 1, 2000), 0)
    assert await town.sums() == {"KES": 0}


async def paybill_again(town: Town) -> None:
    """The same confirmation once more, and the payment poller, after the money was placed."""
    [money] = town.mpesa.money.values()
    await call(town, "c2b/confirmation", town.mpesa.c2b(money) | {"Again": "1"})
    await town.hurry(RailEvent)
    await work(town)
    await town.poll()


@pytest.mark.parametrize("typed", ["{s}", " {s} ", "{l}", "00{s}", "{s3} {s4}", "{s3}-{s4}"])
async def test_p43_a_number_as_people_type_it(registered: Town, typed: str) -> None:
    town, serial = registered, registered.home.serial
    account = typed.format(s=serial, l=serial.lower(), s3=serial[:3], s4=serial[3:])
    await paybill(town, account)
    await work(town)
    assert await town.credits() == (1, 1, 2000)


async def test_p43_never_matched_to_one_that_is_only_like_it(registered: Town) -> None:
    town = registered
    del town.mpesa.urls["ValidationURL"]
    serial = town.home.serial
    for account in (serial[:-1], serial + "1", "", "0000", serial.replace(serial[-1], "ü")):
        await paybill(town, account)
    # Two meters whose numbers read alike: nobody can tell which was meant.
    twin = await make_home(
        town.sessions,
        town.settings,
        town.utility_id,
        town.tariff_id,
        installed_at=town.settings.clock.now(),
        zone="Africa/Nairobi",
    )
    async with town.sessions.begin() as session:
        (await session.get_one(Meter, twin.meter_id)).serial = f"0{serial}"
    await paybill(town, serial)
    await work(town)
    assert (await town.credits(), await suspended(town)) == ((0, 0, 0), 12_000)


async def test_p44_a_push_that_also_raises_a_confirmation_is_one_credit(registered: Town) -> None:
    town = registered
    top_up_id, push = await begin(town)
    await decide(town, push, "approve_with_c2b")
    await asyncio.gather(work(town), work(town), town.poll())
    await work(town)
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)
    assert await town.count(TopUp) == 1
    assert await suspended(town) == 0


async def test_p44_in_the_other_order_too(registered: Town) -> None:
    town = registered
    _, push = await begin(town)
    town.mpesa.sender.mode = "off"
    await decide(town, push, "approve")
    town.mpesa.sender.mode = "on"
    town.mpesa.confirm(town.mpesa.money[town.mpesa.pushes[push]["receipt"]])
    await town.mpesa.sender.settle()
    await work(town)
    await call(town, "stk", {"Body": {"stkCallback": {"CheckoutRequestID": push, "ResultCode": 0}}})
    await work(town)
    assert await town.credits() == (1, 1, 1500)
    assert await town.count(TopUp) == 1


async def test_money_typed_by_hand_with_a_failed_pushs_reference_is_money_of_its_own(registered: Town) -> None:
    town = registered
    top_up_id, push = await begin(town)
    await decide(town, push, "cancel")
    await work(town)
    await paybill(town, town.mpesa.pushes[push]["account"], "30")
    await work(town)
    assert await town.credits() == (1, 1, 3000)
    assert await town.status(top_up_id) == "CANCELLED"


@pytest.mark.parametrize(
    "name", ["", "<script>alert(1)</script>", "'; DROP TABLE top_ups; --", "\u202eevil", "2547 ***** 126", None, 5]
)
async def test_p45_strange_names_and_masked_phones_are_kept_and_harmless(registered: Town, name: Any) -> None:
    town = registered
    real = await paybill(town, town.home.serial, "20", mode="lost")
    body = town.mpesa.c2b(town.mpesa.money[real["transaction"]]) | {"FirstName": name, "MSISDN": name, "LastName": name}
    assert (await call(town, "c2b/confirmation", body)).status_code == 200
    await work(town)
    assert await town.credits() == (1, 1, 2000)
    [confirmation] = [row for row in await town.inbox() if row.kind == "c2b"]
    assert json.loads(confirmation.body)["FirstName"] == name


async def test_p46_the_same_amount_within_two_minutes_is_a_wait_not_a_loop(town: Town) -> None:
    _, first = await begin(town)
    await decide(town, first, "approve")
    second_id, second = await begin(town)
    await decide(town, second, "approve")
    await work(town)
    query = "query($i: ID!) { node(id: $i) { ... on TopUp { status failure { code message retryable } } } }"
    seen = (await town.gql(query, i=second_id))["data"]["node"]
    assert (seen["status"], seen["failure"]["code"], seen["failure"]["retryable"]) == ("FAILED", "17", True)
    assert "two minutes" in seen["failure"]["message"]
    headers = {"authorization": f"Bearer {town.home.token}", "accept-language": "sw"}
    asked = {"query": query, "variables": {"i": second_id}}
    answer = await town.http.post(f"{town.api}/graphql", json=asked, headers=headers)
    assert "dakika mbili" in answer.json()["data"]["node"]["failure"]["message"]
    assert len(town.mpesa.pushes) == 2
    assert await town.credits() == (1, 1, 1500)


@pytest.mark.parametrize("works", [True, False])
async def test_a_refund_is_a_reversal_whose_answer_comes_later(town: Town, works: bool) -> None:
    top_up_id, push = await begin(town)
    await decide(town, push, "approve")
    await work(town)
    town.mpesa.money[town.mpesa.pushes[push]["receipt"]]["no_reversal"] = not works
    now = town.settings.clock.now()
    async with town.sessions.begin() as session:
        with pytest.raises(InvalidInputError, match="whole payment"):
            await request_refund(
                session, town.rails, operator="a", payment_id=top_up_id, amount_minor=500, reason="r",
                request_key="part", now=now,
            )  # fmt: skip
        refund_id = await request_refund(
            session, town.rails, operator="a", payment_id=top_up_id, amount_minor=1500, reason="r",
            request_key="whole", now=now,
        )  # fmt: skip
    async with town.sessions.begin() as session:
        await approve_refund(session, operator="b", refund_id=refund_id, now=now)
    assert await town.wallet() == 0
    for _ in range(3):
        await town.hurry(Refund)
        await work_refunds(town.sessions, town.rails, town.settings.clock)
        await work(town)
    async with town.sessions() as session:
        refund = await session.get_one(Refund, refund_id)
    assert refund.status == ("DONE" if works else "FAILED")
    assert await town.wallet() == (0 if works else 1500)
    assert [money["status"] for money in town.mpesa.money.values()] == ["Reversed" if works else "Completed"]
    assert await town.sums() == {"KES": 0}


@pytest.mark.parametrize("amount", ["15.50", "0.01"])
async def test_m_pesa_moves_whole_shillings_only(town: Town, amount: str) -> None:
    payload = await town.start("mpesa", amount)
    assert payload["topUp"] is None
    assert town.mpesa.pushes == {}


async def test_an_expired_token_is_renewed(town: Town) -> None:
    await begin(town)
    town.mpesa.tokens.clear()
    _, push = await begin(town, "16.00")
    await decide(town, push, "approve_silent")
    await town.poll()
    assert await town.wallet() == 1600
    assert await until(lambda: town.count(TopUp)) == 2
