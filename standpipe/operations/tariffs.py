"""Tariffs: published, withdrawn, listed, tried out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.price_tables import push_to_all
from standpipe.meters.due import mark_tariff_due
from standpipe.operations.find import utility_of
from standpipe.operations.long_operation import LongDesk, long_operation
from standpipe.operations.operation import Desk, operation
from standpipe.platform.errors import NotFoundError
from standpipe.tariffs import publishing
from standpipe.tariffs.catalogue import versions
from standpipe.tariffs.files import TariffFile
from standpipe.tariffs.models import Tariff
from standpipe.tariffs.periods import TariffInForce, version_on
from standpipe.tariffs.publishing import Published
from standpipe.utilities.models import Utility
from standpipe.utilities.operators import ANYBODY, FIELD_WORK


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version of a tariff; ``state``: in force, announced or past today, where its utility is."""

    tariff: Tariff
    version: TariffInForce
    state: str


@dataclass(frozen=True, slots=True)
class Announced:
    """A published version, and how many meters' price tables were queued for it."""

    published: Published
    pushed: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The id of a withdrawn version, and how many meters' price tables were queued instead of it."""

    version_id: str
    pushed: int


@long_operation("tariffs.publish", may=FIELD_WORK)
async def publish(desk: LongDesk, utility_id: str | None, file: TariffFile, *, file_name: str) -> Announced:
    """Announce a version of a tariff, and send its table to the meters that deduct by it, ahead of its day.

    What holds already, the installer has set. Publishing the same again changes nothing, and sends what was not sent
    yet. Raises InvalidInputError, NotFoundError.
    """
    async with desk.begin() as one:
        utility = await utility_of(one.session, utility_id)
        done = await publishing.publish(
            one.session,
            utility_id=utility.id,
            utility_currency=utility.currency,
            file=file,
            today=_today(one, utility),
        )
        if not done.was_there:
            day = str(file.effective_from)
            await mark_tariff_due(await one.session.connection(), done.tariff_id, reprice_from=file.effective_from)
            await one.record("tariff.publish", done.version_id, code=file.tariff, effective_from=day, file=file_name)
    return Announced(done, await _push(desk, done.tariff_id, file.effective_from))


@long_operation("tariffs.withdraw", may=FIELD_WORK)
async def withdraw(desk: LongDesk, utility_id: str | None, code: str, effective_from: date) -> Withdrawn:
    """Take back a version before it counts; today's table takes the place of the one that waits in the meters.

    Raises NotFoundError, InvalidInputError.
    """
    async with desk.begin() as one:
        utility = await utility_of(one.session, utility_id)
        tariff_id = (await _versions(one.session, utility.id, code))[0].tariff_id
        version_id = await publishing.withdraw(
            one.session, utility_id=utility.id, code=code, effective_from=effective_from, today=_today(one, utility)
        )
        await mark_tariff_due(await one.session.connection(), tariff_id, reprice_from=effective_from)
        await one.record("tariff.withdraw", version_id, code=code, effective_from=str(effective_from))
    return Withdrawn(version_id, await _push(desk, tariff_id, None))


@operation("tariffs.list", may=ANYBODY, reads=True)
async def list_versions(desk: Desk) -> Sequence[ListedVersion]:
    """Read every version of every tariff, and which of them counts today."""
    rows = await desk.session.execute(
        select(Tariff, Utility.time_zone)
        .join(Utility, Utility.id == Tariff.utility_id)
        .order_by(Tariff.utility_id, Tariff.code)
    )
    found = {item.id: (item, desk.now.astimezone(ZoneInfo(zone)).date()) for item, zone in rows}
    known = await versions(desk.session, list(found))
    return [
        ListedVersion(item, version, _state(version, known[item.id], today))
        for item, today in found.values()
        for version in known.get(item.id, ())
    ]


@operation("tariffs.versions", may=ANYBODY, reads=True)
async def versions_of(desk: Desk, utility_id: str | None, code: str) -> Sequence[TariffInForce]:
    """Read the versions of one tariff, oldest first. Raises NotFoundError."""
    return await _versions(desk.session, (await utility_of(desk.session, utility_id)).id, code)


async def _versions(session: AsyncSession, utility_id: str, code: str) -> Sequence[TariffInForce]:
    tariff_id = await session.scalar(select(Tariff.id).where(Tariff.utility_id == utility_id, Tariff.code == code))
    found = {} if tariff_id is None else await versions(session, [tariff_id])
    if tariff_id is None or not found.get(tariff_id):
        raise NotFoundError(f"There is no tariff {code}.")
    return found[tariff_id]


async def _push(desk: LongDesk, tariff_id: str, from_day: date | None) -> int:
    return await push_to_all(desk.sessions, tariff_id, now=desk.clock.now(), from_day=from_day)


def _today(desk: Desk, utility: Utility) -> date:
    return desk.now.astimezone(ZoneInfo(utility.time_zone)).date()


def _state(version: TariffInForce, known: Sequence[TariffInForce], today: date) -> str:
    if version_on(known, today) is version:
        return "in force"
    return "announced" if version.effective_from > today else "past"
