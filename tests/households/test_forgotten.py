"""Customers who are forgotten (A6): no table holds their number or name any more, and the books still balance."""

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from standpipe.app import make_signer
from standpipe.households import forgetting, sign_in
from standpipe.households.models import (
    Customer,
    CustomerIdentity,
    CustomerSession,
    Household,
    Invite,
    Membership,
    RefreshToken,
    SignInCode,
)
from standpipe.meters.claim_models import ClaimCode
from standpipe.meters.models import Meter
from standpipe.notifications.models import AlertRead, Device, NotificationPreference
from standpipe.outbox.models import OutboxFact
from standpipe.payments.models import RailEvent, RequestKey, TopUp
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.payments.vend_models import AutoTopUp, PaymentCustomer, SavedMethod
from standpipe.platform.ids import new_id
from standpipe_demo.simulator.fake_stripe import event
from tests.support.town import Town

PHONE, NAME = "+254712345678", "Amina Wanjiru"
ASKER = sign_in.Asker(PHONE, None)
DELETE = (
    "mutation($c: PhoneNumber!) { accountDelete(input: {confirm: $c}) { deleted userErrors { code field message } } }"
)
TOP_UPS = (
    "{ viewer { meters { nodes { topUps { nodes { id status pay { amount } credit { amount } "
    "receipt { number } } } } } } }"
)
DONE = {"deleted": True, "userErrors": []}


@pytest.fixture
async def amina(town: Town) -> Town:
    """The town's customer with a number and a name."""
    async with town.sessions.begin() as session:
        await session.execute(update(Customer).values(phone=PHONE, name=NAME, language="sw"))
        await session.execute(update(Household).values(name="Amina Wanjiru's"))
    rail = town.rails["mpesa"]
    assert isinstance(rail, MpesaRail)
    await rail.register_urls()
    return town


async def leave(town: Town, confirm: str = PHONE) -> Any:
    return (await town.gql(DELETE, c=confirm))["data"]["accountDelete"]


async def add_member(town: Town, role: str = "OWNER") -> str:
    """Another member of the household; returns their token."""
    async with town.sessions.begin() as session:
        other = Customer(id=new_id("cus"), phone=f"+25470000{new_id('x')[-4:]}")
        session.add(other)
        await session.flush()
        session.add(Membership(household_id=town.home.household_id, customer_id=other.id, role=role))
    return make_signer(town.settings).issue(other.id)


async def places(town: Town, *needles: str) -> set[str]:
    """Every table and column in which one of these stands, spelled in whatever way: all texts, JSON and bytes."""
    found = set()
    async with town.sessions() as session:
        columns = await session.execute(
            text(
                "SELECT table_name, column_name, data_type FROM information_schema.columns "
                "JOIN information_schema.tables USING (table_schema, table_name) "
                "WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
            )
        )
        for table, column, kind in columns.all():
            # encode(…, 'escape') leaves what can be printed as it is.
            shown = f"encode(\"{column}\", 'escape')" if kind == "bytea" else f'"{column}"::text'
            for needle in needles:
                query = text(f'SELECT count(*) FROM "{table}" WHERE position(lower(:n) in lower({shown})) > 0')  # noqa: S608
                if await session.scalar(query, {"n": needle}):
                    found.add(f"{table}.{column}")
    return found


async def finish_all(town: Town) -> None:
    """All reactions, those that wait included, as if every wait were over."""
    for _ in range(3):
        await town.drain()
        await town.hurry(OutboxFact)
    await town.drain()


async def waiting(town: Town) -> list[str]:
    async with town.sessions() as session:
        return list(await session.scalars(select(OutboxFact.kind).where(OutboxFact.due_at.is_not(None))))


async def mpesa(town: Town, key: str, **more: Any) -> str:
    """A push; returns its id."""
    mutation = (
        "mutation($k: ID!, $m: ID!, $n: PhoneNumber) { topUpStart(input: {idempotencyKey: $k, meterId: $m, "
        'pay: {amount: "15.00", currency: "KES"}, methodId: "mpesa", phone: $n}) { topUp { id } userErrors { code } } }'
    )
    pushes = set(town.mpesa.pushes)
    await town.gql(mutation, k=key, m=town.home.meter_id, **more)
    [push] = set(town.mpesa.pushes) - pushes
    return push


async def decide(town: Town, push: str, action: str) -> None:
    """What the phone's owner does, and what M-Pesa tells of it: its callback, then its answer about the receipt."""
    await town.http.post(f"{town.mpesa_url}/_control/stk/{push}/{action}")
    for _ in range(2):
        await town.mpesa.sender.settle()
        await town.drain()


