"""Customers as other issuers of tokens know them: found by issuer and subject, opened or linked by phone number.

An e-mail address links nothing: whoever may write one into a token is not its owner.
"""

import hashlib

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import Customer, CustomerIdentity
from standpipe.platform.errors import NotAuthenticatedError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase


async def find_customer(session: AsyncSession, *, issuer: str, subject: str, signed_in_at_s: int) -> str | None:
    """The customer who is known so, or None.

    Raises NotAuthenticatedError where their account was deleted after this sign-in: an app left running must not open
    a new one.
    """
    query = (
        select(Customer.id, Customer.deleted_at)
        .join(CustomerIdentity, CustomerIdentity.customer_id == Customer.id)
        .where(CustomerIdentity.issuer == issuer, CustomerIdentity.subject.in_([subject, trace(issuer, subject)]))
    )
    known = (await session.execute(query)).all()
    if any(deleted_at is not None and signed_in_at_s <= deleted_at.timestamp() for _, deleted_at in known):
        raise NotAuthenticatedError(phrase("This account was deleted. Sign in again to open a new one."))
    return next((str(customer_id) for customer_id, deleted_at in known if deleted_at is None), None)


def trace(issuer: str, subject: str) -> str:
    """Return what stays of an identity whose customer was forgotten: enough to know it again, and no more."""
    return "forgotten:" + hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()


async def forget_identities(session: AsyncSession, customer_id: str) -> None:
    """Leave only traces of a customer's identities: an app left running must not open the account again."""
    rows = await session.scalars(select(CustomerIdentity).where(CustomerIdentity.customer_id == customer_id))
    for row in rows.all():
        await session.execute(
            delete(CustomerIdentity).where(
                CustomerIdentity.issuer == row.issuer, CustomerIdentity.subject == trace(row.issuer, row.subject)
            )
        )
        if not row.subject.startswith("forgotten:"):
            row.subject = trace(row.issuer, row.subject)
    await session.flush()


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
