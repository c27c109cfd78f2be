"""Supply terms, tenancies, cut-off policies, friendly hours, releases."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Utility
from standpipe.customers.operators import FIELD_WORK
from standpipe.meters.access import find_by_account, locked_by_serial
from standpipe.office.desk import AsJson, at_desk, by_operator, group, minor, show, the_utility
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.settings import Settings
from standpipe.platform.units import ML_PER_LITRE, money_text
from standpipe.tariffs.models import Tariff
from standpipe.usage import cut_off, house_rules
from standpipe.usage import supply as terms
from standpipe.usage.price_tables import push_terms
from standpipe.wiring import Database

supply = group("How meters are supplied: terms, who lives there, what happens when the credit ends.")
UtilityId = Annotated[str | None, typer.Option("--utility-id", "--utility", help="Where there are several.")]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]


class Policy(StrEnum):
    """What a meter does at zero; DEFAULT: as its class, or else its utility, rules."""

    DISCONNECT = "DISCONNECT"
    TRICKLE = "TRICKLE"
    NEVER = "NEVER"
    DEFAULT = "DEFAULT"

    @property
    def stored(self) -> str:
        """As rules take it."""
        return "" if self is Policy.DEFAULT else self.value


CutOffOption = Annotated[Policy | None, typer.Option("--cut-off", help="What the meter does when its credit ends.")]


@supply.command("show")
def supply_show(serial: str, as_json: AsJson = False) -> None:
    """A meter's terms, and what it is told to do at zero now."""

    async def run(settings: Settings, database: Database, _providers: Rails) -> tuple[list[list[str]], list[list[str]]]:
        async with database.sessions() as session:
            meter = await find_by_account(session, serial)
            if meter is None:
                raise NotFoundError(f"No meter has the serial {serial}.")
            rows = await terms.terms_of(session, meter)
            codes = {row.id: row.code for row in await session.scalars(select(Tariff))}
            order = await cut_off.order_of(session, meter, settings.clock.now())
            told = [
                [order.policy, order.source, _why(order), order.at_zero, meter.at_zero or "not known"],
            ]
            return told, [
                [row.from_day.isoformat(), codes[row.tariff_id], str(row.households), ",".join(row.groups),
                 row.cut_off or "", row.household_id or "nobody"]
                for row in rows
            ]  # fmt: skip

    told, rows = at_desk(run)
    if not as_json:
        show("At zero", ["policy", "by", "now", "to be told", "last told"], told, as_json=False)
    heads = ["from", "tariff", "households", "groups", "cut-off", "household"]
    show("Supply terms", heads, rows, as_json=as_json)


@supply.command("set")
def supply_set(
    serial: str,
    from_: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day; may be past.")],
    tariff: Annotated[str | None, typer.Option(help="Another tariff of the utility, by its code.")] = None,
    households: Annotated[int | None, typer.Option(help="Behind the meter.")] = None,
    groups: Annotated[
        str | None, typer.Option(help="What its people are eligible for, such as lifeline,social.")
    ] = None,
    policy: CutOffOption = None,
) -> None:
    """Change how a meter is supplied from a day on; what was charged since is priced anew."""
    change = terms.Terms(
        tariff=tariff,
        households=households,
        groups=None if groups is None else tuple(groups.split(",")),
        cut_off=None if policy is None else policy.stored,
    )

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> bool:
        await terms.set_terms(session, operator=by, serial=serial, from_day=from_.date(), change=change, now=now)
        priced_anew = (tariff, households, groups) != (None, None, None)
        return priced_anew and await push_terms(session, await locked_by_serial(session, serial), from_.date(), now)

    if by_operator(work, may=FIELD_WORK):
        typer.echo(f"Its price table is queued for {serial}.")


@supply.command("move-out")
def supply_move_out(serial: str, day: Day) -> None:
    """A household leaves; DAY is the first that is not theirs. Prints what its account stands at; moves no money."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> terms.Closing:
        return await terms.move_out(session, operator=by, serial=serial, day=day.date(), now=now)

    closing: terms.Closing = by_operator(work, may=FIELD_WORK)
    measures = {
        "credit": closing.wallet_minor,
        "of it on its way to the meter": closing.on_its_way_minor,
        "standing charges due": closing.standing_minor,
        "arrears": closing.arrears_minor,
        "emergency credit in use": closing.emergency_minor,
    }
    rows = [[name, money_text(value, closing.currency)] for name, value in measures.items()]
    show("Closing account, for a person to settle", ["what", "amount"], rows, as_json=False)


@supply.command("move-in")
def supply_move_in(
    serial: str, household: Annotated[str, typer.Option(help="The household's id, hh_…")], day: Day
) -> None:
    """A household comes; DAY is its first."""
    by_operator(
        lambda session, by, _rails, now: terms.move_in(
            session, operator=by, serial=serial, household_id=household, day=day.date(), now=now
        ),
        may=FIELD_WORK,
    )


@supply.command("class")
def supply_class(
    code: str,
    name: Annotated[str, typer.Option(help="As people read it.")],
    policy: CutOffOption = Policy.DEFAULT,
    utility_id: UtilityId = None,
) -> None:
    """Make or change a class of customers; a tariff names its class."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> None:
        await house_rules.set_class(
            session,
            operator=by,
            utility_id=await the_utility(session, utility_id),
            code=code,
            name=name,
            cut_off="" if policy is None else policy.stored,
            now=now,
        )

    by_operator(work, may=FIELD_WORK)


