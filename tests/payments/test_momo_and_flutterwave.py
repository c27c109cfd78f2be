"""MTN MoMo and Flutterwave through HTTP: callbacks that prove nothing, and a question that decides."""

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import text

from standpipe.payments.models import RailEvent, Refund, TopUp
from standpipe.payments.rails.momo import payment_id
from standpipe.payments.rails.port import RefundRequest, RefundStatus
from standpipe.payments.refunds import approve_refund, request_refund, work_refunds
from tests.support.town import FLUTTERWAVE_HASH, MOMO_SECRET, Town


async def momo(town: Town, amount: str = "15.00") -> str:
    payload = await town.start("momo", amount)
    assert payload["userErrors"] == []
    return str(payload["topUp"]["id"])


async def flutterwave(town: Town, amount: str = "15.00") -> str:
    payload = await town.start("flutterwave", amount)
    assert payload["topUp"]["nextAction"]["url"].startswith(town.flutterwave_url)
    return str(payload["topUp"]["id"])


async def act(town: Town, rail: str, top_up_id: str, action: str, **params: str) -> dict[str, Any]:
    base, state = (town.momo_url, town.momo) if rail == "momo" else (town.flutterwave_url, town.flutterwave)
    answer = await town.http.post(f"{base}/_control/{rail}/{top_up_id}/{action}", params=params)
    assert answer.status_code == 200, answer.text
    await state.sender.settle()
    await town.drain()
    shown: dict[str, Any] = answer.json()
    return shown


@pytest.fixture(autouse=True)
async def phone(town: Town) -> None:
    async with town.sessions.begin() as session:
        await session.execute(text("UPDATE customers SET phone = '+254711222333'"))


@pytest.mark.parametrize(("rail", "approve"), [("momo", "approve"), ("flutterwave", "pay")])
async def test_a_payment_is_credited_once_however_often_it_is_told(town: Town, rail: str, approve: str) -> None:
    top_up_id = await (momo if rail == "momo" else flutterwave)(town)
    state = town.momo if rail == "momo" else town.flutterwave
    state.sender.mode = "double"
    await act(town, rail, top_up_id, approve)
    await asyncio.gather(town.poll(), town.drain(), town.status(top_up_id))
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)
    assert await town.sums() == {"KES": 0}


@pytest.mark.parametrize(("rail", "silent"), [("momo", "approve_silent"), ("flutterwave", "pay_silent")])
async def test_p50_a_lost_webhook_is_found_by_asking(town: Town, rail: str, silent: str) -> None:
    top_up_id = await (momo if rail == "momo" else flutterwave)(town)
    await act(town, rail, top_up_id, silent)
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


@pytest.mark.parametrize(
    ("rail", "refusal", "status", "approve"),
    [("momo", "reject", "CANCELLED", "approve"), ("momo", "expire", "EXPIRED", "approve"),
     ("momo", "insufficient", "FAILED", "approve"), ("momo", "stumble", "AWAITING_CUSTOMER", "approve"),
     ("flutterwave", "fail", "FAILED", "pay")],
)  # fmt: skip
async def test_p16_refused_and_then_paid_is_credited(
    town: Town, rail: str, refusal: str, status: str, approve: str
) -> None:
    top_up_id = await (momo if rail == "momo" else flutterwave)(town)
    await act(town, rail, top_up_id, refusal)
    assert await town.status(top_up_id) == status
    await act(town, rail, top_up_id, approve)
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_p29_a_lost_answer_to_a_create_is_one_payment(town: Town) -> None:
    town.momo.withhold = 1
    top_up_id = await momo(town)
    await town.poll()
    assert await town.status(top_up_id) == "AWAITING_CUSTOMER"
    assert list(town.momo.payments) == [payment_id(top_up_id)]
    town.flutterwave.withhold = 1
    payload = await town.start("flutterwave", "16.00")
    assert payload["topUp"]["status"] == "CREATED"
    await town.poll()
    query = "query($i: ID!) { node(id: $i) { ... on TopUp { nextAction { ... on RedirectToUrl { url } } } } }"
    shown = (await town.gql(query, i=payload["topUp"]["id"]))["data"]["node"]
    assert shown["nextAction"]["url"].startswith(town.flutterwave_url)


async def test_p9_a_static_token_with_a_forged_amount_moves_what_the_api_says(town: Town) -> None:
    good, forged = await flutterwave(town), await flutterwave(town, "16.00")
    await act(town, "flutterwave", good, "pay_part", amount="9")
    headers = {"verif-hash": FLUTTERWAVE_HASH}
    for reference in (good, forged):
        data = {"id": 1, "tx_ref": reference, "amount": 99_999, "status": "successful", "currency": "KES"}
        body = json.dumps({"event": "charge.completed", "data": data}).encode()
        assert (await town.post("flutterwave", body, headers)).status_code == 200
    await town.drain()
    assert await town.wallet() == 900
    assert await town.status(forged) == "AWAITING_CUSTOMER"