async def save_card(town: Town) -> str:
    query = (
        'mutation { cardSaveStart(input: {idempotencyKey: "c1"}) '
        "{ nextAction { ... on StripeCardSetup { clientSecret } } } }"
    )
    action = (await town.gql(query))["data"]["cardSaveStart"]["nextAction"]
    setup = action["clientSecret"].split("_secret_")[0]
    await town.http.post(f"{town.stripe_url}/_control/setup_intents/{setup}/succeed", params={"card": "visa"})
    return str((await town.gql("{ viewer { savedCards { id } } }"))["data"]["viewer"]["savedCards"][0]["id"])


async def live_a_life(town: Town) -> None:
    """Everything that an account gathers: money by several ways, a card, a standing order, devices, invites."""
    customer_id, now = town.home.customer_id, datetime.now(UTC)
    _, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    await decide(town, await mpesa(town, "own"), "approve")
    await decide(town, await mpesa(town, "failed", n="+254712345678"), "insufficient")
    params = {"account": town.home.serial, "amount": "20", "phone": PHONE.lstrip("+")}
    await town.http.post(f"{town.mpesa_url}/_control/paybill", params=params)
    for _ in range(3):
        await town.mpesa.sender.settle()
        await town.hurry(RailEvent)
        await town.drain()
    card = await save_card(town)
    order = (
        'mutation($m: ID!, $c: ID!) { autoTopUpSet(input: {idempotencyKey: "o1", meterId: $m, cardId: $c, '
        'thresholdDays: 3, mode: FIXED, amount: {amount: "20.00", currency: "KES"}, '
        'dailyCap: {amount: "50.00", currency: "KES"}}) { userErrors { code } } }'
    )
    assert (await town.gql(order, m=town.home.meter_id, c=card))["data"]["autoTopUpSet"]["userErrors"] == []
    async with town.sessions.begin() as session:
        await sign_in.start(session, ASKER, limits=sign_in.CodeLimits(), secret="s")
        live = CustomerSession(
            id=new_id("ses"), customer_id=customer_id, kind="APP", label=f"{NAME}'s phone",
            expires_at=now + timedelta(days=9),
        )  # fmt: skip
        session.add(live)
        await session.flush()
        session.add_all(
            [
                RefreshToken(token_hash="h", session_id=live.id, expires_at=now + timedelta(days=9)),
                CustomerIdentity(issuer="https://firebase", subject=PHONE, customer_id=customer_id),
                NotificationPreference(customer_id=customer_id, days_left=[3], channels=["PUSH"]),
                Invite(
                    id=new_id("inv"), household_id=town.home.household_id, phone="+254700000001", role="VIEWER",
                    invited_by=customer_id, expires_at=now + timedelta(days=9),
                ),
                Invite(
                    id=new_id("inv"), household_id=town.home.household_id, phone=PHONE, role="VIEWER",
                    expires_at=now + timedelta(days=9),
                ),
                Device(
                    id=new_id("dev"), customer_id=customer_id, installation_id="one", platform="ANDROID",
                    fcm_token="token", language="sw", time_zone="Africa/Nairobi", app_version="1", last_seen_at=now,
                    label=NAME,
                ),
            ]
        )  # fmt: skip
    await town.drain()
    async with town.sessions.begin() as session:
        alert_id = await session.scalar(text("SELECT id FROM alerts LIMIT 1"))
        if alert_id is not None:
            session.add(AlertRead(alert_id=alert_id, customer_id=customer_id, read_at=now))


async def test_a6_after_deletion_no_table_holds_number_or_name_and_the_books_balance(amina: Town) -> None:
    other = await add_member(amina)
    await live_a_life(amina)
    # What the test would not see, it could not miss.
    before = await places(amina, PHONE, PHONE[4:], NAME)
    assert {
        "customers.phone", "customers.name", "top_ups.phone", "rail_events.body", "sign_in_codes.phone",
        "invites.phone", "customer_identities.subject", "customer_sessions.label", "devices.label",
    } <= before  # fmt: skip
    seen, wallet = await amina.gql(TOP_UPS, token=other), await amina.wallet()
    assert len(seen["data"]["viewer"]["meters"]["nodes"][0]["topUps"]["nodes"]) == 4
    async with amina.sessions.begin() as session:
        # The household is also named after her; that name is the household's, which lives on with the other member.
        await session.execute(update(Household).values(name="House 7"))
    assert await leave(amina) == DONE
    await finish_all(amina)
    assert await waiting(amina) == []
    assert await places(amina, PHONE, PHONE[4:], NAME) == set()
    assert await amina.sums() == {"KES": 0}
    assert await amina.wallet() == wallet > 0
    assert await amina.gql(TOP_UPS, token=other) == seen
    for model in (Device, NotificationPreference, AlertRead, Invite, SignInCode, RefreshToken):
        assert await amina.count(model) == 0, model
    for model in (RequestKey, AutoTopUp, PaymentCustomer):
        assert await amina.count(model) == 0, model
    assert await amina.count(CustomerSession, CustomerSession.ended_reason == "DELETED") == 1
    # The pseudonym is what the money hangs on.
    assert await amina.count(TopUp, TopUp.customer_id == amina.home.customer_id) == 3


