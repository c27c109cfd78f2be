"""Members of a meter, as they see each other, and invitations to join them.

Names are for the whole household; full phone numbers only for its owners, and one's own for oneself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from standpipe.households.models import Customer, HouseholdRole, Invite, Membership
from standpipe.households.people import mask_phone
from standpipe.meters.models import Meter
from standpipe.platform.ids import is_id

OPEN_INVITE = (Invite.accepted_at.is_(None), Invite.ended_at.is_(None), Invite.expires_at > func.now())
_Reader = aliased(Membership)


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member (mem_…) or somebody invited (inv_…). ``phone`` is None where the reader may not see it."""

    id: str
    name: str
    phone: str | None
    role: HouseholdRole
    accepted: bool
    mine: bool
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class InvitationView:
    """An invitation before it is answered. ``labels`` are those of the household's meters."""

    id: str
    role: HouseholdRole
    labels: tuple[str, ...]
    invited_by: str
    expires_at: datetime


async def members_of_meters(
    session: AsyncSession, customer_id: str, meter_ids: Sequence[str]
) -> Mapping[str, list[MemberView]]:
    """Members, then the invited, by meter, for one who is a member there; other meters are left out."""
    found: dict[str, list[MemberView]] = {}
    asked = Meter.id.in_(meter_ids)
    for row in await session.execute(_members(customer_id, asked)):
        found.setdefault(row[0], []).append(_member(row, customer_id))
    for invited in await session.execute(_invited(customer_id, asked, *OPEN_INVITE)):
        found.setdefault(invited[0], []).append(_invitation(invited))
    return found


async def member_by_id(
    session: AsyncSession, customer_id: str, member_id: str, *, also_ended: bool = False
) -> MemberView | None:
    """One of those who share a household with this customer; None for every other id. ``also_ended``: invitations
    that were answered, withdrawn or have run out.
    """
    if is_id(member_id, "mem"):
        row = (await session.execute(_members(customer_id, Membership.id == member_id).limit(1))).first()
        return None if row is None else _member(row, customer_id)
    if not is_id(member_id, "inv"):
        return None
    still_open = () if also_ended else OPEN_INVITE
    invited = (await session.execute(_invited(customer_id, Invite.id == member_id, *still_open).limit(1))).first()
    return None if invited is None else _invitation(invited)


async def invitations_for(session: AsyncSession, customer_id: str) -> list[InvitationView]:
    """The open invitations to this customer's number, oldest first."""
    inviter = aliased(Customer)
    labels = select(func.array_agg(Meter.label)).where(Meter.household_id == Invite.household_id).scalar_subquery()
    rows = await session.execute(
        select(Invite, inviter, labels)
        .join(Customer, Customer.phone == Invite.phone)
        .outerjoin(inviter, inviter.id == Invite.invited_by)
        .where(Customer.id == customer_id, Customer.deleted_at.is_(None), *OPEN_INVITE)
        .order_by(Invite.id)
    )
    return [
        InvitationView(
            id=invite.id,
            role=HouseholdRole(invite.role),
            labels=tuple(sorted(found or ())),
            invited_by="" if by is None else by.name or mask_phone(by.phone),
            expires_at=invite.expires_at,
        )
        for invite, by, found in rows
    ]


def _members(customer_id: str, *where: ColumnElement[bool]) -> Select[str, str, Membership, Customer]:
    # Through the meter, always: those who have moved out share nothing any more.
    return (
        select(Meter.id, _Reader.role, Membership, Customer)
        .join(_Reader, _Reader.household_id == Meter.household_id)
        .join(Membership, Membership.household_id == Meter.household_id)
        .join(Customer, Customer.id == Membership.customer_id)
        .where(_Reader.customer_id == customer_id, *where)
        .order_by(Meter.id, Membership.joined_at, Membership.id)
        .execution_options(populate_existing=True)
    )


def _invited(customer_id: str, *where: ColumnElement[bool]) -> Select[str, str, Invite]:
    return (
        select(Meter.id, _Reader.role, Invite)
        .join(_Reader, _Reader.household_id == Meter.household_id)
        .join(Invite, Invite.household_id == Meter.household_id)
        .where(_Reader.customer_id == customer_id, *where)
        .order_by(Meter.id, Invite.id)
        .execution_options(populate_existing=True)
    )


def _member(row: Row[str, str, Membership, Customer], customer_id: str) -> MemberView:
    _, reader_role, membership, customer = row
    mine = customer.id == customer_id
    sees_phone = (mine or reader_role == HouseholdRole.OWNER) and customer.deleted_at is None
    return MemberView(
        id=membership.id,
        name=customer.name or (customer.phone if sees_phone else mask_phone(customer.phone)),
        phone=customer.phone if sees_phone else None,
        role=HouseholdRole(membership.role),
        accepted=True,
        mine=mine,
        expires_at=None,
    )


def _invitation(row: Row[str, str, Invite]) -> MemberView:
    _, reader_role, invite = row
    sees_phone = reader_role == HouseholdRole.OWNER
    return MemberView(
        id=invite.id,
        name=invite.phone if sees_phone else mask_phone(invite.phone),
        phone=invite.phone if sees_phone else None,
        role=HouseholdRole(invite.role),
        accepted=invite.accepted_at is not None,
        mine=False,
        expires_at=invite.expires_at,
    )
