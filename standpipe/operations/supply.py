"""Supply of meters: terms, tenancies, what happens when the credit ends, friendly hours, releases."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from standpipe.billing import supply_terms as terms
from standpipe.billing.price_tables import push_terms
from standpipe.meters.access import find_by_account, locked_by_serial
from standpipe.operations.find import utility_of
from standpipe.operations.operation import Desk, operation
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.units import to_minor
from standpipe.supply import utility_policies, zero_credit_lookup
from standpipe.supply.zero_credit import ZeroCreditPolicy
from standpipe.tariffs.models import SupplyTerms, Tariff
from standpipe.utilities.operators import ANYBODY, FIELD_WORK

NO_CAP = -1
"""Value of a weekly cap on debt recovery that ends the cap."""


@dataclass(frozen=True, slots=True)
class MeterSupply:
    """A meter's supply terms in order of time, their tariffs' codes by id, and what it is told to do at zero.

    ``last_told``: what it was last told to do at zero; None: not known.
    """

    terms: tuple[SupplyTerms, ...]
    codes: Mapping[str, str]
    at_zero: ZeroCreditPolicy
    last_told: str | None


@dataclass(frozen=True, slots=True)
class UtilityPolicies:
    """Changes to what a utility rules for all its meters; None leaves a thing as it is.

    ``friendly``: parts of the friendly hours by name, None takes a part away. Amounts in major units of the utility's
    currency; ``debt_weekly_cap`` may be ``NO_CAP``.
    """

    zero_credit: str | None = None
    friendly: Mapping[str, Any] | None = None
    guaranteed_ml: int | None = None
    emergency_credit: Decimal | None = None
    emergency_threshold: Decimal | None = None
    debt_share_percent: int | None = None
    debt_weekly_cap: Decimal | None = None


@operation("supply.show", may=ANYBODY, reads=True)
async def show(desk: Desk, serial: str) -> MeterSupply:
    """Read a meter's terms, and what it is told to do at zero now. Raises NotFoundError."""
    meter = await find_by_account(desk.session, serial)
    if meter is None:
        raise NotFoundError(f"No meter has the serial {serial}.")
    rows = await terms.terms_of(desk.session, meter)
    tariffs = await desk.session.execute(
        select(Tariff.id, Tariff.code).where(Tariff.id.in_({row.tariff_id for row in rows}))
    )
    at_zero = await zero_credit_lookup.order_of(desk.session, meter, desk.now)
    return MeterSupply(tuple(rows), {tariff_id: code for tariff_id, code in tariffs}, at_zero, meter.at_zero)  # noqa: C416 - dict() does not take rows.


@operation("supply.set", may=FIELD_WORK)
async def set_terms(desk: Desk, serial: str, from_day: date, change: terms.Terms) -> bool:
    """Change how a meter is supplied from a day on; what was charged since is priced anew.

    Returns whether a price table is on its way to the meter. Raises NotFoundError, InvalidInputError.
    """
    await terms.set_terms(desk.session, operator=desk.by, serial=serial, from_day=from_day, change=change, now=desk.now)
    if (change.tariff, change.households, change.groups) == (None, None, None):
        return False
    return await push_terms(desk.session, await locked_by_serial(desk.session, serial), from_day, desk.now)


@operation("supply.move_out", may=FIELD_WORK)
async def move_out(desk: Desk, serial: str, day: date) -> terms.Closing:
    """End a tenancy; ``day`` is the first that is not theirs. Moves no money.

    Raises NotFoundError, InvalidInputError.
    """
    return await terms.move_out(desk.session, operator=desk.by, serial=serial, day=day, now=desk.now)


@operation("supply.move_in", may=FIELD_WORK)
async def move_in(desk: Desk, serial: str, household_id: str, day: date) -> None:
    """Begin a tenancy; ``day`` is its first. Raises NotFoundError, InvalidInputError."""
    await terms.move_in(desk.session, operator=desk.by, serial=serial, household_id=household_id, day=day, now=desk.now)


@operation("supply.set_class", may=FIELD_WORK)
async def set_class(desk: Desk, utility_id: str | None, code: str, *, name: str, zero_credit: str) -> None:
    """Make or change a class of customers. Raises NotFoundError, InvalidInputError."""
    utility = await utility_of(desk.session, utility_id)
    await utility_policies.set_class(
        desk.session, operator=desk.by, utility_id=utility.id, code=code, name=name, cut_off=zero_credit
    )


@operation("utilities.set_policy", may=FIELD_WORK)
async def set_policies(desk: Desk, utility_id: str | None, change: UtilityPolicies) -> None:
    """Change what a utility rules for all its meters. Raises NotFoundError, InvalidInputError."""
    utility = await utility_of(desk.session, utility_id)
    cap = change.debt_weekly_cap
    rules = utility_policies.UtilityRules(
        cut_off=change.zero_credit,
        friendly=_merged(utility.friendly, change.friendly) if change.friendly else None,
        guaranteed_ml=change.guaranteed_ml,
        emergency_credit_minor=_minor(change.emergency_credit, utility.currency),
        emergency_threshold_minor=_minor(change.emergency_threshold, utility.currency),
        debt_share_percent=change.debt_share_percent,
        debt_weekly_cap_minor=NO_CAP if cap == NO_CAP else _minor(cap, utility.currency),
    )
    await utility_policies.set_rules(desk.session, operator=desk.by, utility_id=utility.id, change=rules)


@operation("supply.release", may=FIELD_WORK)
async def release(desk: Desk, utility_id: str | None, *, reason: str, until: datetime | None) -> None:
    """Let no meter of a utility cut off, whatever its credit (fire).

    ``until`` is the utility's own wall clock, without an offset; None: until it is ended. Raises InvalidInputError.
    """
    utility = await utility_of(desk.session, utility_id)
    ends_at = None if until is None else until.replace(tzinfo=ZoneInfo(utility.time_zone)).astimezone(UTC)
    await utility_policies.release(
        desk.session, operator=desk.by, utility_id=utility.id, reason=reason, until=ends_at, now=desk.now
    )


@operation("supply.end_release", may=FIELD_WORK)
async def end_release(desk: Desk, utility_id: str | None) -> None:
    """Go back to what the policies say. Raises InvalidInputError."""
    utility = await utility_of(desk.session, utility_id)
    await utility_policies.end_release(desk.session, operator=desk.by, utility_id=utility.id)


def _merged(before: Mapping[str, Any] | None, parts: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**(before or {}), **parts}
    if "days" in parts:
        merged["days"] = {**((before or {}).get("days") or {}), **parts["days"]}
    return {key: value for key, value in merged.items() if value is not None}


def _minor(amount: Decimal | None, currency: str) -> int | None:
    if amount is None:
        return None
    amount_minor = to_minor(amount, currency)
    if amount_minor < 0:
        raise InvalidInputError(f"{amount} is below zero.")
    return amount_minor
