"""People who share meters, as their apps speak: claims, invitations, roles, moves."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from standpipe.app import make_signer
from standpipe.households.models import Customer, Membership
from standpipe.meters.claims import issue
from standpipe.meters.models import Meter
from standpipe.notifications.models import Alert, Delivery
from standpipe.platform.ids import new_id
from tests.support.town import Home, Town, make_home

ERRORS = "userErrors { __typename code message field retryable }"
CLAIM = (
    "mutation($k: ID!, $s: String!, $c: String!, $l: String) { meterClaim(input: {idempotencyKey: $k, serial: $s, "
    f"code: $c, label: $l}}) {{ joined replayed meter {{ id serial label }} {ERRORS} }} }}"
)
MEMBERS = (
    "query($m: ID!) { viewer { meter(id: $m) { label members { id name phone role accepted isViewer expiresAt } } } }"
)
MINE = "{ viewer { meters(first: 50) { edges { role node { id label } } } } }"
INVITE = (
    "mutation($k: ID!, $m: ID!, $p: PhoneNumber!, $r: HouseholdRole!) { memberInvite(input: {idempotencyKey: $k, "
    f"meterId: $m, phone: $p, role: $r}}) {{ replayed member {{ id name phone role accepted }} {ERRORS} }} }}"
)
INVITATIONS = "{ viewer { invitations { id role labels invitedBy expiresAt } } }"
ANSWER = (
    "mutation($i: ID!, $a: Boolean!) { invitationAnswer(input: {invitationId: $i, accept: $a}) "
    f"{{ meters {{ id }} {ERRORS} }} }}"
)
REMOVE = f"mutation($i: ID!) {{ memberRemove(input: {{memberId: $i}}) {{ member {{ id role }} {ERRORS} }} }}"
SET_ROLE = (
    "mutation($i: ID!, $r: HouseholdRole!) { memberRoleSet(input: {memberId: $i, role: $r}) "
    f"{{ member {{ id role }} {ERRORS} }} }}"
)
RENAME = (
    "mutation($m: ID!, $l: String!) { meterRename(input: {meterId: $m, label: $l}) "
    f"{{ meter {{ id label }} {ERRORS} }} }}"
)
MOVE_OUT = (
    "mutation($k: ID!, $m: ID!, $d: Date!) { moveOut(input: {idempotencyKey: $k, meterId: $m, day: $d}) { replayed "
    "finalBalance { day wallet { amount } onItsWay { amount } standing { amount } arrears { amount } "
    f"emergency {{ amount }} }} {ERRORS} }} }}"
)


@dataclass(frozen=True)
class Person:
    """Somebody signed in."""

    customer_id: str
    phone: str
    token: str


async def make_person(town: Town, name: str = "") -> Person:
    number = "".join(char for char in new_id("x")[-12:] if char.isdigit()).ljust(8, "7")[:8]
    person_id = new_id("cus")
    phone = f"+25471{number[:7]}"
    async with town.sessions.begin() as session:
        while await session.scalar(select(Customer.id).where(Customer.phone == phone)):
            phone = f"+25471{int(phone[-7:]) + 1:07}"
        session.add(Customer(id=person_id, phone=phone, name=name))
    return Person(person_id, phone, make_signer(town.settings).issue(person_id))


async def join(town: Town, role: str, home: Home | None = None, name: str = "") -> Person:
    """Somebody who is a member already."""
    person = await make_person(town, name)
    household_id = (home or town.home).household_id
    async with town.sessions.begin() as session:
        session.add(Membership(household_id=household_id, customer_id=person.customer_id, role=role))
    return person


async def make_neighbour(town: Town) -> Home:
    return await make_home(
        *(town.sessions, town.settings, town.utility_id, town.tariff_id),
        installed_at=datetime(2026, 5, 1, tzinfo=UTC),
        zone="Africa/Nairobi",
    )


async def empty_meter(town: Town) -> Home:
    """A meter that is nobody's; its former people are strangers now."""
    home = await make_neighbour(town)
    async with town.sessions.begin() as session:
        await session.execute(update(Meter).where(Meter.id == home.meter_id).values(household_id=None))
    return home


async def code_for(town: Town, serial: str, days: int | None = None) -> str:
    async with town.sessions.begin() as session:
        return (await issue(session, operator="amina", serial=serial, expires_in_days=days)).code


async def do(town: Town, query: str, token: str | None = None, **variables: Any) -> dict[str, Any]:
    """The one field's payload of a mutation."""
    answer = await town.gql(query, token, **variables)
    assert "errors" not in answer, answer
    [payload] = answer["data"].values()
    found: dict[str, Any] = payload
    return found


def code_of(payload: dict[str, Any]) -> str | None:
    """The first error's code."""
    return payload["userErrors"][0]["code"] if payload["userErrors"] else None


async def claim(town: Town, token: str, serial: str, code: str, key: str = "", label: str | None = None) -> Any:
    return await do(town, CLAIM, token, k=key or new_id("key"), s=serial, c=code, l=label)


async def members(town: Town, token: str | None = None, meter_id: str | None = None) -> list[dict[str, Any]]:
    answer = await town.gql(MEMBERS, token, m=meter_id or town.home.meter_id)
    found: list[dict[str, Any]] = answer["data"]["viewer"]["meter"]["members"]
    return found


async def member_id(town: Town, person: Person | Home) -> str:
    async with town.sessions() as session:
        query = select(Membership.id).where(Membership.customer_id == person.customer_id)
        return (await session.scalars(query)).one()


async def my_meters(town: Town, token: str) -> dict[str, str]:
    """The roles by meter."""
    edges = (await town.gql(MINE, token))["data"]["viewer"]["meters"]["edges"]
    return {edge["node"]["id"]: edge["role"] for edge in edges}


async def invite(town: Town, phone: str, role: str = "VIEWER", token: str | None = None, **more: str) -> Any:
    return await do(
        town,
        INVITE,
        token,
        k=more.get("key") or new_id("key"),
        m=more.get("meter_id") or town.home.meter_id,
        p=phone,
        r=role,
    )


async def told(town: Town) -> list[tuple[str, list[str]]]:
    """Who was told what about access, oldest first."""
    await town.drain()
    async with town.sessions() as session:
        alerts = await session.scalars(select(Alert).where(Alert.kind == "ACCESS").order_by(Alert.id))
        return [
            (
                alert.params["variant"],
                sorted(await session.scalars(select(Delivery.customer_id).where(Delivery.alert_id == alert.id))),
            )
            for alert in alerts.all()
        ]