async def test_a6_cards_are_forgotten_at_the_provider_too_and_it_is_asked_until_it_has(amina: Town) -> None:
    await save_card(amina)
    assert len(amina.stripe.customers) == 1
    amina.stripe.api_key = "the shop's key does not work just now"
    assert await leave(amina) == DONE
    await finish_all(amina)
    assert await waiting(amina) == ["PaymentTracesLeft"]
    async with amina.sessions.begin() as session:
        # A day of tries is not the end of it.
        await session.execute(update(OutboxFact).values(attempts=1_000))
    await finish_all(amina)
    assert await waiting(amina) == ["PaymentTracesLeft"]
    assert len(amina.stripe.customers) == 1
    amina.stripe.api_key = "sk_test_town"
    await finish_all(amina)
    assert await waiting(amina) == []
    assert not amina.stripe.customers
    assert [method["customer"] for method in amina.stripe.methods.values()] == [None]
    async with amina.sessions() as session:
        card = (await session.scalars(select(SavedMethod))).one()
        assert (card.usable, card.brand, card.last4, card.expires) == (False, "", "", None)


async def test_a6_a_payment_under_way_still_reaches_the_meter_and_then_is_forgotten(amina: Town) -> None:
    other = await add_member(amina)
    push = await mpesa(amina, "under way")
    card = (await amina.start())["topUp"]
    assert await leave(amina) == DONE
    await finish_all(amina)
    assert await waiting(amina) == ["PaymentTracesLeft"]
    await decide(amina, push, "approve")
    await amina.control(card["nextAction"]["clientSecret"].split("_secret_")[0], "succeed")
    await amina.poll()
    await finish_all(amina)
    assert await waiting(amina) == []
    assert (await amina.credits())[2] == 3000
    assert await amina.sums() == {"KES": 0}
    shown = (await amina.gql(TOP_UPS, token=other))["data"]["viewer"]["meters"]["nodes"][0]["topUps"]["nodes"]
    assert [one["status"] for one in shown] == ["PAID", "PAID"]
    assert await places(amina, PHONE, PHONE[4:], NAME) == {"households.name"}
    assert await amina.count(SavedMethod, SavedMethod.usable) == 0


async def test_a6_the_same_number_opens_a_new_and_empty_account(amina: Town) -> None:
    await amina.pay_by_card()
    await amina.poll()
    await leave(amina)
    async with amina.sessions.begin() as session:
        code = await sign_in.start(session, ASKER, limits=sign_in.CodeLimits(), secret="s")
    async with amina.sessions.begin() as session:
        again = await sign_in.finish(session, ASKER, code=code, limits=sign_in.CodeLimits(), secret="s")
    assert again is not None
    assert again != amina.home.customer_id
    await finish_all(amina)
    token = make_signer(amina.settings).issue(again)
    seen = (await amina.gql("{ viewer { phone meters { nodes { id } } savedCards { id } } }", token=token))["data"]
    assert seen == {"viewer": {"phone": PHONE, "meters": {"nodes": []}, "savedCards": []}}


async def test_a6_the_last_owner_of_others_must_hand_over_first(amina: Town) -> None:
    await add_member(amina, "PAYER")
    refused = await leave(amina)
    assert refused["deleted"] is False
    assert [error["code"] for error in refused["userErrors"]] == ["FORBIDDEN"]
    assert "last owner" in refused["userErrors"][0]["message"]
    assert "customers.phone" in await places(amina, PHONE)
    assert await amina.count(OutboxFact, OutboxFact.kind == "CustomerForgotten") == 0
    await add_member(amina, "OWNER")
    assert await leave(amina) == DONE


async def test_a6_two_last_owners_who_leave_at_once_do_not_both_go(amina: Town) -> None:
    other = await add_member(amina, "OWNER")
    await add_member(amina, "VIEWER")
    async with amina.sessions() as session:
        phones = {row.id: row.phone for row in await session.scalars(select(Customer))}
    theirs = make_signer(amina.settings).read(other).customer_id
    both = await asyncio.gather(leave(amina), amina.gql(DELETE, token=other, c=phones[theirs]))
    answers = [both[0]["deleted"], both[1]["data"]["accountDelete"]["deleted"]]
    assert sorted(answers) == [False, True]
    assert await amina.count(Membership, Membership.role == "OWNER") == 1


