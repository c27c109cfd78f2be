"""Customers as plain values."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import Customer
from standpipe.platform.errors import NotFoundError

_SHOWN = (4, 3)


@dataclass(frozen=True, slots=True)
class Person:
    """A customer, for their own eyes."""

    id: str
    phone: str
    language: str


async def read_person(session: AsyncSession, customer_id: str) -> Person | None:
    """The customer, or None; None too for one who was forgotten."""
    customer = await session.get(Customer, customer_id)
    return (
        None
        if customer is None or customer.deleted_at is not None
        else Person(customer.id, customer.phone, customer.language)
    )


async def language_of_phone(session: AsyncSession, phone: str) -> str:
    """The language of who has a number; English where nobody does."""
    return await session.scalar(select(Customer.language).where(Customer.phone == phone)) or "en"


def mask_phone(phone: str) -> str:
    """A phone number of which only ends are shown: ``+254•••678``."""
    first, last = _SHOWN
    return f"{phone[:first]}•••{phone[-last:]}" if len(phone) > first + last else "•••"


async def hold_customer(session: AsyncSession, customer_id: str) -> str:
    """The phone of a customer who cannot be forgotten before this transaction ends. Raises NotFoundError.

    Taken before meters and households: whoever is being forgotten holds their own row first.
    """
    held = select(Customer.phone).where(Customer.id == customer_id, Customer.deleted_at.is_(None))
    phone: str | None = await session.scalar(held.with_for_update(read=True, key_share=True))
    if phone is None:
        raise NotFoundError("No such customer.")
    return phone
