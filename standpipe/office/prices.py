"""Tariffs: checked, published, withdrawn, tried out."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from standpipe import tariffs
from standpipe.billing.statement_body import bill_of
from standpipe.billing.statement_text import line_text
from standpipe.office.desk import AsJson, group, harmless, month_of, perform, perform_long, register_ml, show
from standpipe.operations import tariffs as operations
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.settings import load
from standpipe.platform.units import money_text
from standpipe.tariffs.files import TariffFile, TariffFileError, read_tariff, to_terms
from standpipe.tariffs.periods import Priced, TariffInForce
from standpipe.tariffs.sample import sample_bill

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

    announced = perform_long(operations.publish, utility_id, found, file_name=file.name)
    _say_pushed(announced.pushed)
    done = announced.published
    if done.was_there:
        typer.echo(f"{found.tariff} from {found.effective_from} is published already, just so: nothing to do.")
    else:
        first = "a new tariff" if done.is_new_tariff else "its newest version"
        typer.echo(f"{done.version_id}: {found.tariff} from {found.effective_from}, {first}")


def _say_pushed(meters: int) -> None:
    if meters:
        typer.echo(f"Its price table is queued for {meters} meters.")


@tariff.command("withdraw")
def tariff_withdraw(code: str, effective_from: str, utility_id: UtilityId = None) -> None:
    """Take back a version before it counts."""
    day = _day(effective_from)

    done = perform_long(operations.withdraw, utility_id, code, day)
    _say_pushed(done.pushed)
    typer.echo(f"{done.version_id}: {code} from {day} is withdrawn")


@tariff.command("list")
def tariff_list(as_json: AsJson = False) -> None:
    """Every version of every tariff, and which of them counts today."""
    rows = [
        [one.tariff.code, one.tariff.name, one.tariff.customer_class, one.tariff.basis, one.tariff.currency,
         str(one.version.effective_from), one.state, one.version.version_id, one.tariff.utility_id]
        for one in perform(operations.list_versions)
    ]  # fmt: skip
    columns = ["code", "name", "class", "basis", "currency", "from", "state", "version", "utility"]
    show("Tariffs", columns, rows, as_json=as_json)


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
    """Price a month's use, line by line."""
    volume_ml = register_ml(volume_m3)
    chosen = frozenset(part for item in groups.split(",") if (part := item.strip()))
    wanted = None if month is None else month_of(month)

    is_file = code.endswith((".yaml", ".yml"))
    today = (datetime.now(UTC) if is_file else load().clock.now()).date()
    known = _as_published(_read(Path(code))) if is_file else perform(operations.versions_of, utility_id, code)
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


def _print_bill(title: str, bills: Sequence[Priced], currency: str, *, as_json: bool) -> None:
    lines = [line for bill in bills for line in bill_of(bill, 0).lines]
    total_minor = sum(bill.total_minor for bill in bills)
    if as_json:
        amounts = [{"line": line_text(one, currency, "en"), "amount_minor": one.amount_minor} for one in lines]
        print(json.dumps({"currency": currency, "lines": amounts, "total_minor": total_minor}, indent=2))
        return
    rows = [[line_text(one, currency, "en"), str(one.since), money_text(one.amount_minor, currency)] for one in lines]
    show(title, ["line", "from", "amount"], [*rows, ["Total", "", money_text(total_minor, currency)]], as_json=False)
