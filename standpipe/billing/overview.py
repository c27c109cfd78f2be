"""The home screen's view of meters, read in a fixed number of statements however many meters there are.

The three balances stand apart: what the ledger says, what the meter last said (and when), and what is on its way.
``ledger = on_meter + in_flight − used_since_report``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Row, Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.forecast import Forecast
from standpipe.billing.wallets import wallet_of
from standpipe.households.models import Membership
from standpipe.ledger.dues import Dues, dues_of_many
from standpipe.ledger.models import Account, AccountKind
from standpipe.meters.due import MeterDue
from standpipe.meters.models import CommandKind, Meter, MeterCommand, MeterState, WalletKind
from standpipe.platform.units import local_midnight, period_of
from standpipe.readings.models import DailyUsage
from standpipe.tariffs.bought import bought_by_day
from standpipe.tariffs.catalogue import Contract, contracts
from standpipe.tariffs.periods import Segment, TariffInForce
from standpipe.tariffs.pricing import Place
from standpipe.tariffs.purchases import place_after
from standpipe.utilities.models import Utility

FORECAST_DAYS = 28
_DAY = timedelta(days=1)
_Row = Row[Meter, str, MeterState | None, int | None, int | None, Utility, int]


@dataclass(frozen=True, slots=True)
class VendRules:
    """The utility's rules for a meter's top-ups; see ``utilities.models.Utility``."""

    debt_share_percent: int
    debt_weekly_cap_minor: int | None
    guaranteed_minor: int
    emergency_credit_minor: int
    emergency_threshold_minor: int


@dataclass(frozen=True, slots=True)
class MeterView:
    """One meter for its reader. ``on_meter`` is None until the meter has spoken; silence is not zero.

    ``on_meter``, ``in_flight`` (on its way there) and ``granted`` (the total that we state) are in the meter's own
    unit. A VOLUME meter holds no money: its ledger is what makes no whole unit of water, and ``place`` is among its
    purchases, of ``bought_this_period_ml`` in all.
    ``dues`` is what the meter owes; ``place`` is where it stands in this period's prices, ``segment`` today's terms.
    """

    id: str
    serial: str
    label: str
    time_zone: str
    currency: str
    role: str
    ledger_minor: int
    dues: Dues
    rules: VendRules
    on_meter: int | None
    on_meter_as_of: datetime | None
    in_flight: int
    granted: int
    last_seen_at: datetime | None
    online: bool
    battery_percent: int | None
    valve: str
    valve_reason: str
    valve_changed_at: datetime | None
    valve_pending: str | None
    utility_id: str
    tariff_id: str
    first_day: date
    contract: Contract
    segment: Segment
    place: Place
    tariff: TariffInForce
    next_tariff: TariffInForce | None
    used_this_period_ml: int
    period_start: date
    period_end: date
    lasts: Forecast | None
    wallet_kind: WalletKind
    bought_this_period_ml: int
    # What quotes and signals are computed from, so that no second read is needed.
    today: date

    @property
    def history_start(self) -> date:
        """The first day that may be shown to the household: what was before belongs to those who left."""
        return self.contract.tenancy_start(self.today) or date.min

    @property
    def history_since(self) -> datetime | None:
        """The instant at which that day begins, or they took over on it; None where all of the history is theirs."""
        start = self.contract.tenancy_start(self.today)
        if start is None:
            return None
        return self.contract.came_at(self.today) or local_midnight(start, ZoneInfo(self.time_zone))

    @property
    def volume_left_ml(self) -> int | None:
        """Total that a VOLUME meter holds and will yet get, in ml; None for a MONEY meter, and until it has spoken."""
        if self.wallet_kind is not WalletKind.VOLUME or self.on_meter is None:
            return None
        return self.on_meter + self.in_flight


async def meters_of_customer(
    session: AsyncSession,
    customer_id: str,
    now: datetime,
    *,
    offline_after: timedelta,
    first: int,
    after: str | None,
) -> list[MeterView]:
    """This customer's meters in order of id, up to ``first`` + 1: one more tells that there is a next page."""
    query = _meters().where(Membership.customer_id == customer_id)
    if after is not None:
        query = query.where(Meter.id > after)
    rows = (await session.execute(query.order_by(Meter.id).limit(first + 1))).all()
    return await _views(session, rows, now, offline_after)


