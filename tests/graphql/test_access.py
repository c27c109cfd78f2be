"""The authorisation matrix, made from the schema: every field, mutation and subscription × everybody who may ask.

What is whose stands in ``access.txt``, a line for each field. A field of the schema that has no line there fails, and
so does a mutation or a subscription without a row here.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
    get_named_type,
    is_leaf_type,
    is_required_argument,
)
from sqlalchemy import delete, update

from standpipe.engine.limits import Attempt
from standpipe.graphql.budget import Budgets
from standpipe.graphql.schema import schema
from standpipe.households.models import CustomerSession, Invite, RefreshToken
from standpipe.ledger.models import Entry
from standpipe.notifications.alerts import raise_once
from standpipe.notifications.models import AlertKind
from standpipe.platform.ids import new_id
from standpipe.utilities.models import Utility
from standpipe_demo.simulator.fake_stripe import event
from tests.graphql.test_graphql import water
from tests.graphql.test_roles import card_of, voucher
from tests.support.households import INVITE, join, make_neighbour
from tests.support.operators import operator_token
from tests.support.town import SETTLED, Town, make_town, settled

pytestmark = pytest.mark.calendar

CORE = schema._schema
TABLE = Path(__file__).with_name("access.txt")
ACTORS = ("anonymous", "operator", "stranger", "viewer", "payer", "owner")
MEMBERS = {"viewer", "payer", "owner"}
SEEN_BY = {
    "public": set(ACTORS),
    "viewer": MEMBERS | {"stranger"},
    "household": MEMBERS,
    "operator": {"operator"},
}
"""Who sees what. ``viewer``: each customer their own. ``answer``: part of what a mutation gives back to who may ask."""

ARGUMENTS = {
    "Meter.usage": f'(from: "{SETTLED.date() - timedelta(days=3)}", to: "{SETTLED.date()}", interval: DAY)',
    "Meter.statement": f'(month: "{SETTLED:%Y-%m}-01")',
    "Meter.quote": '(by: {money: {amount: "50.00", currency: "KES"}})',
    "AppConfig.minAppVersion": "(platform: ANDROID)",
}
UNSEEN = {"KeypadToken", "GuestKeypadToken", "GuestReceipt", "StkPush", "StripeCardSetup",
          "TopUpFailure", "StatementAdjustment", "FixedCharge"}  # fmt: skip
"""Types of which this town has no example: who may not see them is tested all the same, by the way that leads there."""


def rules() -> dict[str, str]:
    """Field → whose it is."""
    lines = [line.split() for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    return dict(lines)


def fields_of_schema() -> set[str]:
    roots = {CORE.query_type, CORE.mutation_type, CORE.subscription_type}
    return {
        f"{type_.name}.{name}"
        for type_ in CORE.type_map.values()
        if isinstance(type_, GraphQLObjectType) and not type_.name.startswith("__") and type_ not in roots
        for name in type_.fields
    }


def test_every_field_has_a_rule() -> None:
    known, there = set(rules()), fields_of_schema()
    assert sorted(there - known) == [], "say in access.txt whose these are"
    assert sorted(known - there) == [], "gone from the schema"
    assert set(rules().values()) <= {*SEEN_BY, "answer"}


@dataclass
class Way:
    """How a query gets to a type: the text before and after its fields, the keys on the way, and whose the root is."""

    whose: str
    before: str
    after: str
    keys: tuple[str, ...]


@dataclass
class World:
    """The town with everybody in it, and the ids that the household's things have."""

    town: Town
    tokens: dict[str, str]
    roots: list[tuple[str, Way]]
    secrets: dict[str, set[str]]
    more: dict[str, Any] = field(default_factory=dict)

    async def ask(self, actor: str, query: str, **variables: Any) -> dict[str, Any]:
        return await self.town.gql(query, token=self.tokens[actor], **variables)


@pytest.fixture
async def town(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """A town in the middle of a month: there is something in its statement."""
    async with make_town(database_url, tmp_path, **settled()) as made:
        yield made


@pytest.fixture
async def world(town: Town, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(Budgets, "take", lambda *_: 1)
    monkeypatch.setitem(ARGUMENTS, "Viewer.meter", f'(id: "{town.home.meter_id}")')
    viewer, payer = await join(town, "VIEWER", name="Vera"), await join(town, "PAYER", name="Peter")
    stranger = await make_neighbour(town)
    operator = await operator_token(town)
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).values(emergency_credit_minor=20_000, emergency_threshold_minor=5_000))
    await water(town, town.home.meter_id, 24 * 40)
    top_up_id, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    waiting = (await town.start())["topUp"]["id"]
    card = await card_of(town, town.home.customer_id)
    async with town.sessions.begin() as session:
        await raise_once(session, meter_id=town.home.meter_id, kind=AlertKind.LEAK, business_key="leak", params={
            "label": "Home"}, now=town.now())  # fmt: skip
    tokens = {"anonymous": "", "operator": operator, "stranger": stranger.token, "viewer": viewer.token,
              "payer": payer.token, "owner": town.home.token}  # fmt: skip
    world = World(town, tokens, [], {}, {"top_up": top_up_id, "waiting": waiting, "card": card, "payer": payer})
    await _furnish(world)
    return world