@supply.command("utility")
def supply_utility(
    utility_id: UtilityId = None,
    policy: CutOffOption = None,
    friendly: Annotated[str | None, typer.Option(help="Hours without cut-off, 18:00-08:00; none for none.")] = None,
    on: Annotated[list[str] | None, typer.Option(help="A day's own hours: FRI=14:00-08:00, SUN=none.")] = None,
    weekends: Annotated[bool | None, typer.Option(help="Saturday and Sunday are friendly all day.")] = None,
    holidays: Annotated[str | None, typer.Option(help="A calendar such as KE or DE/BY; none for none.")] = None,
    lead_minutes: Annotated[int | None, typer.Option(help="How long before friendly hours meters are told.")] = None,
    guaranteed_litres: Annotated[int | None, typer.Option(help="Bought before debt is taken.")] = None,
    emergency: Annotated[str | None, typer.Option(help="Emergency credit; 0 for none.")] = None,
    emergency_threshold: Annotated[str | None, typer.Option(help="From this credit down it may be had.")] = None,
    debt_share: Annotated[int | None, typer.Option(help="Percent of a top-up that may repay debt.")] = None,
    debt_weekly_cap: Annotated[str | None, typer.Option(help="The most in seven days; none for none.")] = None,
) -> None:
    """Change what a utility rules for all its meters."""
    if policy is Policy.DEFAULT:
        raise InvalidInputError("A utility says what its meters do at zero.")
    hours = _hours(friendly, on, weekends, holidays, lead_minutes)

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> None:
        utility = await house_rules.utility_of(session, await the_utility(session, utility_id))
        currency = utility.currency
        change = house_rules.UtilityRules(
            cut_off=None if policy is None else policy.stored,
            friendly=_merged(utility.friendly, hours) if hours else None,
            guaranteed_ml=None if guaranteed_litres is None else guaranteed_litres * ML_PER_LITRE,
            emergency_credit_minor=_minor_or_none(emergency, currency),
            emergency_threshold_minor=_minor_or_none(emergency_threshold, currency),
            debt_share_percent=debt_share,
            debt_weekly_cap_minor=-1 if debt_weekly_cap == "none" else _minor_or_none(debt_weekly_cap, currency),
        )
        await house_rules.set_rules(session, operator=by, utility_id=utility.id, change=change, now=now)

    by_operator(work, may=FIELD_WORK)


@supply.command("release")
def supply_release(
    utility_id: UtilityId = None,
    reason: Annotated[str | None, typer.Option(help="Why, such as fire; it is kept.")] = None,
    until: Annotated[datetime | None, typer.Option(help="In the utility's own time; without it until --end.")] = None,
    end: Annotated[bool, typer.Option("--end", help="Back to what the policies say.")] = False,
) -> None:
    """Water for all whatever the credit (fire): no meter of the utility cuts off until then."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> None:
        chosen = await the_utility(session, utility_id)
        if end:
            await house_rules.end_release(session, operator=by, utility_id=chosen, now=now)
            return
        zone = ZoneInfo((await session.get_one(Utility, chosen)).time_zone)
        await house_rules.release(
            session,
            operator=by,
            utility_id=chosen,
            reason=reason or "",
            until=None if until is None else until.replace(tzinfo=zone).astimezone(UTC),
            now=now,
        )

    by_operator(work, may=FIELD_WORK)


def _why(order: cut_off.Order) -> str:
    words = [word for word, is_so in (("released", order.released), ("friendly hours", order.spared)) if is_so]
    until = f" until {order.until:%Y-%m-%d %H:%M} UTC" if order.until else ""
    return (", ".join(words) or "as the policy says") + until


def _hours(
    friendly: str | None,
    on: list[str] | None,
    weekends: bool | None,
    holidays: str | None,
    lead_minutes: int | None,
) -> dict[str, Any]:
    """The parts of the friendly hours that are to change; a part that is None goes."""
    parts: dict[str, Any] = {}
    if friendly is not None:
        parts |= {"from": None, "to": None} if friendly == "none" else _stretch(friendly)
    if on:
        days = [entry.partition("=") for entry in on]
        parts["days"] = {day.upper(): None if text == "none" else _stretch(text) for day, _, text in days}
    if weekends is not None:
        parts["weekends"] = weekends
    if holidays is not None:
        parts["holidays"] = None if holidays == "none" else holidays
    if lead_minutes is not None:
        parts["lead_minutes"] = lead_minutes
    return parts


def _stretch(text: str) -> dict[str, str]:
    start, _, end = text.partition("-")
    return {"from": start.strip(), "to": end.strip()}


def _merged(before: dict[str, Any] | None, parts: dict[str, Any]) -> dict[str, Any]:
    merged = (before or {}) | parts
    if "days" in parts:
        merged["days"] = {**((before or {}).get("days") or {}), **parts["days"]}
    return {key: value for key, value in merged.items() if value is not None}


def _minor_or_none(text: str | None, currency: str) -> int | None:
    if text is None:
        return None
    amount_minor = minor(text, currency)
    if amount_minor < 0:
        raise InvalidInputError(f"{text} is below zero.")
    return amount_minor
