"""Rating: all that follows from a meter's readings, its terms and the day, from one state. Pure.

``decide`` validates what came in, rolls days up, brings every charge to what it is now by posting the difference,
accrues standing charges, prices the guaranteed water, and says what the meter is to do at zero, whom it concerns, and
the next instant at which time alone changes any of it. A late reading, a correction, a new tariff, other terms: each
only makes a meter due, and the same decision is taken again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from standpipe.billing.closing_rule import Closed, closes_next_at, month_to_close
from standpipe.billing.use import PeriodUse, priced_use
from standpipe.billing.wallets import wallet_of
from standpipe.ledger.charges import charge_lines
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Posting
from standpipe.meters.models import WalletKind
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import local_midnight, period_of
from standpipe.readings.judging import DayUse, Judged, Register, Surroundings, judge_reports
from standpipe.readings.raw import RawReadings
from standpipe.supply.zero_credit import LOOK_AGAIN, PolicyTerms, UtilityPolicy, ZeroCreditPolicy, zero_credit_policy
from standpipe.supply.zero_credit_rules import CutOff
from standpipe.tariffs.catalogue import Contract
from standpipe.tariffs.periods import UTILITY, Priced, Segment, price_standing, split_days
from standpipe.tariffs.pricing import charge_minor
from standpipe.tariffs.purchases import place_after

_DAY = timedelta(days=1)
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Charged:
    """The running total of a period's charges, by who gets it; ``revision`` counts its changes.

    ``volume_ml`` and ``version_id`` (the tariff version of its first day) are water's alone.
    """

    accounts: Mapping[str, int] = field(default_factory=dict)
    revision: int = 0
    volume_ml: int = 0
    version_id: str = ""

    @property
    def total_minor(self) -> int:
        """All of it."""
        return sum(self.accounts.values())


@dataclass(frozen=True, slots=True)
class AtZero:
    """Behaviour at zero: what the meter was told (None: unknown), what it certainly does, until when what waits holds.

    ``waiting_until``: of each such command that waits, when it becomes void. ``cannot``: it has refused to be told.
    """

    told: str | None
    held: CutOff | None
    waiting_until: tuple[datetime | None, ...]
    is_shut: bool
    cannot: bool = False


@dataclass(frozen=True, slots=True)
class MeterState:
    """A meter and all that its rating may look at.

    ``reprice_from``: what periods from this day's on cost may have changed. ``changed_days``: days whose roll-ups a
    person's decision has changed since the last rating. ``around.days`` holds every day of the periods that reports,
    ``reprice_from`` and ``changed_days`` touch, and of the present one.
    """

    meter_id: str
    utility_id: str
    currency: str
    wallet_kind: WalletKind
    register: Register
    closed_at: datetime | None
    reports: tuple[RawReadings, ...]
    around: Surroundings
    contract: Contract
    usage: Mapping[date, Charged]
    standing: Mapping[date, Charged]
    accrued_through: date | None
    statements: Closed
    bought_ml: Mapping[date, int]
    guaranteed_ml: int
    guaranteed_minor: int
    policy: UtilityPolicy
    policy_terms: tuple[PolicyTerms, ...]
    at_zero: AtZero
    reprice_from: date | None = None
    changed_days: frozenset[date] = frozenset()

    @property
    def zone(self) -> ZoneInfo:
        """The meter's time zone: its service days and billing periods are there."""
        return self.register.zone


@dataclass(frozen=True, slots=True)
class MonthUse:
    """A period's roll-up."""

    volume_ml: int
    days: int


