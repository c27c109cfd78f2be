"""The days on which ``make test-calendar`` plays, and what it stands on."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from standpipe.platform.database import Sessions
from tests import on_any_day


@pytest.mark.calendar
async def test_the_database_goes_by_the_suite_s_clock(sessions: Sessions) -> None:
    async with sessions() as session:
        before = datetime.now(UTC)
        assert before - timedelta(seconds=1) <= await session.scalar(text("SELECT clock_timestamp()"))
        assert await session.scalar(text("SELECT clock_timestamp()")) <= datetime.now(UTC) + timedelta(seconds=1)


def test_the_night_is_one_when_clocks_change() -> None:
    [(at, zone)] = [where for where in on_any_day.DAYS.values() if where[1] != "UTC"]
    begins = datetime.fromisoformat(at).replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    assert (begins + timedelta(hours=1)).utcoffset() != begins.utcoffset()


def test_where_there_is_no_library_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(on_any_day.LIBRARY, "/nowhere/libfaketimeMT.so.1")
    assert on_any_day.main([]) == 2
    assert "apt-get install faketime" in capsys.readouterr().err