async def meters_by_id(
    session: AsyncSession, customer_id: str, ids: Sequence[str], now: datetime, *, offline_after: timedelta
) -> dict[str, MeterView]:
    """Those of these meters that this customer's households have; the others are left out, whatever the reason."""
    rows = (await session.execute(_meters().where(Membership.customer_id == customer_id, Meter.id.in_(ids)))).all()
    return {view.id: view for view in await _views(session, rows, now, offline_after)}


async def meter_view(
    session: AsyncSession, meter_id: str, now: datetime, *, offline_after: timedelta
) -> MeterView | None:
    """``meter_views`` for one; None where it has no household."""
    return (await meter_views(session, [meter_id], now, offline_after=offline_after)).get(meter_id)


async def meter_views(
    session: AsyncSession, ids: Collection[str], now: datetime, *, offline_after: timedelta
) -> dict[str, MeterView]:
    """Meters for our own use (alerts), with nobody's role; those without a household are left out."""
    rows = (await session.execute(_meters().where(Meter.id.in_(ids)))).all()
    # A row for each member.
    once = {row[0].id: row for row in rows}
    return {view.id: view for view in await _views(session, list(once.values()), now, offline_after)}


def _meters() -> Select[Meter, str, MeterState | None, int | None, int | None, Utility, int]:
    pending_valve = (
        select(MeterCommand.value)
        .where(
            MeterCommand.meter_id == Meter.id,
            MeterCommand.kind == CommandKind.VALVE,
            MeterCommand.status.in_(["QUEUED", "SENT", "ACKNOWLEDGED", "UNKNOWN"]),
        )
        .order_by(MeterCommand.sequence.desc())
        .limit(1)
        .scalar_subquery()
    )
    return (
        select(
            *(Meter, Membership.role, MeterState, Account.balance_minor, pending_valve, Utility),
            MeterDue.guaranteed_minor,
        )
        .join(Membership, Membership.household_id == Meter.household_id)
        .join(Utility, Utility.id == Meter.utility_id)
        .join(MeterDue, MeterDue.meter_id == Meter.id)
        .outerjoin(MeterState, MeterState.meter_id == Meter.id)
        .outerjoin(
            Account,
            and_(
                Account.kind == AccountKind.WALLET,
                Account.owner_id == Meter.id,
                Account.currency == Meter.currency,
            ),
        )
        .execution_options(populate_existing=True)
    )


async def _views(
    session: AsyncSession,
    rows: Sequence[_Row],
    now: datetime,
    offline_after: timedelta,
) -> list[MeterView]:
    if not rows:
        return []
    ids = [row[0].id for row in rows]
    known = await contracts(session, {row[0].id: (row[0].tariff_id, _first_day(row[0])) for row in rows})
    dues = await dues_of_many(session, ids, now)
    daily = await _recent_days(session, ids, now)
    of_volume = [row[0].id for row in rows if row[0].wallet_kind == WalletKind.VOLUME]
    bought = await bought_by_day(session, of_volume, period_of((now - _DAY).date())[0]) if of_volume else {}
    return [
        _view(
            *(row, known[row[0].id], dues.get(row[0].id, Dues()), daily.get(row[0].id, {})),
            *(bought.get(row[0].id, {}), now, offline_after),
        )
        for row in rows
    ]


def _first_day(meter: Meter) -> date:
    return meter.installed_at.astimezone(ZoneInfo(meter.time_zone)).date()


