"""The money of a meter's past, worked out in memory: each month paid for in advance, used up, and charged.

Prices, the parts of a payment and the lines of a posting come from the product's own functions; what the product does
statement by statement is only put together here, for years at once. No database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from standpipe.billing.models import PeriodCharge, StandingCharged
from standpipe.billing.use import PeriodUse, priced_use
from standpipe.ledger.charges import charge_lines
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line
from standpipe.meters.models import Meter
from standpipe.payments.decide import captured_lines, funding
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import PaymentStatus
from standpipe.payments.split import Owing, Split, split
from standpipe.payments.state import new_payment
from standpipe.platform.ids import new_id
from standpipe.platform.units import local_midnight, period_of
from standpipe.tariffs.catalogue import Contract
from standpipe.tariffs.periods import UTILITY, Priced, price_standing

STEP_MINOR = 10_000
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Posting:
    """A ledger transaction to be; ``states_fact`` as in ``ledger.posting.post``."""

    key: str
    kind: str
    occurred_at: datetime
    lines: Sequence[Line]
    states_fact: bool


@dataclass
class Past:
    """All that a meter's readings and top-ups left in the books, in order of time."""

    postings: list[Posting] = field(default_factory=list)
    top_ups: list[tuple[TopUp, Payment]] = field(default_factory=list)
    charges: list[PeriodCharge] = field(default_factory=list)
    standing: list[StandingCharged] = field(default_factory=list)
    balances: dict[AccountRef, int] = field(default_factory=dict)
    through: date | None = None

    def post(self, posting: Posting) -> None:
        """Take a posting up."""
        self.postings.append(posting)
        for line in posting.lines:
            self.balances[line.account] = self.balances.get(line.account, 0) + line.amount_minor


def past_of(meter: Meter, customer_id: str, contract: Contract, volumes_ml: Mapping[date, int], now: datetime) -> Past:
    """The past of a meter that used ``volumes_ml`` by month, up to now. The prices do not change within a month."""
    past, zone = Past(), ZoneInfo(meter.time_zone)
    wallet = AccountRef(AccountKind.WALLET, meter.id, meter.currency)
    due = AccountRef(AccountKind.STANDING_DUE, meter.id, meter.currency)
    for month, volume_ml in sorted(volumes_ml.items()):
        begins, ends = local_midnight(month, zone), min(local_midnight(period_of(month)[1], zone) - _INSTANT, now)
        past.through = ends.astimezone(zone).date()
        use = PeriodUse(contract.segments(month), (volume_ml,))
        used, standing = priced_use(use), price_standing(use.segments, past.through)
        owed_minor = -past.balances.get(due, 0)
        wanted_minor = used.total_minor + owed_minor - past.balances.get(wallet, 0)
        if wanted_minor > 0:
            pay_minor = -(-wanted_minor // STEP_MINOR) * STEP_MINOR
            parts = split(pay_minor, fee_minor=0, owing=Owing(standing_minor=owed_minor))
            _pay(past, meter, customer_id, parts, begins)
        past.charges.append(_charge(meter, month, use, used))
        past.standing.extend(_standing(meter, month, standing))
        for kind, payer, priced in (("USAGE", wallet, used), ("STANDING", due, standing)):
            if priced.accounts:
                key = f"{kind.lower()}:{meter.id}:{month.isoformat()}:r1"
                lines = charge_lines(payer, meter.utility_id, {}, priced.accounts, own_code=UTILITY)
                past.post(Posting(key, kind, ends, lines, states_fact=True))
    return past


def _pay(past: Past, meter: Meter, customer_id: str, parts: Split, at: datetime) -> None:
    state = new_payment(
        customer_id=customer_id,
        meter_id=meter.id,
        rail="sandbox",
        rail_ref=None,
        origin="CUSTOMER",
        asked_minor=parts.paid_minor,
        currency=meter.currency,
        now=at,
    )
    top_up = TopUp(
        id=state.id,
        customer_id=customer_id,
        meter_id=meter.id,
        pay_minor=parts.paid_minor,
        currency=meter.currency,
        idempotency_key=new_id("seed"),
        request_hash="seed",
        created_at=at,
    )
    payment = Payment(
        id=state.id,
        top_up_id=state.id,
        rail=state.rail,
        rail_ref=f"sch_seed{state.id[4:]}",
        asked_minor=parts.paid_minor,
        currency=meter.currency,
        captured_minor=parts.paid_minor,
        standing_minor=parts.standing_minor,
        status=PaymentStatus.SUCCEEDED,
        version=1,
        updated_at=at,
    )
    past.top_ups.append((top_up, payment))
    key = f"sandbox:{payment.rail_ref}:captured:{parts.paid_minor}"
    lines = captured_lines(state, parts, funding(state), meter.utility_id)
    past.post(Posting(key, "TOP_UP", at, lines, states_fact=False))


def _charge(meter: Meter, month: date, use: PeriodUse, priced: Priced) -> PeriodCharge:
    return PeriodCharge(
        meter_id=meter.id,
        period_start=month,
        tariff_version_id=use.segments[0].version.version_id,
        volume_ml=use.volume_ml,
        charged_minor=priced.total_minor,
        revision=1 if priced.accounts else 0,
        accounts=dict(priced.accounts) if priced.accounts else None,
    )


def _standing(meter: Meter, month: date, priced: Priced) -> list[StandingCharged]:
    if not priced.lines:
        return []
    charged = StandingCharged(
        meter_id=meter.id,
        period_start=month,
        charged_minor=priced.total_minor,
        accounts=dict(priced.accounts),
        revision=1,
    )
    return [charged]