async def _furnish(world: World) -> None:
    """Devices, invitations, standing orders and a guest's top-up; the ways in to every kind of thing."""
    town, more = world.town, world.more
    for actor in SEEN_BY["viewer"]:
        await world.ask(actor, MUTATIONS["deviceRegister"][0], **_inputs(world, "deviceRegister", actor))
    invited = await town.gql(INVITE, k=new_id("key"), m=town.home.meter_id, p="+254711000111", r="VIEWER")
    more["invitation"] = invited["data"]["memberInvite"]["member"]["id"]
    phone = (await world.ask("stranger", "{ viewer { phone } }"))["data"]["viewer"]["phone"]
    async with town.sessions.begin() as session:
        until = datetime.now(UTC) + timedelta(days=1)
        row = CustomerSession(id=new_id("ses"), customer_id=town.home.customer_id, kind="APP", expires_at=until)
        offer = Invite(
            id=new_id("inv"), household_id=town.home.household_id, phone=phone, role="VIEWER", expires_at=until
        )
        session.add_all([row, offer])
        await session.flush()
        session.add(RefreshToken(token_hash="x", session_id=row.id, expires_at=until))
    await world.ask("owner", MUTATIONS["autoTopUpSet"][0], **_inputs(world, "autoTopUpSet", "owner"))
    guest = await world.ask(
        "anonymous", MUTATIONS["guestTopUpStart"][0], **_inputs(world, "guestTopUpStart", "anonymous")
    )
    started = guest["data"]["it"]
    seen = await world.ask(
        "owner", "{ viewer { meters { nodes { id alerts { nodes { id } } members { id isViewer } } } } }"
    )
    [meter] = seen["data"]["viewer"]["meters"]["nodes"]
    more["alert"] = meter["alerts"]["nodes"][0]["id"]
    more["member"] = next(one["id"] for one in meter["members"] if one["isViewer"])
    world.secrets = {"household": {town.home.meter_id, town.home.serial, more["top_up"], more["alert"], more["member"]}}
    node = 'node(id: "{}") {{ ... on {} {{'
    things = [("Meter", town.home.meter_id), ("TopUp", more["top_up"]), ("TopUp", more["waiting"])]
    things += [("Alert", more["alert"]), ("HouseholdMember", more["member"])]
    theirs = f'guestTopUp(id: "{started["topUp"]["id"]}", guestKey: "{started["guestKey"]}") {{'
    world.roots = [
        ("Viewer", Way("viewer", "viewer {", "}", ("viewer",))),
        ("AppConfig", Way("public", "appConfig {", "}", ("appConfig",))),
        ("Operator", Way("operator", "operator {", "}", ("operator",))),
        ("GuestMeterPayload", Way("public", f'guestMeter(number: "{town.home.serial}") {{', "}", ("guestMeter",))),
        ("GuestTopUp", Way("public", theirs, "}", ("guestTopUp",))),
        *((kind, Way("household", node.format(thing, kind), "} }", ("node",))) for kind, thing in things),
    ]  # fmt: skip


def ways(world: World) -> dict[str, list[Way]]:
    """To every object type that a query can reach, the ways by which it is first met, one for each root."""
    found: dict[str, list[Way]] = {}
    for kind, root in world.roots:
        waiting: list[tuple[Any, Way]] = [(CORE.get_type(kind), root)]
        met: set[str] = set()
        while waiting:
            type_, way = waiting.pop(0)
            if type_.name in met or len(way.keys) > 7:
                continue
            met.add(type_.name)
            found.setdefault(type_.name, []).append(way)
            # What is always there first: of a type that is met twice, the way that does not end in null.
            for name, below in sorted(
                type_.fields.items(), key=lambda one: not isinstance(one[1].type, GraphQLNonNull)
            ):
                target = get_named_type(below.type)
                if is_leaf_type(target):
                    continue
                call = name + _arguments(type_.name, name, below)
                kinds = CORE.get_possible_types(target) if isinstance(target, GraphQLInterfaceType) else [target]
                for one in kinds:
                    inside = f" ... on {one.name} {{" if one is not target else ""
                    before = f"{way.before} {call} {{{inside}"
                    waiting.append(
                        (one, Way(way.whose, before, way.after + " }" * (2 if inside else 1), (*way.keys, name)))
                    )
    return found