@dataclass(frozen=True, slots=True)
class ZeroCreditChange:
    """``command``: what the meter is to be told (None: it knows, or will); until when what waits holds."""

    at_zero: CutOff
    command: CutOff | None
    until: datetime | None
    extends: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes that a rating makes; only what differs from before, but for periods that were touched."""

    judged: Judged
    months: Mapping[date, MonthUse]
    usage: Mapping[date, Charged]
    standing: Mapping[date, Charged]
    postings: tuple[Posting, ...]
    accrued_through: date | None
    guaranteed_minor: int
    zero_credit: ZeroCreditChange | None
    usage_recorded: bool
    due_next_at: datetime | None
    close_month: date | None


def decide(state: MeterState, now: datetime) -> Changes:
    """Rate one meter at an instant of the service clock. Raises NotFoundError where its tariff has no prices."""
    judged = judge_reports(state.register, state.around, state.reports)
    rating = _Rating(state, {**state.around.days, **judged.days}, now)
    changed_days = {*judged.days, *state.changed_days}
    touched = {period_of(day)[0] for day in changed_days}
    rating.charge_usage(touched)
    rating.charge_standing()
    zero_credit, look_at = _zero_credit(state, now)
    return Changes(
        judged=judged,
        months={month: use for month in sorted(touched) if (use := rating.month(month)).days},
        usage=rating.usage,
        standing=rating.standing,
        postings=tuple(rating.postings),
        accrued_through=rating.accrued_through,
        guaranteed_minor=rating.guaranteed_minor(),
        zero_credit=zero_credit,
        usage_recorded=bool(changed_days),
        due_next_at=_due_next_at(state, look_at, now),
        close_month=month_to_close(
            state.statements,
            installed_at=state.register.installed_at,
            closed_at=state.closed_at,
            zone=state.zone,
            now=now,
        ),
    )


class _Rating:
    """The charges of one meter, brought to what they are now."""

    def __init__(self, state: MeterState, days: Mapping[date, DayUse], now: datetime) -> None:
        self._state, self._days, self._now = state, days, now
        self._segments: dict[date, tuple[Segment, ...]] = {}
        self.usage: dict[date, Charged] = {}
        self.standing: dict[date, Charged] = {}
        self.postings: list[Posting] = []
        self.accrued_through = state.accrued_through

    def month(self, month: date) -> MonthUse:
        """A period's roll-up, from its days."""
        own = self._own_days(month)
        return MonthUse(sum(own.values()), len(own))

    def charge_usage(self, touched: Iterable[date]) -> None:
        """Bring the charges of these periods, and of those to be priced anew, up to date."""
        periods = set(touched)
        if self._state.reprice_from is not None:
            since = period_of(self._state.reprice_from)[0]
            periods.update(period for period in self._state.usage if period >= since)
        for period in sorted(periods):
            use = self._use(period)
            before = self._state.usage.get(period, Charged())
            priced = priced_use(use)
            changed = priced.accounts != before.accounts
            self.usage[period] = Charged(
                dict(priced.accounts) if changed else before.accounts,
                before.revision + changed,
                use.volume_ml,
                use.segments[0].version.version_id,
            )
            if changed:
                self._post("usage", AccountKind.WALLET, period, before, self.usage[period])

    def charge_standing(self) -> None:
        """Book the standing charges that have fallen due by the meter's today.

        Whether or not water runs, and whatever the valve does. The first time it starts with the running period, so
        that a meter taken over from another system is not charged for its past.
        """
        state = self._state
        periods: set[date] = set()
        today = min(self._now, state.closed_at or self._now).astimezone(state.zone).date()
        is_begun = state.accrued_through is not None or state.closed_at is None
        if is_begun and state.register.installed_at <= self._now and today > (state.accrued_through or date.min):
            period = period_of(state.accrued_through or today)[0]
            while period <= today:
                periods.add(period)
                period = period_of(period)[1]
            self.accrued_through = today
        if state.reprice_from is not None:
            since = period_of(state.reprice_from)[0]
            periods.update(period for period in state.standing if period >= since)
        if self.accrued_through is None:
            return
        for period in sorted(periods):
            before = state.standing.get(period)
            priced = price_standing(self._segments_of(period), self.accrued_through)
            self._standing_period(period, before, priced)

    def _standing_period(self, period: date, before: Charged | None, priced: Priced) -> None:
        known = before or Charged()
        changed = priced.accounts != known.accounts
        if before is None or changed:
            # A row tells that the period was accrued, even where nothing was due.
            self.standing[period] = Charged(dict(priced.accounts), known.revision + changed)
        if changed:
            self._post("standing", AccountKind.STANDING_DUE, period, known, self.standing[period])

    def guaranteed_minor(self) -> int:
        """Price the utility's guaranteed water at the present use, in minor units; top-ups go by that."""
        state = self._state
        if not state.guaranteed_ml:
            return 0
        today = self._now.astimezone(state.zone).date()
        period = period_of(today)[0]
        segments = self._segments_of(period)
        counted = wallet_of(state.wallet_kind).counted(self._own_days(period), state.bought_ml)
        _, place = place_after(segments, counted, today)
        return charge_minor(place.table, place.used_ml, state.guaranteed_ml, place.carried_minor)

    def _use(self, period: date) -> PeriodUse:
        segments = self._segments_of(period)
        own = self._own_days(period)
        return PeriodUse(segments, (sum(own.values()),) if len(segments) == 1 else split_days(segments, own))

    def _own_days(self, period: date) -> dict[date, int]:
        start, end = period_of(period)
        return {day: use.volume_ml for day, use in self._days.items() if start <= day < end}

    def _segments_of(self, period: date) -> tuple[Segment, ...]:
        if period not in self._segments:
            self._segments[period] = self._state.contract.segments(period)
        return self._segments[period]

    def _post(self, name: str, payer: AccountKind, period: date, before: Charged, after: Charged) -> None:
        state = self._state
        account = AccountRef(payer, state.meter_id, state.currency)
        lines = charge_lines(account, state.utility_id, before.accounts, after.accounts, own_code=UTILITY)
        self.postings.append(
            Posting(
                key=f"{name}:{state.meter_id}:{period.isoformat()}:r{after.revision}",
                kind=name.upper(),
                lines=lines,
                occurred_at=self._value_at(period),
                states_fact=True,
            )
        )

    def _value_at(self, period: date) -> datetime:
        """The instant at which a period's charge takes its place: in the oldest month from it on that is open."""
        made = self._state.statements.last_statement
        open_month = period if made is None or made < period else period_of(made)[1]
        first, last = (local_midnight(day, self._state.zone) for day in period_of(open_month))
        return min(max(self._now, first), last - _INSTANT)


