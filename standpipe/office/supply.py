"""Supply terms, tenancies, cut-off policies, friendly hours, releases."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

import typer

from standpipe.billing import supply_terms as terms
from standpipe.office.desk import AsJson, amount, group, perform, show
from standpipe.operations import supply as operations
from standpipe.operations.supply import UtilityPolicies
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import ML_PER_LITRE, money_text
from standpipe.supply.zero_credit import ZeroCreditPolicy

supply = group("How meters are supplied: terms, who lives there, what happens when the credit ends.")
UtilityId = Annotated[str | None, typer.Option("--utility-id", "--utility", help="Where there are several.")]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]


class Policy(StrEnum):
    """Policies at zero credit; DEFAULT: as its class, or else its utility, rules."""

    DISCONNECT = "DISCONNECT"
    TRICKLE = "TRICKLE"
    NEVER = "NEVER"
    DEFAULT = "DEFAULT"

    @property
    def stored(self) -> str:
        """The policy in the words of the stored rules."""
        return "" if self is Policy.DEFAULT else self.value


CutOffOption = Annotated[Policy | None, typer.Option("--cut-off", help="What the meter does when its credit ends.")]


@supply.command("show")
def supply_show(serial: str, as_json: AsJson = False) -> None:
    """A meter's terms, and what it is told to do at zero now."""
    found = perform(operations.show, serial)
    order = found.at_zero
    told = [[order.policy, order.source, _why(order), order.at_zero, found.last_told or "not known"]]
    rows = [
        [row.from_day.isoformat(), found.codes[row.tariff_id], str(row.households), ",".join(row.groups),
         row.cut_off or "", row.household_id or "nobody"]
        for row in found.terms
    ]  # fmt: skip
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

    if perform(operations.set_terms, serial, from_.date(), change):
        typer.echo(f"Its price table is queued for {serial}.")


@supply.command("move-out")
def supply_move_out(serial: str, day: Day) -> None:
    """A household leaves; DAY is the first that is not theirs. Prints what its account stands at; moves no money."""
    closing = perform(operations.move_out, serial, day.date())
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
    perform(operations.move_in, serial, household, day.date())


@supply.command("class")
def supply_class(
    code: str,
    name: Annotated[str, typer.Option(help="As people read it.")],
    policy: CutOffOption = Policy.DEFAULT,
    utility_id: UtilityId = None,
) -> None:
    """Make or change a class of customers; a tariff names its class."""
    stored = "" if policy is None else policy.stored
    perform(operations.set_class, utility_id, code, name=name, zero_credit=stored)


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
    change = UtilityPolicies(
        zero_credit=None if policy is None else policy.stored,
        friendly=_hours(friendly, on, weekends, holidays, lead_minutes),
        guaranteed_ml=None if guaranteed_litres is None else guaranteed_litres * ML_PER_LITRE,
        emergency_credit=None if emergency is None else amount(emergency),
        emergency_threshold=None if emergency_threshold is None else amount(emergency_threshold),
        debt_share_percent=debt_share,
        debt_weekly_cap=_cap(debt_weekly_cap),
    )
    perform(operations.set_policies, utility_id, change)


@supply.command("release")
def supply_release(
    utility_id: UtilityId = None,
    reason: Annotated[str | None, typer.Option(help="Why, such as fire; it is kept.")] = None,
    until: Annotated[datetime | None, typer.Option(help="In the utility's own time; without it until --end.")] = None,
    end: Annotated[bool, typer.Option("--end", help="Back to what the policies say.")] = False,
) -> None:
    """Water for all whatever the credit (fire): no meter of the utility cuts off until then."""
    if end:
        perform(operations.end_release, utility_id)
    else:
        perform(operations.release, utility_id, reason=reason or "", until=until)


def _why(order: ZeroCreditPolicy) -> str:
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


def _cap(text: str | None) -> Decimal | None:
    if text is None:
        return None
    if text == "none":
        return Decimal(operations.NO_CAP)
    cap = amount(text)
    if cap < 0:
        raise InvalidInputError(f"{text} is below zero.")
    return cap