def _arguments(owner: str, name: str, known: GraphQLField) -> str:
    given = ARGUMENTS.get(f"{owner}.{name}", "")
    assert given or not any(is_required_argument(argument) for argument in known.args.values()), f"{owner}.{name}"
    return given


def _at(data: Any, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """What lies at the end of the keys; lists are gone through, and nulls are the end."""
    here = [data]
    for key in keys:
        here = [one.get(key) for one in here if isinstance(one, dict)]
        here = [inner for one in here for inner in (one if isinstance(one, list) else [one])]
    return [one for one in here if isinstance(one, dict) and one]


def _everything(type_: GraphQLObjectType) -> str:
    parts = ["__typename"]
    for name, known in type_.fields.items():
        below = "" if is_leaf_type(get_named_type(known.type)) else " { __typename }"
        parts.append(name + _arguments(type_.name, name, known) + below)
    return " ".join(parts)


async def test_g7_every_field_for_everybody(world: World) -> None:
    table, reached = rules(), ways(world)
    queried = {name.partition(".")[0] for name, whose in table.items() if whose != "answer"}
    assert queried - set(reached) == set(), "no query gets there"
    seen: set[str] = set()
    for kind in sorted(reached):
        type_: Any = CORE.get_type(kind)
        for way in reached[kind]:
            query = f"{{ {way.before} {_everything(type_)} {way.after} }}"
            async with world.town.sessions.begin() as session:
                await session.execute(delete(Attempt))
            for actor in ACTORS:
                answer = await world.ask(actor, query)
                found = [one for one in _at(answer.get("data"), way.keys) if one.get("__typename") == kind]
                told = json.dumps(answer)
                if actor in SEEN_BY[way.whose]:
                    assert "errors" not in answer, (actor, query, answer)
                    for one in found:
                        seen.add(kind)
                        assert set(type_.fields) <= set(one), (actor, kind)
                else:
                    assert not found, (actor, query, answer)
                if actor not in MEMBERS and way.whose != "public":
                    assert not any(secret in told for secret in world.secrets["household"]), (actor, query)
    assert queried - seen - UNSEEN == set(), "this town has no example of these"
    assert UNSEEN & seen == set(), "there are examples of these after all"
    for name, whose in table.items():
        kind = name.partition(".")[0]
        if whose != "answer":
            assert any(way.whose == whose for way in reached[kind]), name


D, U, N, F = "DONE", "UNAUTHENTICATED", "NOT_FOUND", "FORBIDDEN"
X, B = "INVALID", "METER_BLOCKED"
ERRORS = "userErrors { code message }"


def _mutation(name: str, input_type: str, more: str = "") -> str:
    return f"mutation($input: {input_type}) {{ it: {name}(input: $input) {{ {more} {ERRORS} }} }}"


# In the order of ACTORS: anonymous, operator, stranger, viewer, payer, owner.
MUTATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "signInStart": (_mutation("signInStart", "SignInStartInput!"), (X, X, X, X, X, X)),
    "signInFinish": (_mutation("signInFinish", "SignInFinishInput!"), (X, X, X, X, X, X)),
    "sessionRefresh": (_mutation("sessionRefresh", "SessionRefreshInput"), (X, X, X, X, X, X)),
    "signOut": (_mutation("signOut", "SignOutInput"), (X, X, X, X, X, X)),
    "signOutEverywhere": (f"mutation {{ it: signOutEverywhere {{ {ERRORS} }} }}", (U, U, D, D, D, D)),
    "accountDelete": (_mutation("accountDelete", "AccountDeleteInput!"), (U, U, X, X, X, X)),
    "emergencyCreditActivate": (
        _mutation("emergencyCreditActivate", "EmergencyCreditActivateInput!"), (U, U, N, F, D, B)),
    "voucherRedeem": (_mutation("voucherRedeem", "VoucherRedeemInput!"), (U, U, N, F, D, D)),
    "cardSaveStart": (_mutation("cardSaveStart", "CardSaveStartInput!"), (U, U, D, D, D, D)),
    "cardForget": (_mutation("cardForget", "CardForgetInput!"), (U, U, N, N, N, D)),
    "autoTopUpSet": (_mutation("autoTopUpSet", "AutoTopUpSetInput!"), (U, U, N, F, D, D)),
    "autoTopUpTurnOff": (_mutation("autoTopUpTurnOff", "AutoTopUpTurnOffInput!"), (U, U, N, F, F, D)),
    "guestTopUpStart": (_mutation("guestTopUpStart", "GuestTopUpStartInput!", "guestKey topUp { id }"), (D,) * 6),
    "claimCodeIssue": (_mutation("claimCodeIssue", "ClaimCodeIssueInput!"), (U, D, U, U, U, U)),
    "meterClaim": (_mutation("meterClaim", "MeterClaimInput!"), (U, U, X, X, X, X)),
    "moveOut": (_mutation("moveOut", "MoveOutInput!"), (U, U, N, F, F, D)),
    "meterRename": (_mutation("meterRename", "MeterRenameInput!"), (U, U, N, F, F, D)),
    "memberInvite": (_mutation("memberInvite", "MemberInviteInput!"), (U, U, N, F, F, D)),
    "memberRemove": (_mutation("memberRemove", "MemberRemoveInput!"), (U, U, N, F, F, D)),
    "memberRoleSet": (_mutation("memberRoleSet", "MemberRoleSetInput!"), (U, U, N, F, F, D)),
    "invitationAnswer": (_mutation("invitationAnswer", "InvitationAnswerInput!"), (U, U, N, N, N, N)),
    "alertsMarkRead": (_mutation("alertsMarkRead", "AlertsMarkReadInput!"), (U, U, N, D, D, D)),
    "deviceRegister": (_mutation("deviceRegister", "DeviceRegisterInput!"), (U, U, D, D, D, D)),
    "deviceRemove": (_mutation("deviceRemove", "DeviceRemoveInput!"), (U, U, N, N, N, D)),
    "notificationPreferencesUpdate": (
        _mutation("notificationPreferencesUpdate", "NotificationPreferencesInput!"), (U, U, D, D, D, D)),
    "operatorSignIn": (_mutation("operatorSignIn", "OperatorSignInInput!"), (X, X, X, X, X, X)),
    "operatorSignOut": (f"mutation {{ it: operatorSignOut {{ {ERRORS} }} }}", (U, D, U, U, U, U)),
    "topUpStart": (_mutation("topUpStart", "TopUpStartInput!"), (U, U, N, F, D, D)),
    "topUpCancel": (_mutation("topUpCancel", "TopUpCancelInput!"), (U, U, N, F, F, D)),
}  # fmt: skip


