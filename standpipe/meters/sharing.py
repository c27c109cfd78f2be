"""A household shared: who joins, who is invited, whose part changes, who leaves.

Every change holds the household's row (after the meter's, where both are held), so that two owners who leave at the
same moment are one after the other, and the second finds itself the last. Only an owner changes anything for others.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.limits import Limit, count_try, private_key
from standpipe.households.models import Customer, Household, HouseholdRole, Invite, Membership
from standpipe.households.people import hold_customer
from standpipe.meters.access import require_meter
from standpipe.meters.members import OPEN_INVITE, MemberView, member_by_id
from standpipe.meters.models import Meter
from standpipe.outbox.facts import AccessEnded, AccessNews, publish
from standpipe.platform.errors import ForbiddenError, InvalidInputError, NotFoundError
from standpipe.platform.ids import is_id, new_id
from standpipe.platform.language import phrase
from standpipe.platform.notify import LIVE, notify
from standpipe.platform.units import is_storable

MAX_PEOPLE = 50
"""Members and invited of one household."""
INVITE_TTL = timedelta(days=14)
INVITES_PER_ACCOUNT = (Limit(10, 86_400),)
INVITES_PER_NUMBER = (Limit(3, 86_400),)
"""By all households together: a text is somebody's phone ringing."""
MAX_LABEL = 60
_LAST_OWNER = phrase("A household keeps an owner: make somebody else one first, or move out.")
_ONLY_OWNERS = phrase("Only an owner of this household can do this.")


def read_label(text: str) -> str:
    """A meter's label as its people want it. Raises InvalidInputError."""
    label = text.strip()
    if not 0 < len(label) <= MAX_LABEL or not label.isprintable() or not is_storable(label):
        raise InvalidInputError(phrase("A label has 1 to {most} characters.", most=MAX_LABEL), ("label",))
    return label


async def rename(session: AsyncSession, *, customer_id: str, meter_id: str, label: str) -> None:
    """Give a meter another label. Raises NotFoundError, ForbiddenError, InvalidInputError."""
    meter = await require_meter(session, customer_id=customer_id, meter_id=meter_id, role=HouseholdRole.OWNER)
    meter.label = read_label(label)
    await session.flush()
    await notify(session, LIVE, meter.id)


async def join(
    session: AsyncSession, *, household_id: str, customer_id: str, role: HouseholdRole, meter_id: str, how: str
) -> None:
    """Make somebody a member of a locked household, or give a member more to do; nobody's part grows less.

    ``meter_id``: the meter by which those who are there already are told of a new owner; ``how``: CLAIMED or OWNER.
    """
    had = await _role_in(session, household_id, customer_id)
    if had is not None and had.may(role):
        return
    await session.execute(
        insert(Membership)
        .values(household_id=household_id, customer_id=customer_id, role=role)
        .on_conflict_do_update(index_elements=["household_id", "customer_id"], set_={"role": role})
    )
    if role is HouseholdRole.OWNER:
        await _tell_others(session, household_id, customer_id, meter_id, how)
    await _call_live(session, household_id)


async def invite(
    session: AsyncSession, *, customer_id: str, meter_id: str, phone: str, role: HouseholdRole, secret: str
) -> str:
    """Keep a place for whoever proves to have this number (E.164); again, and it is renewed. Returns its id.

    Raises NotFoundError, ForbiddenError for all but owners, InvalidInputError, RateLimitedError.
    """
    meter = await require_meter(session, customer_id=customer_id, meter_id=meter_id, role=HouseholdRole.OWNER)
    household_id = await _enter(session, customer_id, meter.household_id, HouseholdRole.OWNER)
    is_member = (
        select(Membership.id)
        .join(Customer, Customer.id == Membership.customer_id)
        .where(Membership.household_id == household_id, Customer.phone == phone)
    )
    if await session.scalar(is_member) is not None:
        raise InvalidInputError(phrase("Who has this number is a member of the household already."), ("phone",))
    await count_try(session, kind="invite", key=customer_id, limits=INVITES_PER_ACCOUNT)
    await count_try(session, kind="invite-number", key=private_key(phone, secret), limits=INVITES_PER_NUMBER)
    await _end_expired(session, household_id)
    renewed: str | None = await session.scalar(
        update(Invite)
        .where(Invite.household_id == household_id, Invite.phone == phone, *OPEN_INVITE)
        .values(role=role, invited_by=customer_id, expires_at=func.now() + INVITE_TTL)
        .returning(Invite.id)
    )
    if renewed is not None:
        return renewed
    if await _people(session, household_id) >= MAX_PEOPLE:
        raise InvalidInputError(phrase("A household has at most {most} members.", most=MAX_PEOPLE), ("phone",))
    fresh = Invite(id=new_id("inv"), household_id=household_id, phone=phone, role=role, invited_by=customer_id)
    fresh.expires_at = datetime.now(UTC) + INVITE_TTL
    session.add(fresh)
    await session.flush()
    return fresh.id