async def test_a6_a_home_left_by_its_last_member_keeps_its_water_and_its_codes_end(amina: Town) -> None:
    await amina.pay_by_card()
    await amina.poll()
    async with amina.sessions.begin() as session:
        session.add(ClaimCode(id=new_id("clc"), meter_id=amina.home.meter_id, code_hash="c", issued_by="printed"))
    assert await leave(amina) == DONE
    await finish_all(amina)
    assert await amina.wallet() == 1500
    assert await places(amina, PHONE, NAME) == set()
    async with amina.sessions() as session:
        meter = await session.get_one(Meter, amina.home.meter_id)
        assert meter.household_id == amina.home.household_id
        assert (await session.scalars(select(ClaimCode.revoked_at))).one() is not None


async def test_a6_a_wrong_confirmation_deletes_nothing(amina: Town) -> None:
    for wrong in ("", "+254712345679", "yes"):
        refused = await leave(amina, wrong)
        assert [error["field"] for error in refused["userErrors"]] == [["confirm"]]
    assert (await leave(amina, "+254 712 345 678")) == DONE


async def test_g7_only_the_customer_deletes_the_account_and_an_old_token_does_nothing_more(amina: Town) -> None:
    unsigned = await amina.gql(DELETE, token="", c=PHONE)
    assert unsigned["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    other = await add_member(amina)
    assert (await amina.gql(DELETE, token=other, c=PHONE))["data"]["accountDelete"]["deleted"] is False
    assert await leave(amina) == DONE
    again = await amina.gql(DELETE, c=PHONE)
    assert again["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    seen = await amina.gql("{ viewer { phone } }")
    assert seen["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    card = await amina.gql('mutation { cardSaveStart(input: {idempotencyKey: "k"}) { userErrors { code } } }')
    assert card["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    device = (
        'mutation { deviceRegister(input: {installationId: "i", platform: IOS, push: {fcmToken: "t"}, appVersion: "1", '
        'language: "en", timeZone: "UTC"}) { device { id } userErrors { code } } }'
    )
    assert (await amina.gql(device))["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert await amina.count(Device) == 0


async def test_a6_forgetting_twice_is_forgetting_once(amina: Town) -> None:
    await live_a_life(amina)
    await leave(amina)
    await finish_all(amina)
    before = await amina.credits()
    async with amina.sessions.begin() as session:
        await forgetting.forget(session, customer_id=amina.home.customer_id, confirm="anything")
        await session.execute(
            update(OutboxFact)
            .where(OutboxFact.kind.in_(["CustomerForgotten", "PaymentTracesLeft"]))
            .values(due_at=func.now())
        )
    await finish_all(amina)
    assert await waiting(amina) == []
    assert await amina.credits() == before
    assert await places(amina, PHONE, NAME) == set()


async def test_a6_a_guests_payment_by_the_same_phone_is_forgotten_too(amina: Town) -> None:
    mutation = (
        "mutation($k: ID!, $n: String!, $f: PhoneNumber!) { guestTopUpStart(input: {idempotencyKey: $k, number: $n, "
        'pay: {amount: "15.00", currency: "KES"}, methodId: "mpesa", phone: $f}) { guestKey topUp { id } } }'
    )
    made = (await amina.gql(mutation, token="", k=str(uuid.uuid4()), n=amina.home.serial, f=PHONE))["data"]
    [push] = amina.mpesa.pushes
    await decide(amina, push, "approve")
    assert "top_ups.phone" in await places(amina, PHONE)
    await leave(amina)
    await finish_all(amina)
    assert await places(amina, PHONE, PHONE[4:], NAME) == set()
    read = "query($i: ID!, $g: String!) { guestTopUp(id: $i, guestKey: $g) { status receipt { number } } }"
    made = made["guestTopUpStart"]
    shown = (await amina.gql(read, token="", i=made["topUp"]["id"], g=made["guestKey"]))["data"]["guestTopUp"]
    assert shown == {"status": "PAID", "receipt": {"number": "000001"}}


async def test_a6_what_is_published_holds_the_number_only_until_it_is_heard(amina: Town) -> None:
    await leave(amina)
    assert await places(amina, PHONE) == {"outbox_facts.payload"}
    await amina.drain()
    assert await places(amina, PHONE) == set()
    async with amina.sessions() as session:
        payloads = await session.scalars(select(OutboxFact.payload).where(OutboxFact.kind == "CustomerForgotten"))
        assert json.dumps(payloads.one()).count(amina.home.customer_id) == 1