def _inputs(world: World, name: str, actor: str) -> dict[str, Any]:
    town, more, key = world.town, world.more, new_id("key")
    meter = {"meterId": town.home.meter_id}
    money = {"amount": "15.00", "currency": "KES"}
    inputs: dict[str, Any] = {
        "signInStart": {"phone": "+254711000222"},
        "signInFinish": {"phone": "+254711000222", "code": "000000"},
        "sessionRefresh": {"refreshToken": "rft_nonsense"},
        "signOut": None,
        "accountDelete": {"confirm": "+254700000000"},
        "emergencyCreditActivate": meter | {"idempotencyKey": key},
        "voucherRedeem": meter | {"idempotencyKey": key, "code": more.get("voucher", "")},
        "cardSaveStart": {"idempotencyKey": key},
        "cardForget": {"cardId": more.get("card")},
        "autoTopUpSet": meter | {"idempotencyKey": key, "cardId": more.get(f"card of {actor}", more.get("card")),
                                 "thresholdDays": 3, "mode": "FIXED", "amount": money, "dailyCap": money},
        "autoTopUpTurnOff": meter,
        "guestTopUpStart": {"idempotencyKey": key, "number": town.home.serial, "pay": money, "methodId": "sandbox"},
        "claimCodeIssue": {"serial": town.home.serial},
        "meterClaim": {"idempotencyKey": key, "serial": town.home.serial, "code": "0000-0000-0000-0000-0"},
        "moveOut": meter | {"idempotencyKey": key, "day": str(town.today())},
        "meterRename": meter | {"label": "Ours"},
        "memberInvite": meter | {"idempotencyKey": key, "phone": "+254711000333", "role": "VIEWER"},
        "memberRemove": {"memberId": more.get("target")},
        "memberRoleSet": {"memberId": more.get("target"), "role": "PAYER"},
        "invitationAnswer": {"invitationId": more.get("invitation"), "accept": True},
        "alertsMarkRead": {"alertIds": [more.get("alert")]},
        "deviceRegister": {"installationId": f"phone of {actor}", "platform": "ANDROID", "push": {"fcmToken": actor},
                           "appVersion": "1", "language": "en", "timeZone": "UTC"},
        "deviceRemove": {"installationId": "phone of owner"},
        "notificationPreferencesUpdate": {"daysLeft": [5]},
        "operatorSignIn": {"name": "amina", "password": "wrong", "code": "000000"},
        "topUpStart": meter | {"idempotencyKey": key, "pay": money, "methodId": "stripe"},
        "topUpCancel": {"topUpId": more.get("waiting")},
    }  # fmt: skip
    return {"input": inputs[name]} if name in inputs else {}


