"""A meter's supply, set by an operator: tariff, households, groups, cut-off policy, and who lives there (which
its people can say too: ``standpipe.billing.tenancy``).

Terms hold from a day on, which may be past: what was charged since is then priced anew, by difference, and months whose
statements are made show it as an adjustment. Every change stands in the audit trail, in its own transaction.
"""

import itertools
from dataclasses import asdict, dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.rounds import rate_now
from standpipe.billing.wallets import wallet_of
from standpipe.households.models import Household
from standpipe.ledger.dues import dues_of
from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.access import locked_by_serial
from standpipe.meters.claims import end_codes
from standpipe.meters.due import mark_due
from standpipe.meters.models import Meter, MeterState, WalletKind
from standpipe.meters.sharing import end_invites
from standpipe.outbox.facts import AccessEnded, publish
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.notify import LIVE, notify
from standpipe.supply.zero_credit_rules import cut_off_of
from standpipe.tariffs.models import SupplyTerms, Tariff, TariffVersion
from standpipe.tariffs.terms import Basis
from standpipe.utilities.operators import record

MAX_HOUSEHOLDS = 10_000


@dataclass(frozen=True, slots=True)
class Terms:
    """A meter's terms; ``cut_off`` is "" where its class rules. As a change, None leaves what was."""

    tariff: str | None = None
    households: int | None = None
    groups: tuple[str, ...] | None = None
    cut_off: str | None = None


@dataclass(frozen=True, slots=True)
class Closing:
    """Closing of a meter's account when a household leaves; amounts in minor units, what is owed positive.

    ``wallet_minor`` is the household's credit, of which ``on_its_way_minor`` had not reached the meter.
    """

    currency: str
    wallet_minor: int
    on_its_way_minor: int
    standing_minor: int
    arrears_minor: int
    emergency_minor: int


async def terms_of(session: AsyncSession, meter: Meter) -> list[SupplyTerms]:
    """All terms of a meter, oldest first."""
    rows = await session.scalars(
        select(SupplyTerms).where(SupplyTerms.meter_id == meter.id).order_by(SupplyTerms.from_day)
    )
    return list(rows)


async def set_terms(
    session: AsyncSession, *, operator: str, serial: str, from_day: date, change: Terms, now: datetime
) -> None:
    """Change how a meter is supplied, from a day on until its next terms.

    Raises NotFoundError, and InvalidInputError for a day before the meter's first, or a tariff that does not fit it.
    """
    meter = await locked_by_serial(session, serial)
    if change == Terms():
        raise InvalidInputError("Say what is to change.")
    row = await _row_on(session, meter, from_day)
    if change.tariff is not None:
        row.tariff_id = (await _fitting_tariff(session, meter, change.tariff)).id
    if change.households is not None:
        if not 1 <= change.households <= MAX_HOUSEHOLDS:
            raise InvalidInputError(f"A meter supplies 1 to {MAX_HOUSEHOLDS} households.", ("households",))
        row.households = change.households
    if change.groups is not None:
        row.groups = sorted({group.strip() for group in change.groups if group.strip()})
    if change.cut_off is not None:
        row.cut_off = cut_off_of(change.cut_off) if change.cut_off else None
    detail = {name: value for name, value in asdict(change).items() if value is not None}
    await _settle(session, meter, from_day, now)
    await _note(session, operator, "supply.set", meter, from_day, detail)


async def move_out(session: AsyncSession, *, operator: str, serial: str, day: date, now: datetime) -> Closing:
    """A household leaves: ``day`` is the first that is not theirs any more. Their members see the meter no longer.

    Tariff and number of households stay; what belonged to the people (groups, a policy of their own) does not. No
    money moves: the closing account says what a person has to give back or to ask for.
    Raises NotFoundError, and InvalidInputError for a day to come or before they came.
    """
    return await leave(session, await locked_by_serial(session, serial), by=operator, day=day, now=now)


