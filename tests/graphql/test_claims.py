"""Claiming a meter: by a code, never by what stands on its front."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from standpipe.billing import supply_terms
from standpipe.engine.limits import Attempt
from standpipe.households.models import Household, Membership
from standpipe.meters.claim_codes import new_code, show_code
from standpipe.meters.claim_models import ClaimCode
from standpipe.meters.models import Meter
from standpipe.utilities.models import OperatorAction, OperatorRole
from tests.support.households import (
    CLAIM,
    REMOVE,
    claim,
    code_for,
    code_of,
    do,
    empty_meter,
    join,
    make_neighbour,
    make_person,
    member_id,
    members,
    my_meters,
    told,
)
from tests.support.operators import operator_token
from tests.support.town import Town

pytestmark = pytest.mark.calendar

ISSUE = (
    "mutation($s: String!, $d: Int) { claimCodeIssue(input: {serial: $s, expiresInDays: $d}) "
    "{ claimCode { id serial code expiresAt } userErrors { code field } } }"
)


async def test_a4_a_code_and_the_serial_together_claim_a_meter_once(town: Town) -> None:
    home, mary, eve = await empty_meter(town), await make_person(town), await make_person(town)
    code = await code_for(town, home.serial)
    payload = await claim(town, mary.token, f" {home.serial.lower()} ", code.lower(), label="  Flat 3 ")
    assert payload["meter"] == {"id": home.meter_id, "serial": home.serial, "label": "Flat 3"}
    assert (payload["joined"], payload["replayed"], payload["userErrors"]) == (False, False, [])
    assert await my_meters(town, mary.token) == {home.meter_id: "OWNER"}
    again = await claim(town, eve.token, home.serial, code)
    assert (again["meter"], code_of(again)) == (None, "INVALID")
    assert await my_meters(town, eve.token) == {}
    async with town.sessions() as session:
        row = (await session.scalars(select(ClaimCode))).one()
        assert row.used_by == mary.customer_id
        assert code.replace("-", "") not in row.code_hash


async def test_a4_a_serial_alone_never_claims_and_every_failure_looks_alike(town: Town) -> None:
    home, other, mary = await empty_meter(town), await empty_meter(town), await make_person(town)
    codes = {name: await code_for(town, home.serial, days=1) for name in ("revoked", "expired", "used")}
    async with town.sessions.begin() as session:
        rows = list(await session.scalars(select(ClaimCode).order_by(ClaimCode.id)))
        rows[0].revoked_at = rows[2].used_at = datetime.now(UTC)
        rows[1].expires_at = datetime.now(UTC) - timedelta(seconds=1)
    never_issued = show_code(new_code())
    tries = [(home.serial, code) for code in [*codes.values(), never_issued, await code_for(town, other.serial)]]
    tries += [("NOBODY-1", never_issued), ("NOBODY-1", await code_for(town, home.serial)), ("", never_issued)]
    answers = [await claim(town, mary.token, serial, code) for serial, code in tries]
    assert answers[0]["userErrors"][0] | {"message": ""} == {
        "__typename": "InputError", "code": "INVALID", "message": "", "field": ["code"], "retryable": False,
    }  # fmt: skip
    assert all(answer == answers[0] for answer in answers)
    assert await my_meters(town, mary.token) == {}


async def test_a_mistyped_code_is_told_as_such_and_costs_no_try(town: Town) -> None:
    home, mary = await empty_meter(town), await make_person(town)
    code = await code_for(town, home.serial)
    mistyped = code[:-3] + ("7" if code[-3] != "7" else "8") + code[-2:]
    for typed in (mistyped, code[:-2], "", "\u0000", "x" * 5_000, code[:-1] + "U"):
        payload = await claim(town, mary.token, home.serial, typed)
        assert (code_of(payload), payload["userErrors"][0]["field"]) == ("INVALID", ["code"])
    assert await town.count(Attempt) == 0
    assert (await claim(town, mary.token, home.serial, code))["meter"] is not None


async def test_g4_aliases_of_one_request_are_as_many_tries(town: Town) -> None:
    home, mary, john = await empty_meter(town), await make_person(town), await make_person(town)
    code = await code_for(town, home.serial)
    parts = " ".join(
        f'a{number}: meterClaim(input: {{idempotencyKey: "g{number}", serial: "{home.serial}", '
        f'code: "{show_code(new_code())}"}}) {{ userErrors {{ code }} }}'
        for number in range(12)
    )
    data = (await town.gql(f"mutation {{ {parts} }}", mary.token))["data"]
    codes = [data[f"a{number}"]["userErrors"][0]["code"] for number in range(12)]
    assert codes == ["INVALID"] * 10 + ["RATE_LIMITED"] * 2
    late = await claim(town, mary.token, home.serial, code)
    assert (late["meter"], code_of(late), late["userErrors"][0]["retryable"]) == (None, "RATE_LIMITED", True)
    # One account's tries keep nobody else out.
    assert (await claim(town, john.token, home.serial, code))["meter"] is not None


async def test_a4_tries_are_limited_for_each_meter_number_there_or_not(town: Town) -> None:
    home, other = await empty_meter(town), await empty_meter(town)
    for serial in (home.serial, "NOBODY-1"):
        people = [await make_person(town) for _ in range(3)]
        seen = []
        for number in range(21):
            payload = await claim(town, people[number % 3].token, serial, show_code(new_code()))
            seen.append(code_of(payload))
        assert seen == ["INVALID"] * 20 + ["RATE_LIMITED"]
    fresh = await make_person(town)
    shut = await claim(town, fresh.token, home.serial, await code_for(town, home.serial))
    assert code_of(shut) == "RATE_LIMITED"
    assert (await claim(town, fresh.token, other.serial, await code_for(town, other.serial)))["meter"] is not None


async def test_a4_the_present_owners_are_told_of_a_new_one_even_if_it_throws_them_out(town: Town) -> None:
    viewer, thief = await join(town, "VIEWER"), await make_person(town)
    payload = await claim(town, thief.token, town.home.serial, await code_for(town, town.home.serial), label="Mine")
    assert (payload["joined"], payload["meter"]["label"]) == (True, "Home")
    assert {one["role"] for one in await members(town, thief.token)} == {"OWNER", "VIEWER"}
    gone = await do(town, REMOVE, thief.token, i=await member_id(town, town.home))
    assert gone["userErrors"] == []
    assert await told(town) == [("ACCESS_CLAIMED", sorted([town.home.customer_id, viewer.customer_id]))]


async def test_a_member_who_claims_is_an_owner_and_an_owner_stays_one(town: Town) -> None:
    viewer = await join(town, "VIEWER")
    for token in (viewer.token, town.home.token):
        payload = await claim(town, token, town.home.serial, await code_for(town, town.home.serial))
        assert payload["joined"] is True
        assert (await my_meters(town, token)) == {town.home.meter_id: "OWNER"}
    assert await told(town) == [("ACCESS_CLAIMED", [town.home.customer_id])]
    assert len(await members(town)) == 2


async def test_one_code_by_many_at_once_claims_once(town: Town) -> None:
    home = await empty_meter(town)
    people = [await make_person(town) for _ in range(5)]
    code = await code_for(town, home.serial)
    answers = await asyncio.gather(*(claim(town, person.token, home.serial, code) for person in people))
    assert sum(answer["meter"] is not None for answer in answers) == 1
    assert await town.count(Membership, Membership.role == "OWNER") == 3  # With the town's home and the former people.


async def test_two_taps_at_once_are_one_claim_and_a_key_belongs_to_one(town: Town) -> None:
    home, other, mary = await empty_meter(town), await empty_meter(town), await make_person(town)
    code = await code_for(town, home.serial)
    answers = await asyncio.gather(*(claim(town, mary.token, home.serial, code, key="same") for _ in range(4)))
    won = [answer for answer in answers if answer["meter"] is not None]
    assert len({answer["meter"]["id"] for answer in won}) == 1
    assert sum(not answer["replayed"] for answer in won) == 1
    again = await claim(town, mary.token, home.serial, code, key="same")
    assert (again["replayed"], again["meter"]["id"]) == (True, home.meter_id)
    mismatch = await claim(town, mary.token, other.serial, await code_for(town, other.serial), key="same")
    assert code_of(mismatch) == "IDEMPOTENCY_MISMATCH"


async def test_each_claimed_meter_is_a_household_with_tenants_of_its_own(town: Town) -> None:
    landlord, flats = await make_person(town), [await empty_meter(town) for _ in range(2)]
    for number, flat in enumerate(flats):
        await claim(town, landlord.token, flat.serial, await code_for(town, flat.serial), label=f"Flat {number}")
    async with town.sessions() as session:
        found = set(
            await session.scalars(select(Meter.household_id).where(Meter.id.in_([flat.meter_id for flat in flats])))
        )
    assert len(found - {None}) == 2
    assert await my_meters(town, landlord.token) == dict.fromkeys((flat.meter_id for flat in flats), "OWNER")
    tenant = await make_person(town)
    async with town.sessions.begin() as session:
        household_id = (await session.get_one(Meter, flats[0].meter_id)).household_id
        session.add(Membership(household_id=household_id, customer_id=tenant.customer_id, role="PAYER"))
    assert await my_meters(town, tenant.token) == {flats[0].meter_id: "PAYER"}
    assert len(await members(town, landlord.token, flats[1].meter_id)) == 1


async def test_g7_who_claims_a_meter_sees_nothing_of_before(town: Town) -> None:
    home, mary = await empty_meter(town), await make_person(town)
    await claim(town, mary.token, home.serial, await code_for(town, home.serial))
    today = town.today()
    query = (
        "query($m: ID!, $from: Date!, $to: Date!) { viewer { meter(id: $m) { label topUps { nodes { id } } "
        "usage(from: $from, to: $to, interval: DAY) { buckets { start } } } } }"
    )
    span = {"from": str(today - timedelta(days=5)), "to": str(today)}
    shown = (await town.gql(query, mary.token, m=home.meter_id, **span))["data"]["viewer"]["meter"]
    assert shown == {"label": home.serial, "topUps": {"nodes": []}, "usage": {"buckets": []}}
    async with town.sessions() as session:
        trace = (await session.scalars(select(OperatorAction).where(OperatorAction.action == "supply.move-in"))).one()
    assert (trace.operator, trace.subject_id) == (mary.customer_id, home.meter_id)


async def test_a4_codes_end_when_the_people_change(town: Town) -> None:
    home, mary = await make_neighbour(town), await make_person(town)
    before = await code_for(town, home.serial)
    today = town.today()
    async with town.sessions.begin() as session:
        await supply_terms.move_out(session, operator="amina", serial=home.serial, day=today, now=town.now())
    assert code_of(await claim(town, mary.token, home.serial, before)) == "INVALID"
    between = await code_for(town, home.serial)
    async with town.sessions.begin() as session:
        household = Household(id="hh_" + "1" * 26, utility_id=town.utility_id, name="Next")
        session.add(household)
        await session.flush()
        await supply_terms.move_in(
            session, operator="amina", serial=home.serial, household_id=household.id, day=today, now=town.now()
        )
    assert code_of(await claim(town, mary.token, home.serial, between)) == "INVALID"
    # A household that the office moved in, and that nobody has claimed yet.
    after = await code_for(town, home.serial)
    payload = await claim(town, mary.token, home.serial, after)
    assert (payload["joined"], payload["meter"]["id"]) == (True, home.meter_id)
    async with town.sessions() as session:
        assert (await session.get_one(Meter, home.meter_id)).household_id == household.id
    assert await told(town) == []


async def test_a_meter_out_of_service_is_not_claimed(town: Town) -> None:
    home, mary = await empty_meter(town), await make_person(town)
    code = await code_for(town, home.serial)
    async with town.sessions.begin() as session:
        await session.execute(update(Meter).where(Meter.id == home.meter_id).values(closed_at=func.now()))
    payload = await claim(town, mary.token, home.serial, code)
    assert (payload["meter"], code_of(payload)) == (None, "METER_BLOCKED")
    async with town.sessions() as session:
        assert (await session.scalars(select(ClaimCode.used_at))).all() == [None]


@pytest.mark.parametrize("label", ["", "   ", "x" * 61, "a\u0000b", "a\nb"])
async def test_a_label_that_is_none_is_refused_and_the_code_still_works(town: Town, label: str) -> None:
    home, mary = await empty_meter(town), await make_person(town)
    code = await code_for(town, home.serial)
    payload = await claim(town, mary.token, home.serial, code, label=label)
    assert (code_of(payload), payload["userErrors"][0]["field"]) == ("INVALID", ["label"])
    assert (await claim(town, mary.token, home.serial, code))["meter"] is not None


async def test_only_operators_issue_codes(town: Town) -> None:
    for token in ("", town.home.token):
        answer = await town.gql(ISSUE, token, s=town.home.serial)
        assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert "data" not in await town.gql(CLAIM, "", k="k", s="s", c="c")
    assert await town.count(ClaimCode) == 0


async def test_operators_issue_codes_as_their_role_allows(town: Town) -> None:
    for role in (OperatorRole.ADMIN, OperatorRole.SUPPORT, OperatorRole.FIELD):
        made = (await town.gql(ISSUE, await operator_token(town, role), s=town.home.serial, d=30))["data"]
        made = made["claimCodeIssue"]
        assert (made["claimCode"]["serial"], made["userErrors"]) == (town.home.serial, [])
        mary = await make_person(town)
        assert (await claim(town, mary.token, town.home.serial, made["claimCode"]["code"]))["meter"] is not None
    refused = await town.gql(ISSUE, await operator_token(town, OperatorRole.FINANCE), s=town.home.serial)
    assert refused["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
    token = await operator_token(town, OperatorRole.FIELD)
    unknown = (await town.gql(ISSUE, token, s="NOBODY"))["data"]["claimCodeIssue"]
    assert (unknown["claimCode"], unknown["userErrors"][0]["code"]) == (None, "NOT_FOUND")
    never = (await town.gql(ISSUE, token, s=town.home.serial, d=0))["data"]["claimCodeIssue"]
    assert never["userErrors"][0] == {"code": "INVALID", "field": ["expiresInDays"]}


async def test_g7_whoever_claims_after_the_last_member_was_forgotten_sees_nothing_of_before(town: Town) -> None:
    await town.pay_by_card()
    await town.poll()
    before = await code_for(town, town.home.serial)
    phone = (await town.gql("{ viewer { phone } }"))["data"]["viewer"]["phone"]
    gone = await town.gql("mutation($c: PhoneNumber!) { accountDelete(input: {confirm: $c}) { deleted } }", c=phone)
    assert gone["data"]["accountDelete"]["deleted"] is True
    bob = await make_person(town)
    # The worker has not heard of it yet: the old code still opens, but nothing of theirs.
    payload = await claim(town, bob.token, town.home.serial, before)
    assert payload["joined"] is False
    seen = await town.gql("{ viewer { meters { nodes { label topUps { nodes { id } } } } } }", bob.token)
    [meter] = seen["data"]["viewer"]["meters"]["nodes"]
    assert meter["topUps"]["nodes"] == []
    assert meter["label"] == town.home.serial