async def test_p9_a_batch_is_no_notice(town: Town) -> None:
    top_up_id = await flutterwave(town)
    await act(town, "flutterwave", top_up_id, "pay_silent")
    item = {"event": "charge.completed", "data": {"id": 1, "tx_ref": top_up_id}}
    body = json.dumps([item, item | {"forged": True}]).encode()
    assert (await town.post("flutterwave", body, {"verif-hash": FLUTTERWAVE_HASH})).status_code == 200
    [row] = await town.inbox()
    assert row.outcome is not None
    assert row.outcome.startswith("ignored")


@pytest.mark.parametrize("token", [None, "", "wrong", "ü"])
async def test_p1_tokens_that_are_not_ours_are_refused(town: Town, token: str | None) -> None:
    headers = {} if token is None else {b"verif-hash": token.encode("latin-1")}
    response = await town.http.post(f"{town.api}/webhooks/flutterwave", content=b"{}", headers=headers)
    assert response.status_code == 400
    assert (await town.http.post(f"{town.api}/webhooks/momo/{token or 'x'}", content=b"{}")).status_code == 400
    assert (await town.http.put(f"{town.api}/webhooks/momo", content=b"{}")).status_code == 400
    assert await town.count(RailEvent) == 0


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"\xff", b"[" * 9000, b'{"data": 5}', b'{"externalId": "\\u0000"}']
)
async def test_p5_nonsense_is_stored_and_harmless(town: Town, body: bytes) -> None:
    assert (await town.post("flutterwave", body, {"verif-hash": FLUTTERWAVE_HASH})).status_code == 200
    assert (await town.http.put(f"{town.api}/webhooks/momo/{MOMO_SECRET}", content=body)).status_code == 200
    await town.drain()
    assert await town.count(RailEvent) == 2


async def test_p31_two_attempts_paid_under_one_reference_are_both_credited(town: Town) -> None:
    top_up_id = await flutterwave(town)
    await act(town, "flutterwave", top_up_id, "pay")
    await act(town, "flutterwave", top_up_id, "pay_again")
    assert await town.wallet() == 3000
    assert await town.sums() == {"KES": 0}
    assert await town.count(TopUp) == 1


@pytest.mark.parametrize("rail", ["momo", "flutterwave"])
async def test_refunds_are_one_per_key_and_told_apart(town: Town, rail: str) -> None:
    top_up_id = await (momo if rail == "momo" else flutterwave)(town)
    await act(town, rail, top_up_id, "approve" if rail == "momo" else "pay")
    adapter = town.rails[rail]
    ref = payment_id(top_up_id) if rail == "momo" else top_up_id
    request = RefundRequest("ref_" + "0" * 26, ref, None, 500, "KES", "r")
    first = await adapter.refund(request)
    again = await adapter.refund(request)
    assert (first.rail_ref, first.status) == (again.rail_ref, RefundStatus.PENDING)
    base = town.momo_url if rail == "momo" else town.flutterwave_url
    done = "succeed" if rail == "momo" else "completed"
    await town.http.post(f"{base}/_control/refunds/{first.rail_ref}/{done}")
    truth = await adapter.fetch_refund(first.rail_ref, rail_ref=ref)
    assert (truth.status, truth.amount_minor) == (RefundStatus.SUCCEEDED, 500)


async def test_a_hosted_page_pays_in_a_browser(town: Town) -> None:
    top_up_id = await flutterwave(town)
    page = await town.http.get(f"{town.flutterwave_url}/pay/{top_up_id}")
    assert "KES 15.00" in page.text
    html = {"accept": "text/html"}
    back = await town.http.post(f"{town.flutterwave_url}/_control/flutterwave/{top_up_id}/pay_silent", headers=html)
    assert back.headers["location"] == f"{town.api}/return/{top_up_id}"
    await town.http.get(back.headers["location"])
    assert await town.credits() == (1, 1, 1500)


async def test_p36_a_refund_that_comes_back_after_it_had_succeeded_is_restored(town: Town) -> None:
    top_up_id = await flutterwave(town)
    await act(town, "flutterwave", top_up_id, "pay")
    now = town.settings.clock.now()
    async with town.sessions.begin() as session:
        refund_id = await request_refund(
            session, town.rails, operator="a", payment_id=top_up_id, amount_minor=500, reason="r",
            request_key="k", now=now,
        )  # fmt: skip
    async with town.sessions.begin() as session:
        await approve_refund(session, operator="b", refund_id=refund_id, now=now)
    for status, wallet in (("completed", 1000), ("failed", 1500)):
        await town.hurry(Refund)
        await work_refunds(town.sessions, town.rails, town.settings.clock)
        [refund] = town.flutterwave.refunds
        url = f"{town.flutterwave_url}/_control/refunds/{refund['id']}/{status}"
        assert (await town.http.post(url)).status_code == 200
        await town.flutterwave.sender.settle()
        await town.drain()
        assert await town.wallet() == wallet
    async with town.sessions() as session:
        assert (await session.get_one(Refund, refund_id)).status == "FAILED"
    assert await town.sums() == {"KES": 0}
