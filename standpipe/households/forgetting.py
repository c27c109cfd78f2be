"""Customers who ask to be forgotten. The id stays, as a pseudonym: the ledger and the other members' history need it.

What this room holds goes at once, in the transaction that marks the customer; the other rooms forget their parts when
they hear of it (``CustomerForgotten``). What stays, and why: docs/decisions/0023-being-forgotten.md.
"""

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.identities import forget_identities
from standpipe.households.models import (
    Customer,
    CustomerSession,
    Household,
    HouseholdRole,
    Invite,
    Membership,
    RefreshToken,
    SignInCode,
)
from standpipe.households.sessions import EndReason, end_sessions
from standpipe.outbox.facts import CustomerForgotten, publish
from standpipe.platform.errors import ForbiddenError, InvalidInputError, NotFoundError
from standpipe.platform.language import phrase
from standpipe.platform.notify import LIVE, notify

GONE = "forgotten:"
"""Prefix that stands in place of a phone number: no number, and unique with the id behind it."""


async def is_present(session: AsyncSession, customer_id: str) -> bool:
    """Tell whether there is such a customer, who has not asked to be forgotten."""
    found = select(Customer.id).where(Customer.id == customer_id, Customer.deleted_at.is_(None))
    return await session.scalar(found) is not None


async def forget(session: AsyncSession, *, customer_id: str, confirm: str) -> None:
    """Forget a customer; again, nothing more happens. ``confirm``: their own phone number, typed.

    Raises NotFoundError, InvalidInputError where ``confirm`` is another number, ForbiddenError for the last owner of a
    household that has other members.
    """
    customer = await session.get(Customer, customer_id, with_for_update=True, populate_existing=True)
    if customer is None:
        raise NotFoundError("No such customer.")
    if customer.deleted_at is not None:
        return
    phone = customer.phone
    if "".join(confirm.split()) != phone:
        raise InvalidInputError(phrase("Type your own phone number, as it is shown, to confirm."), ("confirm",))
    emptied = await _leave_households(session, customer_id)
    await _end_sign_in(session, customer_id, phone)
    await session.execute(
        delete(Invite).where(
            or_(Invite.phone == phone, (Invite.invited_by == customer_id) & Invite.accepted_at.is_(None))
        )
    )
    customer.phone, customer.name, customer.language = f"{GONE}{customer_id}", "", "en"
    customer.deleted_at = func.now()
    await session.flush()
    await publish(session, CustomerForgotten(customer_id, phone, emptied))


async def _leave_households(session: AsyncSession, customer_id: str) -> list[str]:
    """End all memberships; returns the households in which nobody is left.

    Households are locked in order of id: two members who leave at once must not each take the other for the owner who
    stays.
    """
    mine = select(Membership.household_id).where(Membership.customer_id == customer_id)
    households = await session.scalars(
        select(Household).where(Household.id.in_(mine)).order_by(Household.id).with_for_update()
    )
    emptied = []
    for household in households.all():
        members = (await session.scalars(select(Membership).where(Membership.household_id == household.id))).all()
        owns = any(one.customer_id == customer_id and one.role == HouseholdRole.OWNER for one in members)
        left = [one.role for one in members if one.customer_id != customer_id]
        if owns and left and HouseholdRole.OWNER not in left:
            raise ForbiddenError(
                phrase(
                    "You are the last owner of a household with other members. "
                    "Make one of them an owner first, or remove them."
                )
            )
        if not left:
            # Often their own name; with nobody left there is nobody to whom it would say anything.
            household.name = ""
            emptied.append(household.id)
    await session.execute(delete(Membership).where(Membership.customer_id == customer_id))
    return emptied


async def _end_sign_in(session: AsyncSession, customer_id: str, phone: str) -> None:
    sessions = select(CustomerSession.id).where(CustomerSession.customer_id == customer_id)
    await session.execute(delete(RefreshToken).where(RefreshToken.session_id.in_(sessions)))
    # Ended, not deleted: an access token that is still in time must find its session, and find it ended.
    await end_sessions(session, customer_id, EndReason.DELETED)
    await notify(session, LIVE, customer_id)
    await session.execute(update(CustomerSession).where(CustomerSession.customer_id == customer_id).values(label=""))
    await forget_identities(session, customer_id)
    await session.execute(delete(SignInCode).where(SignInCode.phone == phone))
