"""Tariffs: checked, published, withdrawn, tried out."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe import tariffs
from standpipe.customers.models import Utility
from standpipe.customers.operators import FIELD_WORK, record
from standpipe.office.desk import (
    AsJson,
    at_desk,
    by_operator,
    group,
    harmless,
    month_of,
    read_now,
    register_ml,
    show,
    the_utility,
)
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.settings import Settings
from standpipe.platform.units import money_text
from standpipe.tariffs.catalogue import versions
from standpipe.tariffs.files import TariffFile, TariffFileError, read_tariff, to_terms
from standpipe.tariffs.models import Tariff
from standpipe.tariffs.periods import Priced, TariffInForce, version_on
from standpipe.tariffs.publishing import Published, publish, withdraw
from standpipe.tariffs.sample import sample_bill
from standpipe.usage.price_tables import push_to_all
from standpipe.usage.statement_body import bill_of
from standpipe.usage.statement_text import line_text
from standpipe.wiring import Database

LIBRARY = Path(tariffs.__file__).parent / "library"
UtilityId = Annotated[str | None, typer.Option(help="Where there are several.")]

tariff = group("Tariffs: checked, published, withdrawn, tried out.")


@tariff.command("check")
def tariff_check(files: list[Path]) -> None:
    """Look through tariff files and name every mistake with its line. Needs no database."""
    wrong = False
    for path in files:
        try:
            found = _read(path)
        except TariffFileError as error:
            wrong = True
            for line in error.lines:
                typer.echo(harmless(line))
        else:
            parts = f"{len(found.seasons)} seasons" if found.seasons else f"{len(found.blocks)} blocks"
            typer.echo(f"{path}: good: {found.tariff} ({found.name}), {parts}, from {found.effective_from}")
    if wrong:
        sys.exit(1)


@tariff.command("publish")
def tariff_publish(file: Path, utility_id: UtilityId = None) -> None:
    """Announce a version of a tariff. Once it counts it is never changed: another follows it."""
    found = _read(file)

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> Published:
        utility = await session.get_one(Utility, await _known_utility(session, utility_id))
        today = now.astimezone(ZoneInfo(utility.time_zone)).date()
        done = await publish(session, utility_id=utility.id, utility_currency=utility.currency, file=found, today=today)
        if not done.was_there:
            detail = {"code": found.tariff, "effective_from": str(found.effective_from), "file": file.name}
            await record(session, operator=by, action="tariff.publish", subject_id=done.version_id, detail=detail)
        return done

    done: Published = by_operator(work, may=FIELD_WORK)
    _push(done.tariff_id, found.effective_from)
    if done.was_there:
        typer.echo(f"{found.tariff} from {found.effective_from} is published already, just so: nothing to do.")
    else:
        first = "a new tariff" if done.is_new_tariff else "its newest version"
        typer.echo(f"{done.version_id}: {found.tariff} from {found.effective_from}, {first}")


def _push(tariff_id: str, from_day: date | None) -> None:
    """Send the table to the meters that deduct by it, ahead of its day; what holds already, the installer has set."""

    async def work(settings: Settings, database: Database, _providers: Rails) -> int:
        return await push_to_all(database.sessions, tariff_id, now=settings.clock.now(), from_day=from_day)

    pushed = at_desk(work)
    if pushed:
        typer.echo(f"Its price table is queued for {pushed} meters.")


@tariff.command("withdraw")
def tariff_withdraw(code: str, effective_from: str, utility_id: UtilityId = None) -> None:
    """Take back a version before it counts."""
    day = _day(effective_from)

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> tuple[str, str]:
        utility = await session.get_one(Utility, await _known_utility(session, utility_id))
        today = now.astimezone(ZoneInfo(utility.time_zone)).date()
        known = await _versions(session, utility.id, code)
        version_id = await withdraw(session, utility_id=utility.id, code=code, effective_from=day, today=today)
        detail = {"code": code, "effective_from": str(day)}
        await record(session, operator=by, action="tariff.withdraw", subject_id=version_id, detail=detail)
        return version_id, known[0].tariff_id

    version_id, tariff_id = by_operator(work, may=FIELD_WORK)
    # What waits in the meters is the withdrawn table: today's takes its place.
    _push(tariff_id, None)
    typer.echo(f"{version_id}: {code} from {day} is withdrawn")


@tariff.command("list")
def tariff_list(as_json: AsJson = False) -> None:
    """Every version of every tariff, and which of them counts today."""

    async def work(session: AsyncSession, now: datetime) -> list[list[str]]:
        rows = await session.execute(
            select(Tariff, Utility.time_zone)
            .join(Utility, Utility.id == Tariff.utility_id)
            .order_by(Tariff.utility_id, Tariff.code)
        )
        found = {item.id: (item, now.astimezone(ZoneInfo(zone)).date()) for item, zone in rows}
        known = await versions(session, list(found))
        return [
            [item.code, item.name, item.customer_class, item.basis, item.currency, str(version.effective_from),
             _state(version, known[item.id], today), version.version_id, item.utility_id]
            for item, today in found.values()
            for version in known.get(item.id, ())
        ]  # fmt: skip

    columns = ["code", "name", "class", "basis", "currency", "from", "state", "version", "utility"]
    show("Tariffs", columns, read_now(work), as_json=as_json)


@tariff.command("price")
def tariff_price(
    code: Annotated[str, typer.Argument(help="A tariff's code; or a tariff file, which needs no database.")],
    volume_m3: Annotated[str, typer.Option(help="Cubic metres in the month.")],
    households: Annotated[int, typer.Option(help="Behind the meter.", min=1)] = 1,
    groups: Annotated[str, typer.Option(help="What its people are eligible for: a,b.")] = "",
    month: Annotated[str | None, typer.Option(help="Like 2026-11; this one without.")] = None,
    utility_id: UtilityId = None,
    as_json: AsJson = False,
) -> None:
    """What a month's use would come to, line by line."""
    volume_ml = register_ml(volume_m3)
    chosen = frozenset(part for item in groups.split(",") if (part := item.strip()))
    wanted = None if month is None else month_of(month)

    async def work(session: AsyncSession, now: datetime) -> tuple[list[TariffInForce], date]:
        return await _versions(session, await _known_utility(session, utility_id), code), now.date()

    is_file = code.endswith((".yaml", ".yml"))
    known, today = (_as_published(_read(Path(code))), datetime.now(UTC).date()) if is_file else read_now(work)
    bills = sample_bill(known, wanted or today, volume_ml, households=households, groups=chosen)
    _print_bill(f"{code}, {volume_m3} m³", bills, known[0].currency, as_json=as_json)


