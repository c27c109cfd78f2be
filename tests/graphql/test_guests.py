"""Guests pay by meter number, without an account: one credit each, and not a word about the household."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from sqlalchemy import func, select, update

from standpipe.engine.limits import Attempt
from standpipe.households.models import Household
from standpipe.meters.models import Meter
from standpipe.notifications.models import Alert
from standpipe.payments import guests
from standpipe.payments.arrears import add_arrears
from standpipe.payments.guests import check_guest_key, masked_name
from standpipe.payments.models import Payment, Refund, SuspenseItem, TopUp
from standpipe.payments.receipt_text import method_text
from standpipe.payments.receipts import receipts_of
from standpipe.payments.refunds import approve_refund, request_refund, work_refunds
from standpipe.utilities.models import Utility
from standpipe_demo.simulator.fake_stripe import event
from tests.support.sockets import first_of_subscription
from tests.support.town import Town, make_home

LOOK = (
    "query($n: String!) { guestMeter(number: $n) { meter { number name currency takesMoney methods { id kind "
    "minimum { amount } maximum { amount } phoneRequired } } userErrors { __typename code } } }"
)
SHOWN = (
    "id status statusText terminal pay { amount } fee { amount } givenBack { amount } pollAfterMs failure { code } "
    "nextAction { instructions ... on StripePaymentSheet { clientSecret customerId customerSessionClientSecret } "
    "... on RedirectToUrl { url } ... on StkPush { phoneMasked } } keypadToken { digits display issuedAt } "
    "receipt { number text }"
)
START = (
    "mutation($k: ID!, $n: String!, $p: MoneyInput!, $w: ID!, $f: PhoneNumber, $u: URL) { guestTopUpStart(input: "
    "{idempotencyKey: $k, number: $n, pay: $p, methodId: $w, phone: $f, returnUrl: $u}) "
    f"{{ guestKey replayed topUp {{ {SHOWN} }} userErrors {{ __typename code field message }} }} }}"
)
READ = f"query($i: ID!, $g: String!) {{ guestTopUp(id: $i, guestKey: $g) {{ {SHOWN} }} }}"
MINE = (
    "{ viewer { meters { nodes { topUps { nodes { id gift status credit { amount } "
    "nextAction { instructions } } } } } } }"
)
PHONE = "+254712345678"


async def look(town: Town, number: str | None = None) -> Any:
    return (await town.gql(LOOK, token="", n=town.home.serial if number is None else number))["data"]["guestMeter"]


async def begin(town: Town, method: str = "stripe", amount: str = "15.00", key: str | None = None, **more: Any) -> Any:
    values = {"k": key or str(uuid.uuid4()), "n": more.pop("number", town.home.serial), "w": method}
    values |= {"p": {"amount": amount, "currency": more.pop("currency", "KES")}} | more
    return (await town.gql(START, token="", **values))["data"]["guestTopUpStart"]


async def read(town: Town, made: Any, key: str | None = None) -> Any:
    answer = await town.gql(READ, token="", i=made["topUp"]["id"], g=made["guestKey"] if key is None else key)
    return answer["data"]["guestTopUp"]


async def mine(town: Town, token: str | None = None) -> Any:
    return (await town.gql(MINE, token=token))["data"]["viewer"]["meters"]["nodes"][0]["topUps"]["nodes"]


async def forget_tries(town: Town) -> None:
    async with town.sessions.begin() as session:
        for row in await session.scalars(select(Attempt)):
            await session.delete(row)


async def test_a_guest_sees_a_masked_name_the_currency_and_the_ways_to_pay(town: Town) -> None:
    async with town.sessions.begin() as session:
        await session.execute(update(Household).values(name="Amina Wanjiru Mwangi"))
    # As a payer writes it: other case, spaces, leading zeros (P43).
    found = await look(town, f" 00{town.home.serial.lower()[:3]} {town.home.serial[3:]}")
    assert found["userErrors"] == []
    meter = found["meter"]
    assert (meter["number"], meter["name"]) == (town.home.serial, "A••• M•••")
    assert (meter["currency"], meter["takesMoney"]) == ("KES", True)
    methods = {method["id"]: method for method in meter["methods"]}
    assert {"stripe", "stripe_checkout", "mpesa", "sandbox"} <= set(methods)
    assert methods["mpesa"]["phoneRequired"]
    assert methods["mpesa"]["minimum"]["amount"] == "1.00"


@pytest.mark.parametrize(
    ("name", "label", "shown"),
    [
        ("Amina Mwangi", "Home", "A••• M•••"),
        ("Al Bo", "Home", "A••• B•••"),
        ("amina binti ali mwangi-otieno", "", "A••• M•••"),
        ("Amina", "", "A•••"),
        ("Household 12", "", "H•••"),
        ("", "Kitchen", "K•••"),
        ("  42 ", "7", "•••"),
        ("\u202e<b>x</b>", "", "B•••"),
        ("محمد علي", "", "م••• ع•••"),
    ],
)
def test_g7_a_mask_tells_neither_length_nor_the_words_between(name: str, label: str, shown: str) -> None:
    assert masked_name(name, label) == shown


async def test_g7_a_home_without_people_looks_like_any_other(town: Town) -> None:
    lived_in = await look(town)
    async with town.sessions.begin() as session:
        await session.execute(update(Household).values(name=""))
        await session.execute(update(Meter).values(household_id=None))
    empty = await look(town)
    assert lived_in["meter"]["name"] == "H•••"
    assert empty == lived_in


@pytest.mark.parametrize("number", ["", "S999", "0", "x" * 65, "\u0000", "%", "' OR 1=1 --"])
async def test_g7_an_unknown_number_is_not_found_and_says_no_more(town: Town, number: str) -> None:
    assert await look(town, number) == {
        "meter": None,
        "userErrors": [{"__typename": "InputError", "code": "NOT_FOUND"}],
    }
    made = await begin(town, number=number)
    assert (made["topUp"], made["guestKey"]) == (None, None)
    assert made["userErrors"][0]["code"] == "NOT_FOUND"
    assert await town.count(TopUp) == 0


async def test_g7_a_meter_that_takes_no_money_says_that_and_nothing_of_the_household(town: Town) -> None:
    async with town.sessions.begin() as session:
        await session.execute(update(Household).values(name="Amina Mwangi"))
        await session.execute(update(Meter).values(closed_at=func.now()))
    closed = {"number": town.home.serial, "name": None, "currency": "KES", "takesMoney": False, "methods": []}
    assert await look(town) == {"meter": closed, "userErrors": []}
    assert (await begin(town))["userErrors"][0]["code"] == "METER_BLOCKED"
    assert not town.stripe.intents


async def test_g7_a_disputed_way_is_not_offered_and_not_explained(town: Town) -> None:
    top_up_id, _ = await town.pay_by_card()
    await town.poll()
    async with town.sessions.begin() as session:
        (await session.get_one(Payment, top_up_id)).dispute = "OPEN"
    methods = {method["id"] for method in (await look(town))["meter"]["methods"]}
    assert "sandbox" in methods
    assert not {"stripe", "stripe_checkout"} & methods
    refused = (await begin(town))["userErrors"][0]
    assert (refused["code"], refused["field"]) == ("INVALID", ["methodId"])
    assert "dispute" not in refused["message"]


async def test_a_guests_card_is_credited_once_and_the_household_sees_a_gift(town: Town) -> None:
    made = await begin(town)
    assert made["userErrors"] == []
    action = made["topUp"]["nextAction"]
    # No customer at Stripe, so no cards of anybody's.
    assert action["customerId"] is None
    assert action["customerSessionClientSecret"] is None
    assert not town.stripe.customers
    # Until it is paid, it is nothing of the household's.
    assert await mine(town) == []
    assert (await town.gql("query($i: ID!) { node(id: $i) { id } }", i=made["topUp"]["id"]))["data"]["node"] is None
    intent = await town.control(action["clientSecret"].split("_secret_")[0], "succeed")
    for _ in range(3):
        assert (await town.tell(event("payment_intent.succeeded", intent))).status_code == 200
    await asyncio.gather(*(read(town, made) for _ in range(5)))
    await town.drain()
    assert await town.credits() == (1, 1, 1500)
    assert await town.sums() == {"KES": 0}
    [gift] = await mine(town)
    assert gift == {
        "id": made["topUp"]["id"],
        "gift": True,
        "status": "PAID",
        "credit": {"amount": "15.00"},
        "nextAction": None,
    }
    paid = await read(town, made)
    assert (paid["status"], paid["terminal"], paid["pollAfterMs"], paid["nextAction"]) == ("PAID", True, None, None)
    assert paid["receipt"]["number"] == "000001"
    assert paid["receipt"]["text"].startswith(f"U Receipt 000001. Paid KES15.00. Meter {town.home.serial}. ")
    async with town.sessions() as session:
        row = await session.get_one(TopUp, made["topUp"]["id"])
        assert (row.origin, row.customer_id, row.phone) == ("GUEST", None, None)
        assert (await session.scalars(select(Alert.kind))).all() == []


async def test_a_guest_pays_through_the_sandbox(town: Town) -> None:
    made = await begin(town, "sandbox", u="https://example.org/back")
    assert made["topUp"]["nextAction"]["url"].startswith(town.sandbox_url)
    await town.http.post(f"{town.sandbox_url}/v1/references/{made['topUp']['id']}/lose")
    await town.poll()
    await town.poll()
    assert await town.credits() == (1, 1, 1500)
    assert await town.sums() == {"KES": 0}


async def test_a_guests_mpesa_push_rings_the_payers_phone_and_is_credited_once(town: Town) -> None:
    assert (await begin(town, "mpesa"))["userErrors"][0]["field"] == ["phone"]
    assert not town.mpesa.pushes
    made = await begin(town, "mpesa", f="+254 712 345 678")
    assert made["topUp"]["nextAction"]["phoneMasked"]
    [push] = town.mpesa.pushes
    assert town.mpesa.pushes[push]["phone"] == "254712345678"
    await town.http.post(f"{town.mpesa_url}/_control/stk/{push}/approve_twice")
    await town.mpesa.sender.settle()
    await town.drain()
    assert (await read(town, made))["status"] == "PAID"
    assert await town.credits() == (1, 1, 1500)
    # The callback's receipt is a hint; M-Pesa is asked about it, and answers later.
    await town.mpesa.sender.settle()
    await town.drain()
    assert await town.credits() == (1, 1, 1500)
    # The number on the payer's own receipt is the payer's: the household's page says "M-Pesa" and no more.
    async with town.sessions() as session:
        [receipt] = (await receipts_of(session, [made["topUp"]["id"]]))[made["topUp"]["id"]]
    assert method_text(receipt, "en") == "M-Pesa"
    async with town.sessions() as session:
        assert (await session.get_one(Payment, made["topUp"]["id"])).receipt_ref == town.mpesa.pushes[push]["receipt"]


async def test_a_phone_that_is_not_to_ring_is_not_kept(town: Town) -> None:
    made = await begin(town, f=PHONE)
    async with town.sessions() as session:
        assert (await session.get_one(TopUp, made["topUp"]["id"])).phone is None


async def test_the_same_key_and_input_is_the_same_top_up_and_other_input_is_not(town: Town) -> None:
    key = str(uuid.uuid4())
    all_of_them = await asyncio.gather(*(begin(town, key=key) for _ in range(8)))
    assert len({made["topUp"]["id"] for made in all_of_them}) == 1
    assert sorted(made["replayed"] for made in all_of_them) == [False] + [True] * 7
    assert len({made["guestKey"] for made in all_of_them}) == 1
    assert len(town.stripe.intents) == 1
    other = await begin(town, key=key, amount="16.00")
    assert (other["topUp"], other["guestKey"]) == (None, None)
    assert other["userErrors"][0]["code"] == "IDEMPOTENCY_MISMATCH"
    # A customer's key is another key, though it be spelled alike.
    assert (await town.start(key=key))["userErrors"] == []


@pytest.mark.parametrize(
    "key", ["", "1", "same", "a" * 36, "0123456789abcdef", "key with spaces in it at all", "é" * 30]
)
async def test_a_key_that_could_be_guessed_is_refused(town: Town, key: str) -> None:
    made = await begin(town, key=key or " ")
    assert made["userErrors"][0]["field"] == ["idempotencyKey"]
    assert await town.count(TopUp) == 0


@pytest.mark.parametrize(
    "key",
    [str(uuid.UUID(int=2**127 + 0x123456789ABCDEF)), "Zk3_x-9QwErTyUiOpAsDf1", "34d2f660a91a4877a186a8aaa98cd7a7"],
)
def test_a_random_key_is_taken(key: str) -> None:
    check_guest_key(key)


async def test_g7_a_wrong_key_is_exactly_like_an_absent_id(town: Town) -> None:
    made, other = await begin(town), await begin(town)
    absent = await town.gql(READ, token="", i=town.home.meter_id.replace("mtr", "top"), g=made["guestKey"])
    assert absent == {"data": {"guestTopUp": None}}
    customers = (await town.start())["topUp"]["id"]
    for top_up_id, key in (
        (made["topUp"]["id"], other["guestKey"]),
        (made["topUp"]["id"], ""),
        (made["topUp"]["id"], "é\u0000"),
        (customers, guests.guest_key(town.settings.token_secret.get_secret_value(), customers)),  # type: ignore[union-attr]
        ("top_x", made["guestKey"]),
        (town.home.meter_id, guests.guest_key("t" * 40, town.home.meter_id)),
    ):
        assert await town.gql(READ, token="", i=top_up_id, g=key) == absent
    # The key is what opens it, signed in or not.
    assert (await town.gql(READ, i=made["topUp"]["id"], g=made["guestKey"]))["data"]["guestTopUp"]["status"]


async def test_g7_what_the_household_owes_does_not_show(town: Town) -> None:
    """Two meters, one deep in debt: to a guest both payments look alike, word by word."""
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).values(debt_share_percent=100))
        await add_arrears(
            session, operator="ann", meter_id=town.home.meter_id, amount_minor=100_000, reference="bill",
            now=town.settings.clock.now(),
        )  # fmt: skip
    other = await make_home(
        town.sessions, town.settings, town.utility_id, town.tariff_id,
        installed_at=town.settings.clock.now(), zone="Africa/Nairobi",
    )  # fmt: skip
    shown = []
    for serial in (town.home.serial, other.serial):
        made = await begin(town, number=serial)
        await town.control(made["topUp"]["nextAction"]["clientSecret"].split("_secret_")[0], "succeed")
        await town.poll()
        await town.drain()
        paid = await read(town, made)
        for own in (made["topUp"]["id"], serial, paid["receipt"]["number"]):
            paid = json.loads(json.dumps(paid).replace(own, "…"))
        shown.append(paid)
    assert (await town.wallet(town.home.meter_id), await town.wallet(other.meter_id)) == (0, 1500)
    assert shown[0] == shown[1]


async def test_g4_aliases_of_a_look_and_of_a_start_count_one_by_one(town: Town) -> None:
    codes = []
    for asked in range(0, 40, 10):
        looks = [f'a{n}: guestMeter(number: "S{asked + n}") {{ userErrors {{ code }} }}' for n in range(10)]
        answer = (await town.gql(f"{{ {' '.join(looks)} }}", token=""))["data"]
        codes += [answer[f"a{n}"]["userErrors"][0]["code"] for n in range(10)]
    assert sorted(codes) == ["NOT_FOUND"] * 30 + ["RATE_LIMITED"] * 10
    assert (await look(town))["userErrors"] == [{"__typename": "RateLimited", "code": "RATE_LIMITED"}]
    await forget_tries(town)
    starts = " ".join(
        f'a{n}: guestTopUpStart(input: {{idempotencyKey: "{uuid.uuid4()}", number: "{town.home.serial}", '
        f'pay: {{amount: "15.00", currency: "KES"}}, methodId: "mpesa", phone: "{PHONE}"}}) {{ userErrors {{ code }} }}'
        for n in range(6)
    )
    answer = (await town.gql(f"mutation {{ {starts} }}", token=""))["data"]
    codes = [error["code"] for n in range(6) for error in answer[f"a{n}"]["userErrors"]]
    assert codes == ["RATE_LIMITED"] * 3
    assert len(town.mpesa.pushes) == 3


async def test_g4_starts_are_counted_per_meter_and_per_address(town: Town) -> None:
    codes = [[error["code"] for error in (await begin(town, "sandbox"))["userErrors"]] for _ in range(17)]
    assert codes == [[]] * 10 + [["RATE_LIMITED"]] * 7
    # Sixteen and seventeen fell to the address: another meter is no way round it.
    other = await make_home(
        town.sessions, town.settings, town.utility_id, town.tariff_id,
        installed_at=town.settings.clock.now(), zone="Africa/Nairobi",
    )  # fmt: skip
    assert (await begin(town, "sandbox", number=other.serial))["userErrors"][0]["code"] == "RATE_LIMITED"
    async with town.sessions() as session:
        keys = (await session.scalars(select(Attempt.key))).all()
    assert not any("127.0.0.1" in key for key in keys)


async def test_g4_an_ipv6_network_is_one_address() -> None:
    key = guests._address_key
    assert key("2001:db8::1", "s") == key("2001:db8::ffff:2", "s") != key("2001:db8:0:1::1", "s")
    assert key("::ffff:192.0.2.1", "s") == key("192.0.2.1", "s") != key("192.0.2.2", "s")
    assert key(None, "s") != key("192.0.2.1", "s")


async def test_a_guests_failed_try_tells_the_household_nothing(town: Town) -> None:
    made = await begin(town, "mpesa", f=PHONE)
    [push] = town.mpesa.pushes
    await town.http.post(f"{town.mpesa_url}/_control/stk/{push}/insufficient")
    await town.mpesa.sender.settle()
    await town.drain()
    failed = await read(town, made)
    assert (failed["status"], failed["terminal"], failed["failure"]["code"]) == ("FAILED", True, "1")
    assert await mine(town) == []
    assert await town.count(Alert) == 0
    # And it is credited where it succeeds after all (P16).
    await town.http.post(f"{town.mpesa_url}/_control/stk/{push}/approve")
    await town.mpesa.sender.settle()
    await town.drain()
    assert [one["status"] for one in await mine(town)] == ["PAID"]
    assert await town.credits() == (1, 1, 1500)


async def test_g7_the_household_can_neither_watch_nor_stop_a_guests_payment(town: Town) -> None:
    made = await begin(town)
    cancel = "mutation($i: ID!) { topUpCancel(input: {topUpId: $i}) { topUp { id } userErrors { code } } }"
    stopped = (await town.gql(cancel, i=made["topUp"]["id"]))["data"]["topUpCancel"]
    assert stopped["userErrors"] == [{"code": "NOT_FOUND"}]
    query = "subscription($i: ID!) { topUpUpdated(topUpId: $i) { id status } }"
    instrumented = await first_of_subscription(town, town.home.token, query, made["topUp"]["id"])
    assert "NOT_FOUND" in json.dumps(instrumented)


async def test_a_guests_money_goes_back_to_the_payer_by_refund(town: Town) -> None:
    made = await begin(town)
    intent_id = made["topUp"]["nextAction"]["clientSecret"].split("_secret_")[0]
    await town.control(intent_id, "succeed")
    await town.poll()
    now = town.settings.clock.now()
    async with town.sessions.begin() as session:
        refund_id = await request_refund(
            session, town.rails, operator="ann", payment_id=made["topUp"]["id"], amount_minor=1500,
            reason="wrong meter", request_key="r1", now=now,
        )  # fmt: skip
    async with town.sessions.begin() as session:
        await approve_refund(session, operator="ben", refund_id=refund_id, now=now)
    await town.hurry(Refund)
    await work_refunds(town.sessions, town.rails, town.settings.clock)
    await town.poll()
    back = await read(town, made)
    assert (back["status"], back["givenBack"]) == ("REFUNDED", {"amount": "15.00"})
    assert await town.wallet() == 0
    assert await town.sums() == {"KES": 0}


async def test_a_guests_money_in_another_currency_waits_in_suspense(town: Town) -> None:
    made = await begin(town)
    [intent] = town.stripe.intents.values()
    intent["currency"] = "usd"
    await town.control(intent["id"], "succeed")
    await town.poll()
    await town.drain()
    assert await town.credits() == (0, 0, 0)
    async with town.sessions() as session:
        item = (await session.scalars(select(SuspenseItem))).one()
        assert item.payment_id == made["topUp"]["id"]
    assert await mine(town) == []
    assert (await read(town, made))["status"] == "PAID"


async def test_g7_guests_of_another_currency_or_amount_are_refused_before_the_provider(town: Town) -> None:
    assert (await begin(town, currency="USD"))["userErrors"][0]["field"] == ["pay", "currency"]
    assert (await begin(town, amount="0.01"))["userErrors"][0]["code"] == "AMOUNT_OUT_OF_RANGE"
    assert (await begin(town, "cash"))["userErrors"][0]["field"] == ["methodId"]
    assert (await begin(town, u="javascript:alert(1)"))["userErrors"][0]["field"] == ["returnUrl"]
    assert await town.count(TopUp) == 0