def _outcome(answer: dict[str, Any]) -> str:
    if answer.get("errors"):
        return str(answer["errors"][0]["extensions"]["code"])
    failures = answer["data"]["it"]["userErrors"]
    return str(failures[0]["code"]) if failures else D


def test_every_mutation_has_a_row() -> None:
    assert CORE.mutation_type is not None
    assert set(MUTATIONS) == set(CORE.mutation_type.fields)
    assert all(len(row) == len(ACTORS) for _, row in MUTATIONS.values())


@pytest.mark.parametrize("name", sorted(MUTATIONS))
async def test_a5_every_mutation_for_everybody(world: World, name: str) -> None:
    query, row = MUTATIONS[name]
    members = (await world.ask("owner", "{ viewer { meters { nodes { members { id name } } } } }"))["data"]["viewer"]
    target = await join(world.town, "VIEWER", name="Target")
    listed = await world.ask("owner", "{ viewer { meters { nodes { members { id name } } } } }")
    known = {one["id"] for one in members["meters"]["nodes"][0]["members"]}
    [world.more["target"]] = [
        one["id"] for one in listed["data"]["viewer"]["meters"]["nodes"][0]["members"] if one["id"] not in known
    ]
    assert target
    for actor, token in world.tokens.items():
        if actor in SEEN_BY["viewer"]:
            me = (await world.town.gql("{ viewer { id } }", token=token))["data"]["viewer"]["id"]
            world.more[f"card of {actor}"] = await card_of(world.town, me) if actor != "owner" else world.more["card"]
    for actor, expected in zip(ACTORS, row, strict=True):
        world.more["voucher"] = await voucher(world.town)
        before = await world.town.count(Entry)
        answer = await world.ask(actor, query, **_inputs(world, name, actor))
        assert _outcome(answer) == expected, (actor, answer)
        if expected != D:
            assert await world.town.count(Entry) == before, (actor, "money moved")


SUBSCRIPTIONS = {
    "meterUpdated": ("subscription($m: ID!) { meterUpdated(meterId: $m) { id } }", (U, U, N, D, D, D)),
    "topUpUpdated": ("subscription($t: ID!) { topUpUpdated(topUpId: $t) { id } }", (U, U, N, D, D, D)),
    "alertRaised": ("subscription { alertRaised { id } }", (U, U, "SILENT", D, D, D)),
}


def test_every_subscription_has_a_row() -> None:
    assert CORE.subscription_type is not None
    assert set(SUBSCRIPTIONS) == set(CORE.subscription_type.fields)


@pytest.mark.parametrize("name", sorted(SUBSCRIPTIONS))
async def test_g7_every_subscription_for_everybody(world: World, name: str) -> None:
    query, row = SUBSCRIPTIONS[name]
    variables = {"m": world.town.home.meter_id, "t": world.more["waiting"]}
    for actor, expected in zip(ACTORS, row, strict=True):
        headers = {"accept": "text/event-stream"}
        if world.tokens[actor]:
            headers["authorization"] = f"Bearer {world.tokens[actor]}"
        assert await _first(world.town, {"query": query, "variables": variables}, headers) == expected, actor


async def _first(town: Town, body: dict[str, Any], headers: dict[str, str]) -> str:
    """What the first event says; SILENT where a stream is open and nothing comes."""
    async with town.http.stream("POST", f"{town.api}/graphql", json=body, headers=headers) as response:
        lines = response.aiter_lines()
        try:
            async with asyncio.timeout(0.5 if "alertRaised" in body["query"] and "stranger" in headers else 10):
                async for line in lines:
                    if line.startswith("data: {"):
                        answer = json.loads(line[6:])
                        return str(answer["errors"][0]["extensions"]["code"]) if answer.get("errors") else D
                    if line.startswith(":"):
                        return "SILENT"
        except TimeoutError:
            return "SILENT"
    return "ENDED"