async def answer(session: AsyncSession, *, customer_id: str, invitation_id: str, accept: bool) -> list[str]:
    """Take an invitation to one's own number, or decline it; said again, it changes nothing.

    Returns the household's meters, none where it was declined. Raises NotFoundError for every other invitation.
    """
    missing = NotFoundError("No such invitation.")
    phone = await hold_customer(session, customer_id)
    household_id = await session.scalar(
        select(Invite.household_id).where(Invite.id == invitation_id, Invite.phone == phone)
    )
    if household_id is None:
        raise missing
    await _lock(session, household_id)
    row = await session.get(Invite, invitation_id, populate_existing=True)
    if row is None:
        raise missing
    meter_ids = await _meters_of(session, household_id)
    if row.accepted_at is not None or row.ended_at is not None:
        again = row.accepted_by == customer_id if accept else row.ended_reason == "DECLINED"
        if not again or (accept and await _role_in(session, household_id, customer_id) is None):
            raise missing
        return meter_ids if accept else []
    if row.expires_at <= datetime.now(UTC) or not meter_ids:
        raise missing
    if not accept:
        row.ended_at, row.ended_reason = datetime.now(UTC), "DECLINED"
        await _call_live(session, household_id)
        return []
    row.accepted_at, row.accepted_by = datetime.now(UTC), customer_id
    role = HouseholdRole(row.role)
    await join(
        session, household_id=household_id, customer_id=customer_id, role=role, meter_id=meter_ids[0], how="OWNER"
    )
    return meter_ids


async def remove(session: AsyncSession, *, customer_id: str, member_id: str) -> MemberView:
    """End a membership or an invitation; one's own: leave. Returns what it was.

    Raises NotFoundError, and ForbiddenError for others than owners, and for the last owner.
    """
    household_id = await _household_of(session, member_id)
    await _enter(session, customer_id, household_id, HouseholdRole.VIEWER)
    seen = await member_by_id(session, customer_id, member_id)
    if seen is None:
        raise NotFoundError("No such member.")
    if not seen.mine:
        await _require_owner(session, household_id, customer_id)
    if not seen.accepted:
        await session.execute(
            update(Invite).where(Invite.id == member_id).values(ended_at=func.now(), ended_reason="WITHDRAWN")
        )
    else:
        gone = await _membership(session, member_id)
        await _loses(session, gone, HouseholdRole.VIEWER)
        await session.execute(delete(Membership).where(Membership.id == member_id))
        await _access_ended(session, household_id)
    await _call_live(session, household_id)
    return seen


async def set_role(session: AsyncSession, *, customer_id: str, member_id: str, role: HouseholdRole) -> None:
    """Change what a member, or somebody invited, may do.

    Raises NotFoundError, and ForbiddenError for others than owners, and where no owner would be left.
    """
    household_id = await _household_of(session, member_id)
    await _enter(session, customer_id, household_id, HouseholdRole.OWNER)
    seen = await member_by_id(session, customer_id, member_id)
    if seen is None:
        raise NotFoundError("No such member.")
    if not seen.accepted:
        await session.execute(update(Invite).where(Invite.id == member_id).values(role=role))
    elif seen.role.may(role):
        member = await _membership(session, member_id)
        if seen.role is not role:
            await _loses(session, member, role)
        member.role = role
        await session.flush()
        await _access_ended(session, household_id)
    else:
        member = await _membership(session, member_id)
        meter_ids = await _meters_of(session, household_id)
        await join(
            session,
            household_id=household_id,
            customer_id=member.customer_id,
            role=role,
            meter_id=meter_ids[0],
            how="OWNER",
        )
    await _call_live(session, household_id)


async def lock_household(session: AsyncSession, household_id: str) -> None:
    """Hold a household's row, after its meter's; see above."""
    await _lock(session, household_id)


async def others_in(session: AsyncSession, household_id: str, customer_id: str) -> list[str]:
    """The other members of a household."""
    rows = await session.scalars(
        select(Membership.customer_id)
        .where(Membership.household_id == household_id, Membership.customer_id != customer_id)
        .order_by(Membership.customer_id)
    )
    return list(rows)


async def end_invites(session: AsyncSession, household_id: str) -> None:
    """End a household's open invitations, for it has moved out."""
    await session.execute(
        update(Invite)
        .where(Invite.household_id == household_id, Invite.accepted_at.is_(None), Invite.ended_at.is_(None))
        .values(ended_at=func.now(), ended_reason="MOVED_OUT")
    )


