"""A tariff version is announced for a day to come, and once published it stands."""

from datetime import date

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.tariffs.catalogue import contract_of
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import TariffVersion
from standpipe.tariffs.publishing import Published, publish, withdraw
from tests.support.town import make_utility

TODAY = date(2026, 6, 15)


def written(since: str, *, price: str = "50.00", proration: str = "days", **more: str) -> str:
    fields = {"tariff": "flat", "name": "Flat", "currency": "KES", "effective-from": since, "proration": proration}
    lines = [f"{name}: {value}" for name, value in (fields | more).items()]
    return "\n".join([*lines, "blocks:", f"  - {{price: {price}}}"])


async def announce(sessions: Sessions, utility_id: str, text_: str, today: date = TODAY) -> Published:
    async with sessions.begin() as session:
        return await publish(
            session, utility_id=utility_id, utility_currency="KES", file=read_tariff(text_), today=today
        )


async def test_a_first_version_may_begin_in_the_past_and_the_next_counts_from_its_own_day(sessions: Sessions) -> None:
    utility_id, _ = await make_utility(sessions)
    first = await announce(sessions, utility_id, written("2024-01-01"))
    second = await announce(sessions, utility_id, written("2026-07-01", price="80.00"))
    assert (first.is_new_tariff, second.is_new_tariff, first.tariff_id) == (True, False, second.tariff_id)
    async with sessions() as session:
        contract = await contract_of(session, "mtr_any", first.tariff_id, date(2024, 1, 1))
    prices = {
        day: contract.segment_on(day).table.blocks[0].price_minor_per_kl
        for day in (date(2023, 5, 1), date(2026, 6, 30), date(2026, 7, 1))
    }
    assert list(prices.values()) == [5_000, 5_000, 8_000]
    following = contract.next_version(TODAY)
    assert following is not None
    assert following.effective_from == date(2026, 7, 1)


@pytest.mark.parametrize(
    ("since", "proration", "refused"),
    [
        ("2026-06-15", "none", True),  # Today has begun.
        ("2026-06-16", "none", False),
        ("2026-06-16", "days", True),  # The shares of the running period would change for water already used.
        ("2026-07-01", "days", False),
        ("2026-01-01", "none", True),
    ],
)
async def test_t6_activation_never_rewrites_the_past(
    sessions: Sessions, since: str, proration: str, refused: bool
) -> None:
    utility_id, _ = await make_utility(sessions)
    await announce(sessions, utility_id, written("2024-01-01", proration=proration))
    if not refused:
        await announce(sessions, utility_id, written(since, price="1.00", proration=proration))
        return
    with pytest.raises(InvalidInputError, match="too early"):
        await announce(sessions, utility_id, written(since, price="1.00", proration=proration))


@pytest.mark.parametrize(
    ("change", "why"),
    [({"currency": "UGX"}, "currency"), ({"basis": "purchase"}, "basis"), ({"class": "kiosk"}, "class")],
)
async def test_a_version_that_is_another_tariff_is_refused(
    sessions: Sessions, change: dict[str, str], why: str
) -> None:
    utility_id, _ = await make_utility(sessions)
    await announce(sessions, utility_id, written("2024-01-01"))
    with pytest.raises(InvalidInputError, match=why):
        await announce(sessions, utility_id, written("2026-08-01", **change))
    with pytest.raises(InvalidInputError, match="another version"):
        await announce(sessions, utility_id, written("2024-01-01", price="51.00"))
    assert (await announce(sessions, utility_id, written("2024-01-01"))).was_there


async def test_a_new_tariff_in_anothers_currency_is_refused(sessions: Sessions) -> None:
    utility_id, _ = await make_utility(sessions)
    with pytest.raises(InvalidInputError, match="KES"):
        await announce(sessions, utility_id, written("2026-08-01", currency="UGX"))


async def test_the_database_refuses_to_change_a_published_version(sessions: Sessions) -> None:
    utility_id, _ = await make_utility(sessions)
    await announce(sessions, utility_id, written("2026-08-01"))
    async with sessions() as session:
        with pytest.raises(DBAPIError, match="never changed"):
            await session.execute(text("UPDATE tariff_versions SET effective_from = '2020-01-01'"))


async def test_only_a_version_that_does_not_count_yet_is_withdrawn(sessions: Sessions) -> None:
    utility_id, _ = await make_utility(sessions)
    await announce(sessions, utility_id, written("2024-01-01"))
    soon, later = await announce(sessions, utility_id, written("2026-07-01")), date(2026, 9, 1)
    await announce(sessions, utility_id, written(later.isoformat()))
    async with sessions.begin() as session:
        await withdraw(session, utility_id=utility_id, code="flat", effective_from=later, today=TODAY)
    async with sessions.begin() as session:
        with pytest.raises(NotFoundError):
            await withdraw(session, utility_id=utility_id, code="flat", effective_from=later, today=TODAY)
        for since, today in ((date(2024, 1, 1), TODAY), (date(2026, 7, 1), date(2026, 7, 2))):
            with pytest.raises(InvalidInputError, match="counts already"):
                await withdraw(session, utility_id=utility_id, code="flat", effective_from=since, today=today)
        kept = await session.scalars(select(TariffVersion.id).where(TariffVersion.tariff_id == soon.tariff_id))
        assert soon.version_id in set(kept)
