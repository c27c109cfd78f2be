"""The office's commands around statements and arrears."""

from pathlib import Path

import pytest
from sqlalchemy import select

from standpipe.ledger.dues import dues_of
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, account_sum_minor
from standpipe.platform.database import Sessions
from standpipe.utilities.models import OperatorAction
from tests.support.office import Office, hire
from tests.support.town import SETTLED, Home, settled
from tests.support.water import START, meter, take

NOW = SETTLED


@pytest.fixture
async def home(sessions: Sessions) -> Home:
    made, _ = await meter(sessions)
    await take(sessions, made, [(START.replace(month=4, day=10), 6_000_000), (START.replace(month=5), 17_000_000)])
    return made


@pytest.fixture
async def office(database_url: str, tmp_path: Path) -> Office:
    """By the town's clock it is the middle of June."""
    clock = {f"STANDPIPE_{name.upper()}": str(value) for name, value in settled().items()}
    return await hire(database_url, tmp_path, **clock)


async def test_a_month_is_shown_closed_and_printed(
    office: Office, home: Home, sessions: Sessions, tmp_path: Path
) -> None:
    said = await office.good("statement", "show", home.serial, "2026-05")
    assert "Statement (so far)" in said
    assert "Water, block 2: 1.0 m³ × KES100.00/m³" in said
    assert "-KES900.00" in said
    assert "000001" in await office.good("statement", "issue", home.serial, "2026-04")
    pdf = tmp_path / "april.pdf"
    said = await office.good("statement", "show", home.serial, "2026-04", "--pdf", str(pdf), "--language", "fr")
    assert "Statement 000001" in said
    assert pdf.read_bytes().startswith(b"%PDF")
    # A late reading: April stands, and June's statement tells of it.
    await take(sessions, home, [(START.replace(month=4, day=29), 8_000_000)], NOW)
    assert "April 2026 adjusted" in await office.good("statement", "show", home.serial, "2026-05")
    for words, why in (
        (("issue", home.serial, "2026-04"), "closed already"),
        (("issue", home.serial, "2026-06"), "not ended"),
        (("issue", home.serial, "2026-02"), "not there yet"),
        (("issue", "NOBODY", "2026-04"), "NOBODY"),
        (("show", home.serial, "2026-07"), "not begun"),
        (("show", home.serial, "2026"), "no month"),
        (("show", home.serial, "2026-1x"), "no month"),
        (("show", home.serial, "2026-04", "--pdf", str(tmp_path / "no" / "x.pdf")), "cannot be written"),
    ):
        assert why in await office.refused("statement", *words), words
    async with sessions() as session:
        trail = (await session.scalars(select(OperatorAction).where(OperatorAction.action == "statement.issue"))).all()
    assert [(row.operator, row.detail) for row in trail] == [
        ("amina", {"serial": home.serial, "month": "2026-04", "number": 1})
    ]


async def test_arrears_are_put_on_a_meter_and_written_off(office: Office, home: Home, sessions: Sessions) -> None:
    async def owed() -> int:
        async with sessions() as session:
            return (await dues_of(session, home.meter_id, NOW)).debt_minor

    assert f"{home.serial} owes KES1,500.00" in await office.good(
        "arrears", "add", home.serial, "1500.00", "--reference", "BILL-7"
    )
    for words, why in (
        (("add", home.serial, "1500.00", "--reference", "BILL-7"), "was used"),
        (("add", home.serial, "0", "--reference", "B"), "above zero"),
        (("add", home.serial, "5.005", "--reference", "B"), "2 digits"),
        (("add", home.serial, "much", "--reference", "B"), "no amount"),
        (("add", home.serial, "1", "--reference", " "), "reference"),
        (("write-off", home.serial, "1500.01", "--reference", "B"), "more than"),
        (("write-off", "NOBODY", "1.00", "--reference", "B"), "NOBODY"),
    ):
        assert why in await office.refused("arrears", *words), words
    assert await owed() == 150_000
    # The bill's own reference may be the decision's.
    assert "owes KES1,000.00" in await office.good(
        "arrears", "write-off", home.serial, "500.00", "--reference", "BILL-7"
    )
    assert "was used" in await office.refused("arrears", "write-off", home.serial, "1.00", "--reference", "BILL-7")
    assert await owed() == 100_000
    async with sessions() as session:
        trail = (await session.scalars(select(OperatorAction).order_by(OperatorAction.id))).all()
        receivable = AccountRef(AccountKind.RECEIVABLE, home.meter_id, "KES")
        assert await account_sum_minor(session, receivable) == -100_000
    assert [(row.action, row.subject_id) for row in trail[1:]] == [
        ("arrears.add", home.meter_id), ("arrears.write-off", home.meter_id),
    ]  # fmt: skip
