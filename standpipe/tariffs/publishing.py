"""Publishing tariffs: versions are announced for a day to come, and never touch what has been charged."""

from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.units import period_of
from standpipe.tariffs.files import TariffFile, to_terms
from standpipe.tariffs.models import Tariff, TariffVersion
from standpipe.tariffs.terms import Proration, Terms


@dataclass(frozen=True, slots=True)
class Published:
    """Result of ``publish``. ``was_there``: this very version had been published before, and nothing was done."""

    tariff_id: str
    version_id: str
    is_new_tariff: bool
    was_there: bool = False


async def publish(
    session: AsyncSession, *, utility_id: str, utility_currency: str, file: TariffFile, today: date
) -> Published:
    """Announce a tariff version. ``today`` is the utility's day.

    A tariff's first version may begin on any day; a later one only in future, and where it prorates its periods (or
    the version before does) not inside a period that has begun: the shares would change for water already used.
    The same file again changes nothing. Raises InvalidInputError.
    """
    document = file.model_dump(mode="json", by_alias=True)
    tariff = await session.scalar(
        select(Tariff).where(Tariff.utility_id == utility_id, Tariff.code == file.tariff).with_for_update()
    )
    is_new = tariff is None
    if tariff is None:
        if file.currency != utility_currency:
            raise InvalidInputError(f"This utility charges in {utility_currency}.", ("currency",))
        tariff = Tariff(
            id=new_id("trf"),
            utility_id=utility_id,
            code=file.tariff,
            name=file.name,
            currency=file.currency,
            basis=file.basis.upper(),
            customer_class=file.customer_class,
        )
        session.add(tariff)
        await session.flush()
    else:
        known = await _versions(session, tariff.id)
        same = next((item for item in known if item.effective_from == file.effective_from), None)
        if same is not None and same.document == document:
            return Published(tariff.id, same.id, is_new_tariff=False, was_there=True)
        _check_follows(tariff, known, file, today)
    terms = to_terms(file)
    version = TariffVersion(
        id=new_id("trv"),
        tariff_id=tariff.id,
        effective_from=file.effective_from,
        blocks=_plain_blocks(terms),
        document=document,
    )
    session.add(version)
    await session.flush()
    return Published(tariff.id, version.id, is_new)


async def withdraw(session: AsyncSession, *, utility_id: str, code: str, effective_from: date, today: date) -> str:
    """Take back a version that has not begun to count; returns its id. Raises NotFoundError, InvalidInputError."""
    tariff = await session.scalar(
        select(Tariff).where(Tariff.utility_id == utility_id, Tariff.code == code).with_for_update()
    )
    known = [] if tariff is None else await _versions(session, tariff.id)
    found = next((version for version in known if version.effective_from == effective_from), None)
    if found is None:
        raise NotFoundError(f"{code} has no version from {effective_from}.")
    earliest = _earliest(today, proration=Proration.DAYS)
    if found is known[0] or effective_from < earliest:
        raise InvalidInputError("This version counts already; publish another that follows it.")
    await session.execute(delete(TariffVersion).where(TariffVersion.id == found.id))
    return found.id


def _check_follows(tariff: Tariff, known: list[TariffVersion], file: TariffFile, today: date) -> None:
    for ours, theirs, field in (
        (tariff.currency, file.currency, "currency"),
        (tariff.basis, file.basis.upper(), "basis"),
        (tariff.customer_class, file.customer_class, "class"),
    ):
        if ours != theirs:
            raise InvalidInputError(f"{tariff.code} has the {field} {ours}; another is another tariff.", (field,))
    if any(version.effective_from == file.effective_from for version in known):
        raise InvalidInputError(f"{tariff.code} has another version from {file.effective_from}.", ("effective-from",))
    prorates = file.proration == "days" or any(_prorates(version) for version in known)
    earliest = _earliest(today, proration=Proration.DAYS if prorates else Proration.NONE)
    starts_a_period = file.effective_from.day == 1 and file.effective_from > today
    if known and file.effective_from < earliest and not starts_a_period:
        raise InvalidInputError(
            f"{file.effective_from} is too early: a version begins on a coming day, and where blocks are prorated not "
            f"inside the period that runs. The first day that can be is {min(earliest, period_of(today)[1])}.",
            ("effective-from",),
        )


def _earliest(today: date, *, proration: Proration) -> date:
    return period_of(today)[1] if proration is Proration.DAYS else today + timedelta(days=1)


def _prorates(version: TariffVersion) -> bool:
    return bool(version.document) and (version.document or {}).get("proration", "days") == "days"


async def _versions(session: AsyncSession, tariff_id: str) -> list[TariffVersion]:
    rows = await session.scalars(
        select(TariffVersion).where(TariffVersion.tariff_id == tariff_id).order_by(TariffVersion.effective_from)
    )
    return list(rows)


def _plain_blocks(terms: Terms) -> list[dict[str, object]]:
    """Return the first season's blocks, which the release before this one reads."""
    return [
        {"up_to_ml": block.up_to_ml, "price_minor_per_kl": str(block.price_minor_per_kl)}
        for block in terms.seasons[0].table.blocks
    ]
