"""Webhooks through HTTP: what is refused, what is stored, and what one payment told many times comes to."""

import asyncio
import json
import time
from typing import Any

import pytest
from sqlalchemy import text

from standpipe.payments.models import Payment, RailEvent
from standpipe_demo.simulator.fake_stripe import event
from standpipe_demo.simulator.webhooks import sign
from tests.support.town import OLD_STRIPE_SECRET, SANDBOX_SECRET, STRIPE_SECRET, Town

BODY = b'{"id": "evt_1", "object": "event", "livemode": false, "type": "x", "data": {"object": {}}}'


@pytest.mark.parametrize(
    "header",
    [None, "", "garbage", "t=1", "t=,v1=", "t=abc,v1=00", "t=9999999999999999999,v1=00", "v1=00", "t=1,t=2,v1=0"],
)
async def test_p1_bad_signature_headers_are_refused_and_leave_nothing(town: Town, header: str | None) -> None:
    headers = {} if header is None else {"Stripe-Signature": header}
    response = await town.post("stripe", BODY, headers)
    assert response.status_code == 400
    assert await town.count(RailEvent) == 0


async def test_p1_non_ascii_signature_and_non_utf8_body(town: Town) -> None:
    stamp = int(time.time())
    raw = {"Stripe-Signature": f"t={stamp},v1=é".encode("latin-1")}
    response = await town.http.post(f"{town.api}/webhooks/stripe", content=b"\xff\xfe", headers=raw)
    assert response.status_code == 400
    assert await town.count(RailEvent) == 0


async def test_p1_an_empty_secret_verifies_nothing(town: Town) -> None:
    response = await town.post("stripe", BODY, {"Stripe-Signature": sign(BODY, "")})
    assert response.status_code == 400
    assert (await town.post("nobody", BODY, {})).status_code == 404


async def test_p2_one_byte_changed_or_reserialised_is_refused(town: Town) -> None:
    header = {"Stripe-Signature": sign(BODY, STRIPE_SECRET)}
    assert (await town.post("stripe", BODY.replace(b"evt_1", b"evt_2"), header)).status_code == 400
    assert (await town.post("stripe", json.dumps(json.loads(BODY), indent=1).encode(), header)).status_code == 400
    assert (await town.post("stripe", BODY, header)).status_code == 200


@pytest.mark.parametrize("age_s", [301, -301, -3600])
async def test_p3_too_old_or_from_the_future_is_refused(town: Town, age_s: int) -> None:
    assert (await town.tell_raw(BODY, time.time() - age_s)).status_code == 400
    assert (await town.tell_raw(BODY, time.time() - 200)).status_code == 200


async def test_p4_the_previous_secret_and_two_signatures_are_accepted(town: Town) -> None:
    assert (await town.tell(json.loads(BODY), OLD_STRIPE_SECRET)).status_code == 200
    other = BODY.replace(b"evt_1", b"evt_2")
    right = sign(other, STRIPE_SECRET)
    two = f"{right.split(',')[0]},v1={'0' * 64},{right.split(',')[1]}"
    assert (await town.post("stripe", other, {"Stripe-Signature": two})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"null", b"{", b"", b"\xff\xfe", b'"text"', b"1e999", b"[" * 50_000,
        b'{"id": "evt_t", "object": "v2.core.event", "type": "v1.billing.meter.error"}',
        b'{"id": "evt_u", "object": "event", "livemode": false, "type": "never.heard.of", "data": {"object": {}}}',
        b'{"id": "evt_\\u0000", "object": "event", "livemode": false, "type": "x", "data": {"object": {}}}',
        b'{"id": "evt_\\ud800", "object": "event", "livemode": false, "type": "\\u0000", "data": null}',
        b'{"id": "evt_n", "object": "event", "livemode": false, "type": "x", "data": {"object": {"id": "pi_1/../x"}}}',
    ],
)  # fmt: skip
async def test_p5_signed_nonsense_is_stored_and_the_worker_lives(town: Town, body: bytes) -> None:
    assert (await town.tell_raw(body)).status_code == 200
    assert (await town.tell_raw(body)).json()["duplicate"] is True
    [row] = await town.inbox()
    assert row.body == body
    await town.drain()
    top_up_id, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    assert await town.status(top_up_id) == "PAID"


