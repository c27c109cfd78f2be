"""Friendly hours against a walk that goes minute by minute and knows only what the clock on the wall shows."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standpipe.platform.errors import InvalidInputError
from standpipe.supply import zero_credit_rules
from standpipe.supply.zero_credit import PolicyTerms, UtilityPolicy, zero_credit_policy
from standpipe.supply.zero_credit_rules import (
    DAYS,
    CutOff,
    FriendlyHours,
    cut_off_of,
    friendly_changes_at,
    friendly_of,
    in_friendly_hours,
    is_friendly,
    zero_credit_action,
)

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
KENYA = {"from": "18:00", "to": "08:00", "weekends": True, "holidays": "KE"}
NAIROBI = ZoneInfo("Africa/Nairobi")
# Around changes of the clocks, of the year and of February, at both ends of the world, and one of half an hour.
PLACES = [
    ("Europe/Paris", datetime(2026, 3, 28, tzinfo=UTC)),
    ("Europe/Paris", datetime(2026, 10, 24, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 3, tzinfo=UTC)),  # The clocks skipped midnight.
    ("America/Sao_Paulo", datetime(2018, 2, 16, tzinfo=UTC)),  # The last hour of a day came twice.
    ("Australia/Lord_Howe", datetime(2026, 4, 4, tzinfo=UTC)),  # By half an hour.
    ("Pacific/Apia", datetime(2011, 12, 28, tzinfo=UTC)),  # A day was left out.
    ("Pacific/Kiritimati", datetime(2027, 12, 31, tzinfo=UTC)),
    ("Pacific/Pago_Pago", datetime(2028, 2, 28, tzinfo=UTC)),
    ("Africa/Nairobi", datetime(2028, 2, 28, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 4, 30, tzinfo=UTC)),
]

clock_times = st.integers(0, 24 * 12 - 1).map(lambda n: f"{n // 12:02}:{n % 12 * 5:02}")
hours = st.tuples(clock_times, clock_times).filter(lambda pair: pair[0] != pair[1])
hours_in_words = hours.map(lambda pair: {"from": pair[0], "to": pair[1]})


@st.composite
def schedules(draw: Any) -> dict[str, Any]:
    raw: dict[str, Any] = dict(draw(hours_in_words)) if draw(st.booleans()) else {}
    raw["days"] = draw(st.dictionaries(st.sampled_from(DAYS), st.none() | hours_in_words, max_size=4))
    raw["weekends"] = draw(st.booleans() | st.lists(st.sampled_from(DAYS), max_size=3, unique=True))
    if draw(st.booleans()):
        raw["holidays"] = draw(st.sampled_from(["KE", "FR", "DE/BY", "BR"]))
    return raw


def walled(raw: dict[str, Any], wall: datetime, free_days: set[date]) -> bool:
    """The same rules, told as stretches of wall-clock time laid out from the day before."""
    weekend = {True: ["SAT", "SUN"], False: []}.get(raw["weekends"]) if isinstance(raw["weekends"], bool) else None
    for day in (wall.date() - DAY, wall.date()):
        midnight, name = datetime.combine(day, time.min), DAYS[day.weekday()]
        stretches = []
        if name in (raw["weekends"] if weekend is None else weekend) or day in free_days:
            stretches.append((midnight, midnight + DAY))
        own = raw["days"].get(name, raw if "from" in raw else None)
        if own is not None:
            start, end = (datetime.combine(day, time.fromisoformat(own[key])) for key in ("from", "to"))
            stretches.append((start, end if end > start else end + DAY))
        if any(start <= wall < end for start, end in stretches):
            return True
    return False


@given(schedules(), st.sampled_from(PLACES), st.integers(0, 24 * 60))
@settings(max_examples=60, deadline=None)
def test_m12_friendly_hours_agree_with_a_walk_minute_by_minute(
    raw: dict[str, Any], place: tuple[str, datetime], offset: int
) -> None:
    rules = friendly_of(raw)
    if rules is None:
        assert not raw.get("from")
        assert not raw.get("holidays")
        return
    zone, start = ZoneInfo(place[0]), place[1] + offset * MINUTE
    days = {(start + n * DAY).astimezone(zone).date() for n in range(-2, 6)}
    free = {day for day in days if rules.holidays and day in zero_credit_rules._calendar(rules.holidays)}
    answers = {}
    for n in range(3 * 24 * 60):
        at = start + n * MINUTE
        answers[at] = walled(raw, at.astimezone(zone).replace(tzinfo=None), free)
        assert is_friendly(rules, at, zone) is answers[at], at.astimezone(zone)
    flip = next((at for at, answer in answers.items() if answer is not answers[start]), None)
    change = friendly_changes_at(rules, start, zone)
    if flip is not None:
        assert change == flip
    elif change is not None:
        assert change >= start + len(answers) * MINUTE


@given(schedules(), st.sampled_from(PLACES), st.lists(st.integers(0, 6 * 24 * 60), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_m12_who_asks_first_and_when_changes_no_answer(
    raw: dict[str, Any], place: tuple[str, datetime], offsets: list[int]
) -> None:
    rules, zone = friendly_of(raw), ZoneInfo(place[0])
    if rules is None:
        return
    zero_credit_rules._answers.clear()
    for offset in offsets:
        at = place[1] + offset * MINUTE
        told = in_friendly_hours(rules, at, zone)
        assert told.now is zero_credit_rules._spared(rules, at, zone).now
        near = [at + n * 10 * MINUTE for n in range(int(rules.lead / (10 * MINUTE)) + 1)]
        if any(is_friendly(rules, moment, zone) for moment in near):
            assert told.now, "friendly now, or about to be"
        if told.until is not None:
            assert told.until > at
            assert zero_credit_rules._spared(rules, told.until, zone).now is not told.now


def nairobi(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NAIROBI)


@pytest.mark.parametrize(
    ("at", "friendly", "until"),
    [
        ("2026-07-15T17:59", False, "2026-07-15T18:00"),
        ("2026-07-15T18:00", True, "2026-07-16T08:00"),
        ("2026-07-16T07:59", True, "2026-07-16T08:00"),
        ("2026-07-16T08:00", False, "2026-07-16T18:00"),
        ("2026-07-17T20:00", True, "2026-07-20T08:00"),  # Friday evening, the weekend, Monday morning.
        ("2026-12-24T19:00", True, "2026-12-28T08:00"),  # Christmas, Boxing Day on a Saturday, the weekend.
        ("2026-06-01T12:00", True, "2026-06-02T08:00"),  # Madaraka Day, a Monday.
    ],
)
def test_m12_nights_weekends_and_kenyas_holidays(at: str, friendly: bool, until: str) -> None:
    rules = friendly_of(KENYA)
    assert rules is not None
    assert is_friendly(rules, nairobi(at), NAIROBI) is friendly
    assert friendly_changes_at(rules, nairobi(at), NAIROBI) == nairobi(until)


def test_m12_a_meter_is_told_before_the_hours_begin_and_not_before_they_end() -> None:
    rules = friendly_of(KENYA | {"lead_minutes": 90})
    assert rules is not None
    answers = [
        in_friendly_hours(rules, nairobi(f"2026-07-15T{text}"), NAIROBI)
        for text in ("12:00", "16:30", "17:59", "18:00", "23:00")
    ]
    assert [answer.now for answer in answers] == [False, True, True, True, True]
    assert answers[0].until == nairobi("2026-07-15T16:30")
    assert {answer.until for answer in answers[1:]} == {nairobi("2026-07-16T08:00")}
    # A gap shorter than the lead is none: who cannot be told in time is left alone.
    narrow = friendly_of({"from": "09:00", "to": "08:00", "lead_minutes": 120})
    assert narrow is not None
    assert in_friendly_hours(narrow, nairobi("2026-07-15T08:30"), NAIROBI).now
    assert in_friendly_hours(narrow, nairobi("2026-07-15T08:30"), NAIROBI).until is None


def test_m12_hours_over_a_change_of_the_clocks_keep_to_the_wall() -> None:
    paris = ZoneInfo("Europe/Paris")
    rules = friendly_of({"from": "22:00", "to": "02:30"})
    assert rules is not None
    # In spring 02:30 is skipped: the hours end at 03:00 summer time, which is 02:00 winter time.
    spring = friendly_changes_at(rules, datetime(2026, 3, 28, 23, tzinfo=UTC), paris)
    assert spring == datetime(2026, 3, 29, 1, tzinfo=UTC)
    # In autumn 02:00–02:30 comes twice, and is friendly twice.
    edges, at = [], datetime(2026, 10, 24, 22, tzinfo=UTC)
    for _ in range(3):
        at = friendly_changes_at(rules, at, paris) or at
        edges.append(at)
    assert edges == [datetime(2026, 10, 25, *hm, tzinfo=UTC) for hm in ((0, 30), (1, 0), (1, 30))]


def test_m12_days_may_have_hours_of_their_own_and_a_leap_day_is_a_day() -> None:
    rules = friendly_of(
        {"from": "18:00", "to": "08:00", "days": {"FRI": {"from": "12:00", "to": "24:00"}, "TUE": None}}
    )
    assert rules is not None
    assert is_friendly(rules, nairobi("2026-07-17T13:00"), NAIROBI)
    assert not is_friendly(rules, nairobi("2026-07-18T01:00"), NAIROBI)
    assert is_friendly(rules, nairobi("2028-02-29T07:00"), NAIROBI)  # A Tuesday: Monday's night.
    assert not is_friendly(rules, nairobi("2028-02-29T19:00"), NAIROBI)
    assert friendly_changes_at(rules, nairobi("2028-02-29T19:00"), NAIROBI) == nairobi("2028-03-01T18:00")


@pytest.mark.parametrize("raw", [None, {}, {"weekends": False}, {"days": {"MON": None}}])
def test_rules_without_any_hour_are_none(raw: dict[str, Any] | None) -> None:
    assert friendly_of(raw) is None


def test_always_and_only_on_holidays() -> None:
    always = friendly_of({"weekends": list(DAYS)})
    assert always is not None
    assert friendly_changes_at(always, nairobi("2026-07-15T12:00"), NAIROBI) is None
    assert in_friendly_hours(always, nairobi("2026-07-15T12:00"), NAIROBI) == zero_credit_rules.Spared(
        now=True, until=None
    )
    # It is read again tomorrow, for a calendar goes on; what waits for the meter holds without end all the same.
    rules = UtilityPolicy("DISCONNECT", {"weekends": list(DAYS)}, None, None, {})
    terms = (PolicyTerms(date(2026, 1, 1), "domestic", None),)
    at = nairobi("2026-07-15T12:00")
    policy = zero_credit_policy(rules, terms, NAIROBI, at, is_shut=False)
    assert (policy.at_zero, policy.until, policy.look_at) == (CutOff.NEVER, None, at + timedelta(days=1))
    seldom = FriendlyHours((None,) * 7, holidays="KE")
    assert friendly_changes_at(seldom, nairobi("2026-06-02T00:00"), NAIROBI) == nairobi("2026-10-10T00:00")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"from": "18:00"}, "from an hour to an hour"),
        ({"from": "18:00", "to": "18:00"}, "no stretch"),
        ({"from": "25:00", "to": "08:00"}, "no time of day"),
        ({"from": "8", "to": "09:00"}, "no time of day"),
        ({"from": "24:00", "to": "08:00"}, "no stretch"),
        ({"from": 18, "to": 8}, "no time of day"),
        ({"weekends": "yes"}, "Weekends"),
        ({"weekends": ["Saturday"]}, "no day of the week"),
        ({"days": ["MON"]}, "days"),
        ({"days": {"MON": "18:00"}}, "from an hour"),
        ({"holidays": "Kenya"}, "no holiday calendar"),
        ({"holidays": ["KE"]}, "no holiday calendar"),
        ({"holidays": "KE/1"}, "no part"),
        ({"holidays": "DE/"}, "no part"),
        ({"holidays": "DE/ZZ"}, "BY"),
        ({"lead_minutes": -1}, "minutes ahead"),
        ({"lead_minutes": True}, "minutes ahead"),
        ({"hours": "18-08"}, "have no 'hours'"),
    ],
)
def test_what_is_no_schedule_is_refused_in_words(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        friendly_of(raw)


def test_m12_what_a_meter_is_told() -> None:
    told = {
        (policy, is_spared, is_shut): zero_credit_action(
            policy, is_spared=is_spared, is_released=False, is_shut=is_shut
        )
        for policy in CutOff
        for is_spared in (False, True)
        for is_shut in (False, True)
    }
    # Friendly hours put a cut-off off; they do not open what was cut off before.
    spared_open = {(policy, True, False) for policy in CutOff}
    assert all(told[case] is (CutOff.NEVER if case in spared_open else case[0]) for case in told)
    assert zero_credit_action(CutOff.DISCONNECT, is_spared=False, is_released=True, is_shut=True) is CutOff.NEVER
    with pytest.raises(InvalidInputError, match="DISCONNECT, TRICKLE or NEVER"):
        cut_off_of("never")
