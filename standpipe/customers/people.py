"""Customers as plain values."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Customer


@dataclass(frozen=True, slots=True)
class Person:
    """Who a customer is, for their own eyes."""

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