async def leave(session: AsyncSession, meter: Meter, *, by: str, day: date, now: datetime) -> Closing:
    """``move_out`` of a locked meter; ``by``: the operator, or the member's customer id.

    Claim codes that are open end, and the household's invitations, unless it has other meters. Raises InvalidInputError
    as ``move_out``.
    """
    leaving = meter.household_id
    if leaving is None:
        raise InvalidInputError("Nobody lives there.")
    _require_past(meter, day, now)
    row = await _row_on(session, meter, day)
    rows = await terms_of(session, meter)
    since = _since(rows)
    if day <= since:
        raise InvalidInputError(f"They came on {since}; they cannot have left by {day}.", ("day",))
    for later in [row, *(one for one in rows if one.from_day > day)]:
        later.household_id, later.groups, later.cut_off = None, [], None
    meter.household_id = None
    # What they called it is theirs too.
    meter.label = meter.serial
    await _settle(session, meter, day, now)
    closing = await _closing(session, meter, now)
    await _people_change(session, meter)
    if await session.scalar(select(Meter.id).where(Meter.household_id == leaving).limit(1)) is None:
        await end_invites(session, leaving)
    await _note(session, by, "supply.move-out", meter, day, {"household": leaving, "closing": asdict(closing)})
    return closing


async def move_in(
    session: AsyncSession, *, operator: str, serial: str, household_id: str, day: date, now: datetime
) -> None:
    """A household comes: ``day`` is its first. Its members see the meter from now on.

    Raises NotFoundError, and InvalidInputError where somebody lives there, or for a day to come or before the last
    left.
    """
    meter = await locked_by_serial(session, serial)
    household = await session.get(Household, household_id)
    if household is None or household.utility_id != meter.utility_id:
        raise NotFoundError(f"This utility has no household {household_id}.")
    await settle_in(session, meter, household, by=operator, day=day, now=now)


async def settle_in(
    session: AsyncSession, meter: Meter, household: Household, *, by: str, day: date, now: datetime
) -> None:
    """``move_in`` at a locked meter; ``by``: the operator, or the customer id of who claimed it.

    Claim codes that are still open end. Raises InvalidInputError as ``move_in``.
    """
    if meter.household_id is not None:
        raise InvalidInputError("Somebody lives there; say first when they moved out.")
    _require_past(meter, day, now)
    rows = await terms_of(session, meter)
    taken = max((later.from_day for earlier, later in itertools.pairwise(rows)
                 if earlier.household_id is not None and later.household_id is None), default=date.min)  # fmt: skip
    if day < taken:
        raise InvalidInputError(f"Until {taken} somebody else lived there.", ("day",))
    row = await _row_on(session, meter, day)
    # Those who left may have paid until a moment ago, whatever day they gave: that is not for who comes today.
    row.came_at = now if taken > date.min and day == _today(meter, now) else None
    for later in [row, *(one for one in rows if one.from_day > day)]:
        later.household_id = household.id
    meter.household_id = household.id
    await _settle(session, meter, day, now)
    await _people_change(session, meter)
    await _note(session, by, "supply.move-in", meter, day, {"household": household.id})


async def _people_change(session: AsyncSession, meter: Meter) -> None:
    """Carry out what follows from other people: claim codes and standing orders end, and who looks looks again."""
    await end_codes(session, meter.id)
    await publish(session, AccessEnded(meter.id))
    await notify(session, LIVE, meter.id)


