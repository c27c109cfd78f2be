"""Registers that are swapped or set back: what counts in the meter's life goes on rising (T5)."""

import pytest

from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from tests.support.desk import DAY, HOUR, desk_of, rows
from tests.support.water import LATER, START, state, take


async def test_t5_a_swapped_register_goes_on_where_the_old_one_ended(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    at = START + 10 * DAY
    await take(sessions, desk.home, [(START + 9 * DAY, 800_000_000 - 500_000)])
    # Nobody has told us of the swap yet: the new register's readings look like steps back.
    new = [(at + (number + 1) * DAY, 200_000 * (number + 1)) for number in range(3)]
    held = (await state(sessions, desk.home))["days"]
    await take(sessions, desk.home, new)
    assert (await state(sessions, desk.home))["days"] == held
    outcome = await desk.swap(at, 800_000_000, 0)
    assert outcome.still_held == 3
    outcome = await desk.rejudge()
    assert (outcome.counted, outcome.still_held) == (3, 0)
    assert await desk.volume() == 800_000_000 + 600_000
    # A late reading of the old register, and a later one of the new.
    await take(sessions, desk.home, [(at - HOUR, 800_000_000 - 100_000), (at + 4 * DAY, 700_000)])
    found = (await state(sessions, desk.home))["days"]
    assert sum(found.values()) == 800_000_000 + 700_000
    assert found[at.date()] == 500_000
    assert (await desk.reading(at + 4 * DAY)).counted_ml == 800_000_000 + 700_000


async def test_t5_a_swap_to_a_higher_register_is_held_until_a_person_says_so(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + DAY, 500_000)])
    at = START + DAY + 2 * HOUR
    used = [(at + number * DAY, 900_000_000 + 100_000 * number) for number in range(60)]
    for reading in used:
        await take(sessions, desk.home, [reading])
    # Weeks later so much could have run through the pipe. It has not: the first hour said so.
    assert await desk.volume() == 500_000
    assert len(await desk.held()) == 60
    await desk.swap(at - HOUR, 600_000, 900_000_000)
    await desk.rejudge()
    assert await desk.held() == []
    assert await desk.volume() == 600_000 + 59 * 100_000


async def test_t5_readings_that_counted_by_the_old_register_are_judged_anew(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    at = START + 5 * DAY
    readings = [(START + number * DAY + HOUR, 80_000_000 + 100_000 * number) for number in range(1, 9)]
    await take(sessions, desk.home, [(START + 12 * HOUR, 80_000_000), *readings])
    before = await state(sessions, desk.home)
    assert sum(before["days"].values()) == 80_800_000
    # The new register started forty litres above where the old one ended: they were never used.
    outcome = await desk.swap(at, 80_410_000, 80_450_000)
    after = await state(sessions, desk.home)
    assert after["wallet"] - before["wallet"] == -outcome.charged_minor == 400
    assert sum(after["days"].values()) == 80_800_000 - 40_000
    # Of the days after the swap only the first is another; their places in the meter's life all are.
    changed = {day for day in before["days"] if before["days"][day] != after["days"][day]}
    assert changed == {at.date()}
    [swap] = [row for row in await rows(sessions) if row.reason == "SWAPPED"]
    assert (swap.register_ml, swap.corrected_ml, swap.quality) == (80_410_000, 80_450_000, "CORRECTED")
    assert (await desk.reading(readings[-1][0])).counted_ml == 80_760_000


async def test_t5_a_late_reading_of_the_old_register_after_the_noted_instant_is_held(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    at = START + 5 * DAY
    await take(sessions, desk.home, [(at - HOUR, 800_000_000), (at + HOUR / 2, 800_010_000), (at + HOUR, 800_020_000)])
    await desk.swap(at, 800_005_000, 0)
    assert [item.read_at for item in await desk.held()] == [at + HOUR / 2, at + HOUR]
    await take(sessions, desk.home, [(at + 2 * HOUR, 1_000)])
    assert await desk.volume() == 800_005_000 + 1_000


async def test_t5_a_swap_that_was_none_is_taken_back(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    at = START + 5 * DAY
    readings = [(START + number * DAY + HOUR, 100_000 * number) for number in range(1, 9)]
    await take(sessions, desk.home, readings)
    before = await state(sessions, desk.home)
    await desk.swap(at, 450_000, 350_000)
    assert await state(sessions, desk.home) != before
    [swap] = [row for row in await rows(sessions) if row.reason == "SWAPPED"]
    await desk.reject(swap.read_at)
    assert await state(sessions, desk.home) == before
    # A second one at the same instant, for it had been another after all.
    await desk.swap(at, 450_000, 400_000)
    assert await desk.volume() == 850_000


async def test_t5_a_second_swap_goes_on_from_the_first(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + DAY, 500_000)])
    await desk.swap(START + 4 * DAY, 900_000, 0)
    await take(sessions, desk.home, [(START + 5 * DAY, 100_000)])
    assert await desk.volume() == 900_000 + 100_000
    # Entered last, though it came first; and it must go with what was said of the second.
    with pytest.raises(InvalidInputError, match="What was decided at 2026-03-24"):
        await desk.swap(START + 2 * DAY, 600_000, 950_000)
    await desk.swap(START + 2 * DAY, 600_000, 50_000)
    assert await desk.volume() == 600_000 + 850_000 + 100_000


async def test_t5_a_final_value_below_what_was_shown_is_refused(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + DAY, 500_000)])
    with pytest.raises(InvalidInputError, match=r"0\.500 m³"):
        await desk.swap(START + 2 * DAY, 499_999, 0)
    with pytest.raises(InvalidInputError, match="still to come"):
        await desk.swap(LATER + DAY, 600_000, 0)
