"""The slow, obviously right way to reckon prices, charges, splits and statements. It shares no code with the product.

Everything is computed anew from all that is known, day by day and block by block, in fractions.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from itertools import groupby
from math import floor
from typing import Any
from zoneinfo import ZoneInfo

KL = 1_000_000
DAY = timedelta(days=1)
OWED = ("STANDING_DUE", "RECEIVABLE", "EMERGENCY")
ACCOUNTS = ("WALLET", *OWED)


def half_up(exact: Fraction) -> int:
    return floor(exact + Fraction(1, 2))


def month_of(day: date) -> tuple[date, date]:
    start = date(day.year, day.month, 1)
    return start, date(day.year + day.month // 12, day.month % 12 + 1, 1)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


@dataclass(frozen=True)
class Supply:
    from_day: date
    tariff: str
    households: int
    groups: frozenset[str]
    household: str


@dataclass(frozen=True)
class Line:
    kind: str
    code: str
    tier: int | None
    quantity: int
    exact: Fraction


@dataclass
class Segment:
    """Days on end under the same terms."""

    start: date
    end: date
    document: dict[str, Any]
    season: str
    supply: Supply
    share: Fraction
    moved: bool


@dataclass(frozen=True)
class Bill:
    volume_ml: int
    total: int
    lines: tuple[tuple[str, str, int | None, int, int], ...]
    accounts: dict[str, int] = field(hash=False, default_factory=dict)


@dataclass(frozen=True)
class Posting:
    at: datetime
    kind: str
    period: date | None
    amounts: dict[Any, int] = field(hash=False)
    paid: int = 0


def latest(items: list[Any], day: date, key: str) -> Any:
    """The newest that holds on a day; before all of them, the first."""
    due = [item for item in items if (item[key] if isinstance(item, dict) else getattr(item, key)) <= day]
    return (due or items[:1])[-1]


def scale_of(document: dict[str, Any]) -> int:
    return {"UGX": 1, "KES": 100, "KWD": 1000}[document["currency"]]


def season_of(document: dict[str, Any], day: date) -> dict[str, Any]:
    seasons = sorted(document.get("seasons", []), key=lambda season: season["from"])
    if not seasons:
        return {"name": "", "blocks": document["blocks"]}
    begun = [season for season in seasons if season["from"] <= f"{day:%m-%d}"]
    return (begun or seasons)[-1]


def levied(
    document: dict[str, Any], code: str, base: Fraction, groups: frozenset[str], tier: int | None, free: bool
) -> list[tuple[str, Fraction]]:
    """An amount with its discounts and then its levies, each reckoned on what its ``of`` names."""
    parts = [(code, base)]
    every = [(item, -1) for item in document.get("discounts", [])] + [(item, 1) for item in document.get("levies", [])]
    for item, sign in every:
        if item.get("for") and not groups & set(item["for"]):
            continue
        if item.get("blocks") and (tier is None or tier + 1 not in [int(number) for number in item["blocks"]]):
            continue
        if "percent" in item:
            on = sum((amount for name, amount in parts if name in item.get("of", ["water"])), Fraction(0))
            amount = on * Fraction(item["percent"]) / 100
        else:
            amount = Fraction(item["per-kl"]) * scale_of(document) if tier is not None and not free else Fraction(0)
        if amount:
            parts.append((item["code"], sign * amount))
    return parts


def table_of(segment: Segment) -> list[tuple[int | None, int, bool, list[tuple[str, Fraction]]]]:
    """(upper edge, tier, free, parts per kilolitre) of each stretch of volume, from the bottom up."""
    document, supply = segment.document, segment.supply
    homes = supply.households if document.get("blocks-per-household") else 1
    free_ml = 0
    allowance = document.get("allowance")
    if allowance and (not allowance.get("for") or supply.groups & set(allowance["for"])):
        many = supply.households if allowance.get("per-household") else 1
        free_ml = half_up(Fraction(allowance["kl"]) * KL * many * segment.share)
    rows = []
    lower = 0
    for tier, block in enumerate(season_of(document, segment.start)["blocks"]):
        edge = half_up(Fraction(block["up-to-kl"]) * KL * homes * segment.share) if "up-to-kl" in block else None
        for upper in sorted({free_ml, edge if edge is not None else 10**18}):
            if upper <= lower or (edge is not None and upper > edge):
                continue
            free = upper <= free_ml
            price = Fraction(0) if free else Fraction(block["price"]) * scale_of(document)
            parts = levied(document, "water", price, supply.groups, tier, free)
            rows.append((None if upper == 10**18 else upper, tier, free, parts))
            lower = upper
    return rows


@dataclass
class Books:
    """One meter's whole life, and the ledger that must follow from it."""

    zone: ZoneInfo
    first_day: date
    tariffs: dict[str, list[dict[str, Any]]]
    supplies: list[Supply]
    debt_share: int
    weekly_cap: int | None
    guaranteed_ml: int
    emergency: int
    threshold: int
    readings: dict[datetime, int] = field(default_factory=dict)
    postings: list[Posting] = field(default_factory=list)
    charged: dict[tuple[str, date], dict[str, int]] = field(default_factory=dict)
    accrued: set[date] = field(default_factory=set)
    accrued_through: date | None = None
    guaranteed: int = 0
    statements: dict[date, dict[str, Any]] = field(default_factory=dict)

    # -- prices ---------------------------------------------------------------------------------------------------

    def segments(self, start: date) -> list[Segment]:
        first, end = month_of(start)
        whole = (end - first).days
        days = [first + DAY * number for number in range(whole)]
        if first < self.supplies[0].from_day < end:
            days = [day for day in days if day >= self.supplies[0].from_day]

        def terms(day: date) -> tuple[Any, ...]:
            supply = latest(self.supplies, day, "from_day")
            document = latest(self.tariffs[supply.tariff], day, "effective-from")
            season = season_of(document, day)["name"]
            return id(document), season, supply.households, sorted(supply.groups), supply.household

        found: list[Segment] = []
        for _, group in groupby(days, key=terms):
            own = list(group)
            supply = latest(self.supplies, own[0], "from_day")
            document = latest(self.tariffs[supply.tariff], own[0], "effective-from")
            share = Fraction(len(own), whole) if document["proration"] == "days" else Fraction(1)
            moved = not found or found[-1].supply.household != supply.household
            season = season_of(document, own[0])["name"]
            found.append(Segment(own[0], own[-1] + DAY, document, season, supply, share, moved))
        return found

    def days(self) -> dict[date, int]:
        found: dict[date, int] = {}
        before = 0
        for at in sorted(self.readings):
            day = (at - timedelta(microseconds=1)).astimezone(self.zone).date()
            found[day] = found.get(day, 0) + self.readings[at] - before
            before = self.readings[at]
        return found

    def water(self, start: date, upto: date | None = None) -> list[Line]:
        """The lines of a period's water; a day outside all segments counts with the nearest."""
        segments, lines, used = self.segments(start), [], 0
        first, end = month_of(start)
        own = {day: ml for day, ml in self.days().items() if first <= day < end and (upto is None or day <= upto)}
        for segment in segments:
            mine = [
                ml
                for day, ml in own.items()
                if segment is min(segments, key=lambda one: (distance(one, day), -one.start.toordinal()))
            ]
            if segment.document["proration"] == "days" or segment.moved:
                used = 0
            lines.extend(self.water_lines(segment, used, used + sum(mine)))
            used += sum(mine)
        return lines

    def water_lines(self, segment: Segment, from_ml: int, to_ml: int) -> list[Line]:
        lines: list[Line] = []
        extra: dict[str, Fraction] = {}
        lower = 0
        for upper, tier, free, parts in table_of(segment):
            inside = min(to_ml, to_ml if upper is None else upper) - max(from_ml, lower)
            lower = upper or 0
            if inside <= 0:
                continue
            lines.append(Line("ALLOWANCE" if free else "WATER", "water", tier, inside, parts[0][1] * inside / KL))
            for code, amount in parts[1:]:
                extra[code] = extra.get(code, Fraction(0)) + amount * inside / KL
        return lines + self.extra_lines(segment, extra, to_ml - from_ml)

    def extra_lines(self, segment: Segment, extra: dict[str, Fraction], quantity: int) -> list[Line]:
        """Discounts and levies in the order in which the tariff has them."""
        lines = []
        for kind, name in (("DISCOUNT", "discounts"), ("LEVY", "levies")):
            codes = [item["code"] for item in segment.document.get(name, [])]
            lines += [Line(kind, code, None, quantity, extra[code]) for code in codes if code in extra]
        return lines

    def standing(self, start: date, through: date) -> list[Line]:
        lines: list[Line] = []
        billed: set[str] = set()
        for segment in self.segments(start):
            if segment.start > through:
                continue
            document, supply = segment.document, segment.supply
            days = (min(segment.end, through + DAY) - segment.start).days
            extra: dict[str, Fraction] = {}
            for charge in document.get("standing-charges", []):
                if charge.get("for") and not supply.groups & set(charge["for"]):
                    continue
                monthly = charge["per"] == "month"
                if monthly and document["proration"] == "none" and charge["code"] in billed:
                    continue
                if monthly:
                    billed.add(charge["code"])
                times = segment.share if monthly else Fraction(days)
                homes = supply.households if charge.get("per-household") else 1
                amount = Fraction(charge["amount"]) * scale_of(document) * homes
                parts = levied(document, charge["code"], amount, supply.groups, None, False)
                quantity = (segment.end - segment.start).days if monthly else days
                lines.append(Line("STANDING", charge["code"], None, quantity, parts[0][1] * times))
                for code, part in parts[1:]:
                    extra[code] = extra.get(code, Fraction(0)) + part * times
            lines.extend(self.extra_lines(segment, extra, days))
        return lines

    def bill(self, lines: list[Line], volume_ml: int) -> Bill:
        """Each line is the step of the rounded running total."""
        running = Fraction(0)
        shown, accounts = [], {}
        for line in lines:
            step = half_up(running + line.exact) - half_up(running)
            running += line.exact
            shown.append((line.kind, line.code, line.tier, line.quantity, step))
            code = line.code if line.kind == "LEVY" else "utility"
            accounts[code] = accounts.get(code, 0) + step
        kept = {code: amount for code, amount in accounts.items() if amount}
        return Bill(volume_ml, half_up(running), tuple(shown), kept)

    def bill_of(self, account: str, period: date) -> Bill:
        first, end = month_of(period)
        if account == "WALLET":
            volume = sum(ml for day, ml in self.days().items() if first <= day < end)
            return self.bill(self.water(period), volume)
        if self.accrued_through is None or self.accrued_through < period:
            return Bill(0, 0, ())
        return self.bill(self.standing(period, self.accrued_through), 0)

    # -- what happens ---------------------------------------------------------------------------------------------

    def balance(self, account: Any) -> int:
        return sum(posting.amounts.get(account, 0) for posting in self.postings)

    def post(self, at: datetime, kind: str, amounts: dict[Any, int], period: date | None = None, paid: int = 0) -> None:
        kept = {account: amount for account, amount in amounts.items() if amount}
        if kept:
            self.postings.append(Posting(at, kind, period, kept, paid))

    def reckon(self, now: datetime) -> None:
        """Bring every charge to what it is now."""
        for period in sorted({month_of(day)[0] for day in self.days()}):
            self._charge("WALLET", "USAGE", period, now)
        for period in sorted(self.accrued):
            self._charge("STANDING_DUE", "STANDING", period, now)

    def _charge(self, account: str, kind: str, period: date, now: datetime) -> None:
        before, after = self.charged.get((account, period), {}), self.bill_of(account, period).accounts
        if before == after:
            return
        self.charged[account, period] = after
        moved = {("INCOME", code): after.get(code, 0) - before.get(code, 0) for code in {*before, *after}}
        moved[account] = -sum(moved.values())
        self.post(self._value_at(period, now), kind, moved, period)

    def _value_at(self, period: date, now: datetime) -> datetime:
        made = [month for month in self.statements if month >= period]
        first, end = month_of(month_of(max(made))[1] if made else period)
        return min(max(now, midnight(first, self.zone)), midnight(end, self.zone) - timedelta(microseconds=1))

    def take(self, now: datetime, fresh: dict[datetime, int]) -> None:
        self.readings |= {at: ml for at, ml in fresh.items() if at not in self.readings}
        self.rate(now)

    def rate(self, now: datetime) -> None:
        """Water, the standing charges that have fallen due by today, and what the guaranteed water costs."""
        self.reckon(now)
        today = now.astimezone(self.zone).date()
        if self.accrued_through is None or self.accrued_through < today:
            month = month_of(self.accrued_through or today)[0]
            while month <= today:
                self.accrued.add(month)
                month = month_of(month)[1]
            self.accrued_through = today
            self.reckon(now)
        self.guarantee(now)

    def guarantee(self, now: datetime) -> None:
        """What the guaranteed water costs after what was used so far."""
        today = now.astimezone(self.zone).date()
        first, end = month_of(today)
        segments = self.segments(first)
        begun = [segment for segment in segments if segment.start <= today] or segments[:1]
        used, spent = 0, Fraction(0)
        for number, segment in enumerate(begun):
            last = end if number + 1 == len(segments) else segment.end
            start = first if number == 0 else segment.start
            mine = sum(ml for day, ml in self.days().items() if start <= day < last)
            if segment.document["proration"] == "days" or segment.moved:
                used = 0
            spent += sum((line.exact for line in self.water_lines(segment, used, used + mine)), Fraction(0))
            used += mine
        more = sum((line.exact for line in self.water_lines(begun[-1], used, used + self.guaranteed_ml)), Fraction(0))
        self.guaranteed = (half_up(spent + more) - half_up(spent)) if self.guaranteed_ml else 0

    def top_up(self, now: datetime, paid: int) -> None:
        owed = {account: max(-self.balance(account), 0) for account in OWED}
        emergency = min(owed["EMERGENCY"], paid)
        rest = paid - emergency
        room = max(rest - self.guaranteed, 0)
        standing = min(owed["STANDING_DUE"], room)
        debt = min(owed["RECEIVABLE"], rest * self.debt_share // 100, room - standing)
        if self.weekly_cap is not None:
            lately = sum(
                max(one.amounts.get("RECEIVABLE", 0), 0)
                for one in self.postings
                if one.kind == "TOP_UP" and one.at > now - timedelta(days=7)
            )
            debt = min(debt, max(self.weekly_cap - lately, 0))
        parts = {"EMERGENCY": emergency, "STANDING_DUE": standing, "RECEIVABLE": debt}
        parts |= {"WALLET": paid - sum(parts.values()), "OUTSIDE": -paid}
        self.post(now, "TOP_UP", parts, paid=paid)

    def arrears(self, now: datetime, amount: int) -> None:
        self.post(now, "ARREARS", {"RECEIVABLE": -amount, "OPENING": amount})

    def may_have_emergency(self) -> bool:
        return bool(self.emergency) and not self.balance("EMERGENCY") and self.balance("WALLET") <= self.threshold

    def give_emergency(self, now: datetime) -> None:
        self.post(now, "EMERGENCY", {"EMERGENCY": -self.emergency, "WALLET": self.emergency})

    # -- statements -----------------------------------------------------------------------------------------------

    def issue(self, month: date, now: datetime) -> None:
        self.rate(now)
        self.statements[month] = self.statement(month)

    def statement(self, month: date) -> dict[str, Any]:
        since, until = (midnight(day, self.zone) for day in month_of(month))
        before = [one for one in self.postings if one.at < since]
        within = [one for one in self.postings if since <= one.at < until]
        opening = {account: sum(one.amounts.get(account, 0) for one in before) for account in ACCOUNTS}
        change = {account: sum(one.amounts.get(account, 0) for one in within) for account in ACCOUNTS}
        charges: dict[tuple[str, date], int] = {}
        for one in within:
            for account in ("WALLET", "STANDING_DUE"):
                if one.period is not None and account in one.amounts:
                    key = (account, one.period)
                    charges[key] = charges.get(key, 0) - one.amounts[account]
        movements = [one for one in within if one.period is None]
        first, end = month_of(month)
        return {
            "accounts": {account: (opening[account], opening[account] + change[account]) for account in ACCOUNTS},
            "movements": [
                (one.at, one.kind, {key: one.amounts[key] for key in ACCOUNTS if key in one.amounts}, one.paid)
                for one in movements
            ],
            "use": self.bill_of("WALLET", month),
            "standing": self.bill_of("STANDING_DUE", month) if month in self.accrued else Bill(0, 0, ()),
            "adjustments": {
                key: (self.told(month, key), self.told(month, key) + amount)
                for key, amount in charges.items()
                if key[1] != month
            },
            "charged": {key: amount for key, amount in charges.items() if key[1] == month},
            "daily": {day: ml for day, ml in self.days().items() if first <= day < end and ml},
        }

    def told(self, month: date, key: tuple[str, date]) -> int:
        """What had been charged for a period by the end of the month before."""
        since = midnight(month, self.zone)
        return -sum(one.amounts.get(key[0], 0) for one in self.postings if one.period == key[1] and one.at < since)


def distance(segment: Segment, day: date) -> int:
    if day < segment.start:
        return (segment.start - day).days
    return max((day - segment.end).days + 1, 0)