async def test_p6_an_event_of_the_live_mode_is_kept_and_ignored(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    assert (await town.tell(event("payment_intent.succeeded", intent) | {"livemode": True})).status_code == 200
    await town.drain()
    [row] = await town.inbox()
    assert row.outcome is not None
    assert "mode" in row.outcome
    assert await town.credits() == (0, 0, 0)
    assert top_up_id


async def test_p7_ten_megabytes_are_refused_unread(town: Town) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(160):
            sent += 65_536
            yield b"x" * 65_536

    response = await town.http.post(f"{town.api}/webhooks/stripe", content=b"x" * 10_000_000)
    assert response.status_code == 413
    streamed = await town.http.post(f"{town.api}/webhooks/stripe", content=endless())
    assert streamed.status_code == 413
    assert await town.count(RailEvent) == 0


async def test_p8_while_the_database_is_down_no_2xx(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    paid = event("payment_intent.succeeded", intent)
    async with town.sessions.begin() as session:
        # The table out of reach stands for the server out of reach: nothing can be stored.
        await session.execute(text("ALTER TABLE rail_events RENAME TO away"))
    assert (await town.tell(paid)).status_code == 503
    async with town.sessions.begin() as session:
        await session.execute(text("ALTER TABLE away RENAME TO rail_events"))
    assert (await town.tell(paid)).status_code == 200
    await town.drain()
    assert await town.status(top_up_id) == "PAID"


async def test_p11_same_event_a_hundred_times(town: Town) -> None:
    _, intent = await town.pay_by_card()
    paid = event("payment_intent.succeeded", intent)
    answers = await asyncio.gather(*(town.tell(paid) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    await asyncio.gather(*(town.drain() for _ in range(4)))
    assert await town.count(RailEvent) == 1
    assert await town.credits() == (1, 1, 1500)
    assert await town.sums() == {"KES": 0}


async def test_p12_several_kinds_of_event_about_one_payment(town: Town) -> None:
    _, intent = await town.pay_by_card()
    for kind, subject in (
        ("charge.succeeded", intent["latest_charge"]),
        ("payment_intent.succeeded", intent),
        ("payment_intent.processing", intent | {"status": "processing"}),
    ):
        await town.tell(event(kind, subject))
    await town.drain()
    assert await town.credits() == (1, 1, 1500)


async def test_p13_webhook_redirect_poll_and_janitor_at_once(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()

    async def webhook() -> None:
        await town.tell(event("payment_intent.succeeded", intent))
        await town.drain()

    async def redirect() -> None:
        assert (await town.http.get(f"{town.api}/return/{top_up_id}")).status_code == 200

    await asyncio.gather(webhook(), redirect(), town.status(top_up_id), town.poll(), webhook(), redirect())
    assert await town.credits() == (1, 1, 1500)
    assert await town.sums() == {"KES": 0}


async def test_p13_the_redirect_page_alone_settles(town: Town) -> None:
    top_up_id, _ = await town.pay_by_card()
    await town.http.get(f"{town.api}/return/{top_up_id}")
    assert await town.credits() == (1, 1, 1500)


async def test_p14_a_notice_that_overtakes_our_own_commit_is_credited_later(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    paid = event("payment_intent.succeeded", intent)
    async with town.sessions.begin() as session:
        # As the worker sees it before the request that starts the top-up has committed: there is no such row.
        await session.execute(text("UPDATE payments SET rail = 'elsewhere'"))
    await town.tell(paid)
    await town.drain()
    [row] = await town.inbox()
    assert (row.outcome, row.attempts) == (None, 1)
    assert row.due_at is not None
    async with town.sessions.begin() as session:
        await session.execute(text("UPDATE payments SET rail = 'stripe'"))
    await town.hurry(RailEvent)
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_p14_a_webhook_waits_for_an_open_request_and_does_not_deadlock(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    async with town.sessions.begin() as session:
        await session.get(Payment, top_up_id, with_for_update=True)
        await town.tell(event("payment_intent.succeeded", intent))
        # Nothing waits: the notice is worked a moment later.
        await town.drain()
    await town.hurry(RailEvent)
    await town.drain()
    assert await town.credits() == (1, 1, 1500)


async def test_sandbox_webhooks_need_their_own_signature(town: Town) -> None:
    body = b'{"id": "evt_1", "type": "charge.succeeded", "data": {"charge": {"id": "sch_1"}}}'
    assert (await town.post("sandbox", body, {"Sandbox-Signature": sign(body, STRIPE_SECRET)})).status_code == 400
    assert (await town.post("sandbox", body, {"Sandbox-Signature": sign(body, SANDBOX_SECRET)})).status_code == 200
