"""Sharing a household: invitations, roles, leaving. Only owners share, and one of them always stays."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from standpipe.households.models import Invite, Membership
from standpipe.meters.sharing import MAX_PEOPLE
from standpipe.platform.ids import new_id
from standpipe.platform.serving import serve
from standpipe_demo.simulator import fake_phone
from tests.support.database import free_port
from tests.support.households import (
    ANSWER,
    INVITATIONS,
    INVITE,
    MOVE_OUT,
    REMOVE,
    RENAME,
    SET_ROLE,
    Person,
    claim,
    code_for,
    code_of,
    do,
    invite,
    join,
    make_neighbour,
    make_person,
    member_id,
    members,
    my_meters,
    told,
)
from tests.support.sockets import opened, subscribe
from tests.support.town import Home, Town, make_town, until

pytestmark = pytest.mark.calendar


async def invitations(town: Town, token: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await town.gql(INVITATIONS, token))["data"]["viewer"]["invitations"]
    return found


async def answer(town: Town, token: str, invitation_id: str, *, accept: bool = True) -> dict[str, Any]:
    return await do(town, ANSWER, token, i=invitation_id, a=accept)


@pytest.fixture
async def texting(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Town, fake_phone.PhoneState]]:
    """A town that sends texts, and the phone that gets them."""
    port = free_port()
    fake_phone.write_service_account(tmp_path / "firebase.json", f"http://127.0.0.1:{port}/token")
    app = fake_phone.make_app(tmp_path / "firebase.json")
    task = asyncio.create_task(serve(app, "127.0.0.1", port))
    async with make_town(database_url, tmp_path, sms_url=f"http://127.0.0.1:{port}/sms") as town:
        yield town, app.state.phone
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a5_whoever_is_invited_is_told_by_text_and_joins_with_that_number(
    texting: tuple[Town, fake_phone.PhoneState],
) -> None:
    town, phone = texting
    guest, other = await make_person(town), await make_person(town)

    async def reachable() -> bool:
        return (await town.http.get(f"{str(town.settings.sms_url).rpartition('/')[0]}/")).status_code < 500

    await until(reachable)
    first = await invite(town, guest.phone, "PAYER", key="k1")
    assert first["member"] | {"id": ""} == {
        "id": "", "name": guest.phone, "phone": guest.phone, "role": "PAYER", "accepted": False,
    }  # fmt: skip
    again = await invite(town, guest.phone, "PAYER", key="k1")
    assert (again["replayed"], again["member"]) == (True, first["member"])
    texts = [message for message in phone.messages if message.get("to") == guest.phone]
    assert len(texts) == 1
    assert "Home" not in json.dumps(texts)
    assert await invitations(town, other.token) == []
    [waiting] = await invitations(town, guest.token)
    assert (waiting["role"], waiting["labels"]) == ("PAYER", ["Home"])
    assert await my_meters(town, guest.token) == {}
    taken = await answer(town, guest.token, waiting["id"])
    assert taken == {"meters": [{"id": town.home.meter_id}], "userErrors": []}
    assert await answer(town, guest.token, waiting["id"]) == taken
    assert await my_meters(town, guest.token) == {town.home.meter_id: "PAYER"}
    assert await invitations(town, guest.token) == []
    assert [one["accepted"] for one in await members(town)] == [True, True]
    # A payer more is no news for everybody; an owner more is.
    assert await told(town) == []


async def test_a5_where_no_texts_are_set_up_the_invitation_waits_all_the_same(town: Town) -> None:
    guest = await make_person(town, name="Grace")
    made = await invite(town, guest.phone, "OWNER")
    # The number's owner may be anybody's customer: their name is not told before they accept.
    assert made["member"]["name"] == guest.phone
    await answer(town, guest.token, made["member"]["id"])
    assert await told(town) == [("ACCESS_OWNER", [town.home.customer_id])]
    assert {one["name"] for one in await members(town)} >= {"Grace"}


async def test_a5_declined_withdrawn_and_expired_invitations_lead_nowhere(town: Town) -> None:
    guest = await make_person(town)
    declined = (await invite(town, guest.phone))["member"]["id"]
    assert await answer(town, guest.token, declined, accept=False) == {"meters": [], "userErrors": []}
    assert await answer(town, guest.token, declined, accept=False) == {"meters": [], "userErrors": []}
    assert code_of(await answer(town, guest.token, declined)) == "NOT_FOUND"
    withdrawn = (await invite(town, guest.phone))["member"]["id"]
    assert withdrawn != declined
    assert (await do(town, REMOVE, i=withdrawn))["member"]["id"] == withdrawn
    assert code_of(await answer(town, guest.token, withdrawn)) == "NOT_FOUND"
    expired = (await invite(town, guest.phone))["member"]["id"]
    async with town.sessions.begin() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await session.execute(update(Invite).where(Invite.id == expired).values(expires_at=past))
    assert code_of(await answer(town, guest.token, expired)) == "NOT_FOUND"
    assert await invitations(town, guest.token) == []
    assert len(await members(town)) == 1
    assert await my_meters(town, guest.token) == {}


async def test_inviting_again_renews_and_a_member_is_not_invited(town: Town) -> None:
    guest = await make_person(town)
    first = await invite(town, guest.phone, "VIEWER")
    second = await invite(town, guest.phone, "PAYER")
    assert second["member"]["id"] == first["member"]["id"]
    assert [one["role"] for one in await invitations(town, guest.token)] == ["PAYER"]
    await answer(town, guest.token, second["member"]["id"])
    again = await invite(town, guest.phone, "OWNER")
    assert (code_of(again), again["userErrors"][0]["field"]) == ("INVALID", ["phone"])
    for typed in ("", "0712", "nonsense", "\u0000", "+" + "9" * 4_000):
        assert code_of(await invite(town, typed)) == "INVALID"


async def test_g4_invitations_are_limited_for_each_account_and_number(town: Town) -> None:
    parts = " ".join(
        f'a{number}: memberInvite(input: {{idempotencyKey: "i{number}", meterId: "{town.home.meter_id}", '
        f'phone: "+2547110000{number:02}", role: VIEWER}}) {{ userErrors {{ code }} }}'
        for number in range(12)
    )
    data = (await town.gql(f"mutation {{ {parts} }}"))["data"]
    errors = [data[f"a{number}"]["userErrors"] for number in range(12)]
    assert [[error["code"] for error in one] for one in errors] == [[]] * 10 + [["RATE_LIMITED"]] * 2
    neighbours = [await make_neighbour(town) for _ in range(4)]
    payloads = [await invite(town, "+254712345678", token=one.token, meter_id=one.meter_id) for one in neighbours]
    assert [code_of(payload) for payload in payloads] == [None] * 3 + ["RATE_LIMITED"]


async def test_a_household_has_room_for_so_many(town: Town) -> None:
    guest = await make_person(town)
    async with town.sessions.begin() as session:
        session.add_all(
            Invite(
                id=new_id("inv"),
                household_id=town.home.household_id,
                phone=f"+25479{number:07}",
                role="VIEWER",
                expires_at=datetime.now(UTC) + timedelta(days=1),
            )
            for number in range(MAX_PEOPLE - 1)
        )
    assert code_of(await invite(town, guest.phone)) == "INVALID"


@pytest.mark.parametrize("role", ["PAYER", "VIEWER"])
async def test_a5_only_an_owner_invites_removes_and_changes_roles(town: Town, role: str) -> None:
    member, other, guest = await join(town, role), await join(town, "VIEWER"), await make_person(town)
    waiting = (await invite(town, guest.phone))["member"]["id"]
    owner_id, other_id, own_id = [await member_id(town, one) for one in (town.home, other, member)]
    refused = [await invite(town, "+254712345678", token=member.token)]
    refused += [await do(town, REMOVE, member.token, i=one) for one in (owner_id, other_id, waiting)]
    refused += [
        await do(town, SET_ROLE, member.token, i=one, r="OWNER") for one in (owner_id, other_id, own_id, waiting)
    ]
    refused.append(await do(town, RENAME, member.token, m=town.home.meter_id, l="Mine"))
    day = str(town.today() - timedelta(days=1))
    refused.append(await do(town, MOVE_OUT, member.token, k="k", m=town.home.meter_id, d=day))
    assert [code_of(payload) for payload in refused] == ["FORBIDDEN"] * len(refused)
    assert sorted(one["role"] for one in await members(town)) == sorted(["OWNER", role, "VIEWER", "VIEWER"])
    # But anybody may leave.
    assert (await do(town, REMOVE, member.token, i=own_id))["member"] == {"id": own_id, "role": role}
    assert await my_meters(town, member.token) == {}


async def test_a5_the_last_owner_neither_leaves_nor_is_made_less(town: Town) -> None:
    payer = await join(town, "PAYER")
    own_id, payer_id = await member_id(town, town.home), await member_id(town, payer)
    for payload in (
        await do(town, REMOVE, i=own_id),
        await do(town, SET_ROLE, i=own_id, r="PAYER"),
    ):
        assert (code_of(payload), payload["member"]) == ("FORBIDDEN", None)
        assert "keeps an owner" in payload["userErrors"][0]["message"]
    promoted = await do(town, SET_ROLE, i=payer_id, r="OWNER")
    assert promoted["member"] == {"id": payer_id, "role": "OWNER"}
    assert (await do(town, SET_ROLE, i=own_id, r="VIEWER"))["member"]["role"] == "VIEWER"
    assert code_of(await do(town, REMOVE, payer.token, i=payer_id)) == "FORBIDDEN"
    assert (await do(town, REMOVE, i=own_id))["userErrors"] == []
    assert await my_meters(town, town.home.token) == {}


async def test_a5_two_owners_who_leave_at_once_are_not_both_gone(town: Town) -> None:
    for way in (REMOVE, SET_ROLE) * 3:
        home = await make_neighbour(town)
        second = await join(town, "OWNER", home)
        more = {} if way == REMOVE else {"r": "VIEWER"}
        answers = await asyncio.gather(
            do(town, way, home.token, i=await member_id(town, home), **more),
            do(town, way, second.token, i=await member_id(town, second), **more),
        )
        assert sorted(str(code_of(one)) for one in answers) == ["FORBIDDEN", "None"]
        owners = Membership.household_id == home.household_id, Membership.role == "OWNER"
        assert await town.count(Membership, *owners) == 1


async def test_a5_only_owners_see_full_numbers(town: Town) -> None:
    payer, viewer = await join(town, "PAYER", name="Peter"), await join(town, "VIEWER")
    await invite(town, "+254712345678")
    by_owner = {one["phone"] for one in await members(town)}
    assert {payer.phone, viewer.phone, "+254712345678"} < by_owner
    shown = await members(town, payer.token)
    assert [one["phone"] for one in shown if one["phone"]] == [payer.phone]
    assert [one["isViewer"] for one in shown].count(True) == 1
    text = json.dumps(shown)
    assert viewer.phone not in text
    assert "+254712345678" not in text
    assert {"Peter", "+254•••678"} < {one["name"] for one in shown}


async def test_a5_whom_an_owner_invited_is_invited_no_more_once_that_owner_is_gone(town: Town) -> None:
    second, guest = await join(town, "OWNER"), await make_person(town)
    await invite(town, guest.phone, "OWNER", token=second.token)
    assert len(await invitations(town, guest.token)) == 1
    await do(town, REMOVE, i=await member_id(town, second))
    assert await invitations(town, guest.token) == []


async def test_an_invitation_takes_nothing_from_who_has_more(town: Town) -> None:
    guest = await make_person(town)
    waiting = (await invite(town, guest.phone, "VIEWER"))["member"]["id"]
    await claim(town, guest.token, town.home.serial, await code_for(town, town.home.serial))
    assert (await answer(town, guest.token, waiting))["userErrors"] == []
    assert await my_meters(town, guest.token) == {town.home.meter_id: "OWNER"}


async def test_g7_a_removed_members_live_view_ends_at_once(town: Town) -> None:
    viewer = await join(town, "VIEWER")
    text = "subscription($i: ID!) { meterUpdated(meterId: $i) { label } }"
    async with await opened(town, viewer.token) as socket:
        await subscribe(socket, text, town.home.meter_id)
        assert json.loads(await socket.recv())["payload"]["data"]["meterUpdated"]["label"] == "Home"
        await do(town, RENAME, m=town.home.meter_id, l="Home 2")
        assert json.loads(await socket.recv())["payload"]["data"]["meterUpdated"]["label"] == "Home 2"
        await do(town, REMOVE, i=await member_id(town, viewer))
        async with asyncio.timeout(10):
            message = json.loads(await socket.recv())
        assert "NOT_FOUND" in json.dumps(message)
        assert "Home" not in json.dumps(message)


MUTATIONS = {
    "invite": (INVITE, {"k": "g7", "p": "+254712345678", "r": "OWNER"}, "m"),
    "remove": (REMOVE, {}, "i"),
    "role": (SET_ROLE, {"r": "OWNER"}, "i"),
    "answer": (ANSWER, {"a": True}, "i"),
    "decline": (ANSWER, {"a": False}, "i"),
    "rename": (RENAME, {"l": "Mine"}, "m"),
    "move out": (MOVE_OUT, {"k": "g7", "d": "2026-11-20"}, "m"),
}


async def test_g7_strangers_get_the_answer_for_what_is_not_there(town: Town) -> None:
    stranger, viewer, guest = await make_neighbour(town), await join(town, "VIEWER"), await make_person(town)
    waiting = (await invite(town, guest.phone))["member"]["id"]
    theirs = {
        "m": [town.home.meter_id],
        "i": [await member_id(town, town.home), await member_id(town, viewer), waiting],
    }
    absent = {
        "m": ["mtr_" + "0" * 26, "nonsense", ""],
        "i": ["mem_" + "0" * 26, "inv_" + "0" * 26, "nonsense", town.home.meter_id, "\u0000"],
    }
    for name, (query, more, place) in MUTATIONS.items():
        answers = [
            await do(town, query, stranger.token, **more, **{place: one}) for one in theirs[place] + absent[place]
        ]
        assert all(one == answers[0] for one in answers), name
        assert code_of(answers[0]) == "NOT_FOUND", name
        signed_out = await town.gql(query, "", **more, **{place: theirs[place][0]})
        assert "data" not in signed_out
        assert signed_out["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    for one in theirs["i"] + absent["i"]:
        node = await town.gql("query($i: ID!) { node(id: $i) { id } }", stranger.token, i=one)
        assert node["data"] == {"node": None}
    hidden = await town.gql(
        "query($m: ID!) { viewer { invitations { id } meter(id: $m) { members { id } } } }",
        stranger.token,
        m=town.home.meter_id,
    )
    assert hidden["data"]["viewer"] == {"invitations": [], "meter": None}
    assert len(await members(town)) == 3


async def test_members_are_nodes_for_those_who_share_with_them(town: Town) -> None:
    viewer, guest = await join(town, "VIEWER"), await make_person(town)
    waiting = (await invite(town, guest.phone))["member"]["id"]
    for one in (await member_id(town, town.home), waiting):
        query = "query($i: ID!) { node(id: $i) { ... on HouseholdMember { id phone } } }"
        assert (await town.gql(query, viewer.token, i=one))["data"]["node"] == {"id": one, "phone": None}
        assert (await town.gql(query, guest.token, i=one))["data"]["node"] is None


async def test_members_of_many_meters_are_read_at_once(town: Town) -> None:
    owner = Person(town.home.customer_id, "", town.home.token)
    homes: list[Home] = [await make_neighbour(town) for _ in range(3)]
    for home in homes:
        async with town.sessions.begin() as session:
            session.add(Membership(household_id=home.household_id, customer_id=owner.customer_id, role="VIEWER"))
    query = "{ viewer { meters(first: 10) { nodes { id members { role isViewer } } } } }"
    nodes = (await town.gql(query))["data"]["viewer"]["meters"]["nodes"]
    assert [len(node["members"]) for node in nodes] == [1, 2, 2, 2]
    assert all([one["isViewer"] for one in node["members"]].count(True) == 1 for node in nodes)