@tariff.command("library")
def tariff_library(as_json: AsJson = False) -> None:
    """Tariffs of real utilities that come with Standpipe, to start from."""
    rows: list[list[str]] = []
    wrong: list[str] = []
    for path in sorted(LIBRARY.glob("*.yaml")):
        try:
            found = _read(path)
        except TariffFileError as error:
            wrong.extend(error.lines)
        else:
            rows.append([path.name, found.tariff, found.name, found.currency, str(found.effective_from), found.source])
    show("Tariff library", ["file", "code", "name", "currency", "from", "source"], rows, as_json=as_json)
    if rows and not as_json:
        typer.echo(f"The files lie in {LIBRARY}.")
    if wrong:
        for line in wrong:
            typer.echo(harmless(line), err=True)
        sys.exit(1)


def _read(path: Path) -> TariffFile:
    """A tariff file, checked. Raises TariffFileError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TariffFileError("The file cannot be read.", lines=(f"{path}:1: cannot be read: {why}",)) from None
    return read_tariff(text, str(path))


def _as_published(file: TariffFile) -> list[TariffInForce]:
    """A file as if it were published: its only version."""
    return [TariffInForce("", "", file.name, file.currency, file.effective_from, to_terms(file))]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(f"{text!r} is no day; write it like 2026-10-01.") from None


async def _known_utility(session: AsyncSession, utility_id: str | None) -> str:
    """``the_utility``, and that there is one of that id. Raises NotFoundError too."""
    found = await the_utility(session, utility_id)
    if await session.get(Utility, found) is None:
        raise NotFoundError(f"There is no utility {found}.")
    return found


async def _versions(session: AsyncSession, utility_id: str, code: str) -> list[TariffInForce]:
    tariff_id = await session.scalar(select(Tariff.id).where(Tariff.utility_id == utility_id, Tariff.code == code))
    found = {} if tariff_id is None else await versions(session, [tariff_id])
    if tariff_id is None or not found.get(tariff_id):
        raise NotFoundError(f"There is no tariff {code}.")
    return found[tariff_id]


def _state(version: TariffInForce, known: Sequence[TariffInForce], today: date) -> str:
    if version_on(known, today) is version:
        return "in force"
    return "announced" if version.effective_from > today else "past"


def _print_bill(title: str, bills: Sequence[Priced], currency: str, *, as_json: bool) -> None:
    lines = [line for bill in bills for line in bill_of(bill, 0).lines]
    total_minor = sum(bill.total_minor for bill in bills)
    if as_json:
        amounts = [{"line": line_text(one, currency, "en"), "amount_minor": one.amount_minor} for one in lines]
        print(json.dumps({"currency": currency, "lines": amounts, "total_minor": total_minor}, indent=2))
        return
    rows = [[line_text(one, currency, "en"), str(one.since), money_text(one.amount_minor, currency)] for one in lines]
    show(title, ["line", "from", "amount"], [*rows, ["Total", "", money_text(total_minor, currency)]], as_json=False)