async def _row_on(session: AsyncSession, meter: Meter, day: date) -> SupplyTerms:
    """The terms that begin on a day: those that are there, else new ones that say what held so far.

    The terms that held before there were any are written down first, so that a change says what it changed.
    """
    first_day = meter.installed_at.astimezone(ZoneInfo(meter.time_zone)).date()
    if day < first_day:
        raise InvalidInputError(f"The meter is there since {first_day}.", ("day",))
    rows = await terms_of(session, meter)
    if not rows or rows[0].from_day > first_day:
        household_id = rows[0].household_id if rows else meter.household_id
        opened = SupplyTerms(
            meter_id=meter.id,
            from_day=first_day,
            tariff_id=meter.tariff_id,
            household_id=household_id,
            households=1,
            groups=[],
        )
        session.add(opened)
        rows.insert(0, opened)
    if all(row.household_id is None for row in rows):
        # Terms of before anybody noted who lived there.
        for row in rows:
            row.household_id = meter.household_id
    held = [row for row in rows if row.from_day <= day][-1]
    if held.from_day < day:
        held = SupplyTerms(
            meter_id=meter.id,
            from_day=day,
            tariff_id=held.tariff_id,
            household_id=held.household_id,
            households=held.households,
            groups=list(held.groups),
            cut_off=held.cut_off,
        )
        session.add(held)
    await session.flush()
    return held


async def _fitting_tariff(session: AsyncSession, meter: Meter, code: str) -> Tariff:
    tariff = await session.scalar(select(Tariff).where(Tariff.utility_id == meter.utility_id, Tariff.code == code))
    if tariff is None:
        raise InvalidInputError(f"The meter's utility has no tariff {code}.", ("tariff",))
    if tariff.currency != meter.currency:
        raise InvalidInputError(f"{code} is in {tariff.currency}, the meter in {meter.currency}.", ("tariff",))
    wallet, basis = WalletKind(meter.wallet_kind), Basis(tariff.basis)
    needed = wallet_of(wallet).basis
    if needed is not basis:
        raise InvalidInputError(
            f"{code} counts {basis.lower()}, which does not fit a {wallet} meter: that needs {needed.lower()}.",
            ("tariff",),
        )
    if await session.scalar(select(TariffVersion.id).where(TariffVersion.tariff_id == tariff.id).limit(1)) is None:
        raise InvalidInputError(f"{code} has no prices yet.", ("tariff",))
    return tariff


def _require_past(meter: Meter, day: date, now: datetime) -> None:
    if day > _today(meter, now):
        raise InvalidInputError(f"{day} is to come: say it on the day or after.", ("day",))


def _today(meter: Meter, now: datetime) -> date:
    return now.astimezone(ZoneInfo(meter.time_zone)).date()


def _since(rows: list[SupplyTerms]) -> date:
    """The first day of the tenancy that runs."""
    since = rows[0].from_day
    for earlier, later in itertools.pairwise(rows):
        if earlier.household_id != later.household_id:
            since = later.from_day
    return since


async def _settle(session: AsyncSession, meter: Meter, since: date, now: datetime) -> None:
    """Carry out what follows from changed terms: charges by difference, and what the meter is told to do at zero."""
    await session.flush()
    conn = await session.connection()
    await mark_due(conn, [meter.id], reprice_from=since)
    await rate_now(conn, meter.id, now)
    await session.refresh(meter)


async def _closing(session: AsyncSession, meter: Meter, now: datetime) -> Closing:
    dues = await dues_of(session, meter.id, now)
    state = await session.get(MeterState, meter.id)
    accepted = 0 if state is None else state.credit_accepted
    # Water on its way to a VOLUME meter was paid for when it was bought.
    on_its_way = max(meter.credit_granted - accepted, 0) if meter.unit == meter.currency else 0
    return Closing(
        currency=meter.currency,
        wallet_minor=await wallet_balance_minor(session, meter.id, meter.currency),
        on_its_way_minor=on_its_way,
        standing_minor=dues.standing_minor,
        arrears_minor=dues.debt_minor,
        emergency_minor=dues.emergency_minor,
    )


async def _note(
    session: AsyncSession, by: str, action: str, meter: Meter, day: date, detail: dict[str, object]
) -> None:
    detail = {"serial": meter.serial, "day": day.isoformat()} | detail
    await record(session, operator=by, action=action, subject_id=meter.id, detail=detail)