def _zero_credit(state: MeterState, now: datetime) -> tuple[ZeroCreditChange | None, datetime | None]:
    """Decide what a meter is to be told about zero credit, and when to look at it again."""
    if state.closed_at is not None or state.at_zero.cannot:
        # A meter that cannot be told does what it left the factory with, and is not asked every day anew (M22).
        return None, None
    policy = policy_of(state, now)
    if policy is None:
        # Rules that nobody can read cut nobody off and spare nobody: what was told last stands.
        return None, now + LOOK_AGAIN
    at_zero = state.at_zero
    is_news = (at_zero.told or at_zero.held) != policy.at_zero
    extends = not is_news and any(until != policy.until for until in at_zero.waiting_until)
    change = ZeroCreditChange(policy.at_zero, policy.at_zero if is_news else None, policy.until, extends)
    is_same = not is_news and not extends and at_zero.told == policy.at_zero
    return None if is_same else change, policy.look_at


def policy_of(state: MeterState, now: datetime) -> ZeroCreditPolicy | None:
    """Return the policy of a meter at zero credit; None where the stored rules are none."""
    try:
        return zero_credit_policy(state.policy, state.policy_terms, state.zone, now, is_shut=state.at_zero.is_shut)
    except InvalidInputError:
        return None


def _due_next_at(state: MeterState, look_at: datetime | None, now: datetime) -> datetime | None:
    """The next instant at which time alone changes something of this meter."""
    if state.closed_at is not None and state.closed_at <= now:
        return closes_next_at(state.statements.after_days, state.zone, now)
    if state.register.installed_at > now:
        return state.register.installed_at
    # The service day's turn: standing charges, terms and versions that begin, a new period, a forecast grown old.
    tomorrow = local_midnight(now.astimezone(state.zone).date() + _DAY, state.zone)
    return tomorrow if look_at is None else min(max(look_at, now + _INSTANT), tomorrow)
