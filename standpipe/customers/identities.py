"""Customers as other issuers of tokens know them: found by issuer and subject, opened or linked by phone number.

An e-mail address links nothing: whoever may write one into a token is not its owner.
"""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Customer, CustomerIdentity
from standpipe.errors import NotAuthenticatedError
from standpipe.ids import new_id


async def find_customer(session: AsyncSession, *, issuer: str, subject: str, signed_in_at_s: int) -> str | None:
    """The customer who is known so, or None.

    Raises NotAuthenticatedError where their account was deleted after this sign-in: an app left running must not open
    a new one.
    """
    query = (
        select(Customer.id, Customer.deleted_at)
        .join(CustomerIdentity, CustomerIdentity.customer_id == Customer.id)
        .where(CustomerIdentity.issuer == issuer, CustomerIdentity.subject == subject)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None:
        return None
    customer_id, deleted_at = found
    if deleted_at is None:
        return str(customer_id)
    if signed_in_at_s <= deleted_at.timestamp():
        raise NotAuthenticatedError("This account was deleted. Sign in again to open a new one.")
    return None


async def link_by_phone(session: AsyncSession, *, issuer: str, subject: str, phone: str) -> str:
    """Note that whoever is known so has this number (E.164); opens the account where there is none."""
    await session.execute(
        insert(Customer).values(id=new_id("cus"), phone=phone).on_conflict_do_nothing(index_elements=["phone"])
    )
    customer_id = (await session.scalars(select(Customer.id).where(Customer.phone == phone))).one()
    # Known already: by a request at the same time, or as somebody whose account was deleted.
    await session.execute(
        insert(CustomerIdentity)
        .values(issuer=issuer, subject=subject, customer_id=customer_id)
        .on_conflict_do_update(index_elements=["issuer", "subject"], set_={"customer_id": customer_id})
    )
    return customer_id