async def _household_of(session: AsyncSession, member_id: str) -> str:
    """Return the household of a member or an invitation. Raises NotFoundError."""
    found: str | None = None
    if is_id(member_id, "mem"):
        found = await session.scalar(select(Membership.household_id).where(Membership.id == member_id))
    elif is_id(member_id, "inv"):
        found = await session.scalar(select(Invite.household_id).where(Invite.id == member_id))
    if found is None:
        raise NotFoundError("No such member.")
    return found


async def _enter(session: AsyncSession, customer_id: str, household_id: str | None, role: HouseholdRole) -> str:
    """Hold a household of this customer, whose part reaches ``role``. Strangers do not get as far as the lock."""
    missing = NotFoundError("No such member.")
    if household_id is None or await _role_in(session, household_id, customer_id) is None:
        raise missing
    await _lock(session, household_id)
    mine = await _role_in(session, household_id, customer_id)
    if mine is None or not await _meters_of(session, household_id):
        raise missing
    if not mine.may(role):
        raise ForbiddenError(_ONLY_OWNERS)
    return household_id


async def _require_owner(session: AsyncSession, household_id: str, customer_id: str) -> None:
    if await _role_in(session, household_id, customer_id) is not HouseholdRole.OWNER:
        raise ForbiddenError(_ONLY_OWNERS)


async def _loses(session: AsyncSession, member: Membership, role: HouseholdRole) -> None:
    """Before somebody's part grows less: an owner must be left, and whom a past owner invited is invited no more."""
    if member.role != HouseholdRole.OWNER or role is HouseholdRole.OWNER:
        return
    owners = await session.scalar(
        select(func.count())
        .select_from(Membership)
        .where(Membership.household_id == member.household_id, Membership.role == HouseholdRole.OWNER)
    )
    if (owners or 0) <= 1:
        raise ForbiddenError(_LAST_OWNER)
    await session.execute(
        update(Invite)
        .where(Invite.household_id == member.household_id, Invite.invited_by == member.customer_id, *OPEN_INVITE)
        .values(ended_at=func.now(), ended_reason="WITHDRAWN")
    )


async def _tell_others(session: AsyncSession, household_id: str, customer_id: str, meter_id: str, how: str) -> None:
    told = await others_in(session, household_id, customer_id)
    if told:
        label = (await session.get_one(Meter, meter_id)).label
        await publish(session, AccessNews(new_id("acc"), meter_id, label, how, told))


async def _access_ended(session: AsyncSession, household_id: str) -> None:
    for meter_id in await _meters_of(session, household_id):
        await publish(session, AccessEnded(meter_id))


async def _call_live(session: AsyncSession, household_id: str) -> None:
    """Wake the live subscriptions on the household's meters: each looks again whether it may still look."""
    for meter_id in await _meters_of(session, household_id):
        await notify(session, LIVE, meter_id)


async def _lock(session: AsyncSession, household_id: str) -> None:
    await session.get_one(Household, household_id, with_for_update={"key_share": True}, populate_existing=True)


async def _role_in(session: AsyncSession, household_id: str, customer_id: str) -> HouseholdRole | None:
    found = await session.scalar(
        select(Membership.role).where(Membership.household_id == household_id, Membership.customer_id == customer_id)
    )
    return None if found is None else HouseholdRole(found)


async def _membership(session: AsyncSession, member_id: str) -> Membership:
    return (
        await session.scalars(
            select(Membership).where(Membership.id == member_id).execution_options(populate_existing=True)
        )
    ).one()


async def _meters_of(session: AsyncSession, household_id: str) -> list[str]:
    return list(await session.scalars(select(Meter.id).where(Meter.household_id == household_id).order_by(Meter.id)))


async def _people(session: AsyncSession, household_id: str) -> int:
    counts: Sequence[int | None] = [
        await session.scalar(select(func.count()).select_from(model).where(*where))
        for model, where in (
            (Membership, (Membership.household_id == household_id,)),
            (Invite, (Invite.household_id == household_id, *OPEN_INVITE)),
        )
    ]
    return sum(count or 0 for count in counts)


async def _end_expired(session: AsyncSession, household_id: str) -> None:
    """An invitation that has run out still holds its number's place, which is to be free."""
    await session.execute(
        update(Invite)
        .where(
            Invite.household_id == household_id,
            Invite.accepted_at.is_(None),
            Invite.ended_at.is_(None),
            Invite.expires_at <= func.now(),
        )
        .values(ended_at=func.now(), ended_reason="EXPIRED")
    )