async def _recent_days(session: AsyncSession, meter_ids: Sequence[str], now: datetime) -> dict[str, dict[date, int]]:
    """Daily volumes that reach back over this period and the forecast's days; one statement for all meters."""
    since = (now - timedelta(days=FORECAST_DAYS + 5)).date()
    rows = await session.execute(
        select(DailyUsage.meter_id, DailyUsage.day, DailyUsage.volume_ml).where(
            DailyUsage.meter_id.in_(meter_ids), DailyUsage.day >= func.least(since, period_of(since)[0])
        )
    )
    found: dict[str, dict[date, int]] = {}
    for meter_id, day, volume_ml in rows:
        found.setdefault(meter_id, {})[day] = volume_ml
    return found


def _rules_of(meter: Meter, utility: Utility, guaranteed_minor: int) -> VendRules:
    # As ``emergency.activate`` rules.
    may_have_reserve = meter.closed_at is None and wallet_of(meter.wallet_kind).deducts
    return VendRules(
        debt_share_percent=utility.debt_share_percent,
        debt_weekly_cap_minor=utility.debt_weekly_cap_minor,
        guaranteed_minor=guaranteed_minor,
        emergency_credit_minor=utility.emergency_credit_minor if may_have_reserve else 0,
        emergency_threshold_minor=utility.emergency_threshold_minor,
    )


def _view(
    row: _Row,
    contract: Contract,
    dues: Dues,
    daily: dict[date, int],
    bought: dict[date, int],
    now: datetime,
    offline_after: timedelta,
) -> MeterView:
    meter, role, state, balance_minor, pending_valve, utility, guaranteed_minor = row
    today = now.astimezone(ZoneInfo(meter.time_zone)).date()
    start, end = period_of(today)
    use = {day: volume for day, volume in daily.items() if start <= day < end}
    bought = {day: volume for day, volume in bought.items() if start <= day < end}
    counted = wallet_of(meter.wallet_kind).counted(use, bought)
    segment, place = place_after(contract.segments(start), counted, today)
    mine = contract.tenancy_start(today) or date.min
    heard = state if state is not None and state.stated_at is not None else None
    view = MeterView(
        id=meter.id,
        serial=meter.serial,
        label=meter.label,
        time_zone=meter.time_zone,
        currency=meter.currency,
        role=role,
        ledger_minor=balance_minor or 0,
        dues=dues,
        rules=_rules_of(meter, utility, guaranteed_minor),
        on_meter=state.credit_remaining if state else None,
        on_meter_as_of=state.stated_at if state else None,
        in_flight=max(meter.credit_granted - (heard.credit_accepted if heard else 0), 0),
        granted=meter.credit_granted,
        last_seen_at=state.last_seen_at if state else None,
        online=state is not None and now - state.last_seen_at < offline_after,
        battery_percent=state.battery_percent if state else None,
        valve=state.valve if state else "UNKNOWN",
        valve_reason=state.valve_reason if state else "UNKNOWN",
        valve_changed_at=state.valve_changed_at if state else None,
        valve_pending=None if pending_valve is None else ("OPEN", "CLOSED", "RESTRICTED")[pending_valve],
        utility_id=meter.utility_id,
        tariff_id=meter.tariff_id,
        first_day=_first_day(meter),
        contract=contract,
        segment=segment,
        place=place,
        tariff=segment.version,
        next_tariff=contract.next_version(today),
        used_this_period_ml=sum(volume_ml for day, volume_ml in use.items() if day >= mine),
        period_start=start,
        period_end=end,
        lasts=None,
        wallet_kind=WalletKind(meter.wallet_kind),
        bought_this_period_ml=sum(volume_ml for day, volume_ml in bought.items() if day >= mine),
        today=today,
    )
    recent = [daily[day] for day in sorted(daily) if mine <= day < today][-FORECAST_DAYS:]
    return replace(view, lasts=_lasts(view, recent))


def _lasts(view: MeterView, recent_ml: list[int]) -> Forecast | None:
    """Forecast how long the present credit lasts at the use of the last whole days."""
    wallet = wallet_of(view.wallet_kind)
    return wallet.lasts(view.place, view.ledger_minor, view.volume_left_ml, recent_ml, view.today)
