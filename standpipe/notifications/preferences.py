"""Preferences about what a customer is told, and when: read, and changed in part."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from babel.core import Locale, UnknownLocaleError
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import Customer, Membership
from standpipe.meters.models import Meter
from standpipe.notifications.models import Delivery, DeliveryStatus, NotificationPreference, NotifyChannel
from standpipe.notifications.rules import THRESHOLDS_DAYS
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase
from standpipe.platform.notify import WORK, notify

MAX_THRESHOLDS = 5
MAX_DAYS = 30
OFFERED = (NotifyChannel.PUSH,)
"""The channels that alerts go out by."""
_KNOWN = frozenset(channel.value for channel in NotifyChannel)
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_MAX_TAG = 35  # RFC 5646 §4.4.1: what software must at least have room for.


@dataclass(frozen=True, slots=True)
class Preferences:
    """Preferences in force; ``quiet_from`` and ``quiet_to`` ("HH:MM") are there together or not at all."""

    language: str
    days_left: tuple[int, ...] = THRESHOLDS_DAYS
    channels: tuple[str, ...] = tuple(OFFERED)
    quiet_from: str | None = None
    quiet_to: str | None = None


@dataclass(frozen=True, slots=True)
class PreferencesChange:
    """A change of preferences; None leaves what is. ``quiet`` holds "quietFrom" and "quietTo" as far as given."""

    language: str | None = None
    days_left: Sequence[int] | None = None
    channels: Sequence[str] | None = None
    quiet: Mapping[str, str | None] = field(default_factory=dict)


async def read_preferences(session: AsyncSession, customer_id: str) -> Preferences:
    """The customer's preferences; the usual ones where they have said nothing."""
    customer = await session.get_one(Customer, customer_id)
    row = await session.get(NotificationPreference, customer_id)
    if row is None:
        return Preferences(customer.language)
    return _as_value(customer, row)


async def change_preferences(session: AsyncSession, *, customer_id: str, change: PreferencesChange) -> Preferences:
    """Change what is named, and let pushes that waited for quiet hours be looked at anew. Raises InvalidInputError."""
    customer = await session.get_one(Customer, customer_id, with_for_update={"key_share": True})
    usual = {"days_left": list(THRESHOLDS_DAYS), "channels": list(OFFERED)}
    await session.execute(
        insert(NotificationPreference).values(customer_id=customer_id, **usual).on_conflict_do_nothing()
    )
    row = await session.get_one(NotificationPreference, customer_id, with_for_update=True, populate_existing=True)
    if change.language is not None:
        customer.language = language_tag(change.language)
    if change.days_left is not None:
        row.days_left = _thresholds(change.days_left)
    if change.channels is not None:
        row.channels = _channels(change.channels)
    if change.quiet:
        row.quiet_from, row.quiet_to = _quiet(row, change.quiet)
    await session.flush()
    waiting = (Delivery.customer_id == customer_id, Delivery.status == DeliveryStatus.QUEUED, Delivery.attempts == 0)
    await session.execute(update(Delivery).where(*waiting, Delivery.due_at > func.now()).values(due_at=func.now()))
    await notify(session, WORK, "deliveries")
    return _as_value(customer, row)


async def days_left_of_members(session: AsyncSession, meter_id: str) -> dict[str, tuple[int, ...]]:
    """The own thresholds, in days, of each member of the meter's household."""
    rows = await session.execute(
        select(Membership.customer_id, NotificationPreference.days_left)
        .join(Meter, Meter.household_id == Membership.household_id)
        .outerjoin(NotificationPreference, NotificationPreference.customer_id == Membership.customer_id)
        .where(Meter.id == meter_id)
    )
    found: dict[str, tuple[int, ...]] = {}
    for customer_id, days in rows:
        said: list[int] | None = days
        found[customer_id] = THRESHOLDS_DAYS if said is None else tuple(said)
    return found


def language_tag(text: str) -> str:
    """A language that Babel knows, as BCP 47 writes it. Raises InvalidInputError."""
    try:
        known = str(Locale.parse(text[: _MAX_TAG + 1].replace("_", "-"), sep="-"))
    except (UnknownLocaleError, ValueError):
        raise InvalidInputError(phrase('Not a known language; write "sw" or "fr-CI".'), ("language",)) from None
    return known.replace("_", "-")


def _as_value(customer: Customer, row: NotificationPreference) -> Preferences:
    channels = tuple(channel for channel in row.channels if channel in _KNOWN)
    return Preferences(customer.language, tuple(row.days_left), channels, row.quiet_from, row.quiet_to)


def _thresholds(days_left: Sequence[int]) -> list[int]:
    if len(days_left) > MAX_THRESHOLDS or len(set(days_left)) != len(days_left):
        raise InvalidInputError(phrase("At most {most} thresholds, each once.", most=MAX_THRESHOLDS), ("daysLeft",))
    if any(not 1 <= days <= MAX_DAYS for days in days_left):
        raise InvalidInputError(phrase("A threshold is 1 to {most} days.", most=MAX_DAYS), ("daysLeft",))
    return sorted(days_left, reverse=True)


def _channels(channels: Sequence[str]) -> list[str]:
    for channel in channels:
        if channel not in OFFERED:
            raise InvalidInputError(phrase("Alerts do not go out by {channel} here.", channel=channel), ("channels",))
    return list(dict.fromkeys(channels))


def _quiet(row: NotificationPreference, change: Mapping[str, str | None]) -> tuple[str | None, str | None]:
    """Both ends of the quiet hours; (None, None) where either was taken away."""
    for name, text in change.items():
        if text is not None and not _CLOCK.fullmatch(text):
            raise InvalidInputError(phrase('Write a time of day as "HH:MM", 00:00 to 23:59.'), (name,))
    if None in change.values():
        return None, None
    start, end = change.get("quietFrom", row.quiet_from), change.get("quietTo", row.quiet_to)
    if start is None or end is None:
        raise InvalidInputError(phrase("Quiet hours need both quietFrom and quietTo."), tuple(change))
    if start == end:
        raise InvalidInputError(phrase("Quiet hours begin and end at different times."), ("quietTo",))
    return start, end
