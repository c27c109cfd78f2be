"""The office's commands around tariffs."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from standpipe.office import prices
from standpipe.platform.database import Sessions
from standpipe.platform.units import period_of
from standpipe.tariffs.models import TariffVersion
from standpipe.utilities.models import OperatorAction
from tests.support.office import Office, hire
from tests.support.town import SETTLED, make_utility, settled

pytestmark = pytest.mark.calendar

GOOD = """\
tariff: domestic
name: Domestic
currency: KES
effective-from: {since}
blocks:
  - {{up-to-kl: 6, price: 53.455}}
  - {{up-to-kl: 20, price: {second}}}
  - {{price: 130.00}}
allowance: {{kl: 1, for: [lifeline]}}
standing-charges:
  - {{code: meter-rent, name: Meter rent, amount: 150.00, per: month}}
levies:
  - {{code: regulatory, name: Regulatory levy, percent: 4, of: [water]}}
  - {{code: vat, name: VAT, percent: 16, of: [meter-rent]}}
discounts:
  - {{code: social, name: Social discount, percent: 10, for: [lifeline]}}
"""
BAD = """\
tariff: Domestic
name: ""
currency: KES
effective-from: 2026-13-01
colour: blue
blocks:
  - {up-to-kl: 6, price: -1}
  - {up-to-kl: 6, price: 95.00}
"""


def good(since: str = "2026-01-01", second: str = "95.10") -> str:
    return GOOD.format(since=since, second=second)


@pytest.fixture
def nowhere(tmp_path: Path) -> Office:
    """An office whose database cannot be reached."""
    return Office("postgresql://nobody@127.0.0.1:1/none", tmp_path)


async def test_check_names_every_mistake_with_its_line_and_needs_no_database(nowhere: Office, tmp_path: Path) -> None:
    files = {
        "good.yaml": good(),
        "bad.yaml": BAD,
        "empty.yaml": "",
        "yaml.yaml": "a: [b",
        "blocks.yaml": good().replace("up-to-kl: 20", "up-to-kl: 5"),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "latin.yaml").write_bytes("name: Dépôt".encode("latin-1"))
    fine = await nowhere.good("tariff", "check", str(tmp_path / "good.yaml"))
    assert "good.yaml: good: domestic (Domestic), 3 blocks, from 2026-01-01" in fine
    said = await nowhere.refused(
        "tariff", "check", *(str(tmp_path / name) for name in (*files, "latin.yaml", "none.yaml"))
    )
    lines = [line.removeprefix(f"{tmp_path}/") for line in said.splitlines()]
    for start in (
        "good.yaml: good", "bad.yaml:1: tariff", "bad.yaml:2: name", "bad.yaml:4: effective-from",
        "bad.yaml:5: colour", "bad.yaml:7: blocks.1.price", "empty.yaml:1:", "yaml.yaml:1:",
        "blocks.yaml:7: blocks must rise", "latin.yaml:1: cannot be read: it is not UTF-8",
        "none.yaml:1: cannot be read: No such file",
    ):  # fmt: skip
        assert any(line.startswith(start) for line in lines), (start, said)


async def test_the_files_that_come_with_us_are_good(nowhere: Office) -> None:
    files = [str(path) for path in sorted(Path(prices.__file__).parents[1].glob("tariffs/*/*.yaml"))]
    assert files
    await nowhere.good("tariff", "check", *files)


@pytest.fixture
async def office(sessions: Sessions, database_url: str, tmp_path: Path) -> Office:
    """By the utility's clock it is the middle of a month."""
    await make_utility(sessions)
    clock = {f"STANDPIPE_{name.upper()}": str(value) for name, value in settled().items()}
    return await hire(database_url, tmp_path, **clock)


async def test_a_tariff_s_life(office: Office, sessions: Sessions, tmp_path: Path) -> None:
    file, later = tmp_path / "first.yaml", tmp_path / "later.yaml"
    file.write_text(good())
    assert "operator key" in (await office.run("tariff", "publish", str(file), key="")).stderr
    assert "a new tariff" in await office.good("tariff", "publish", str(file))
    assert "just so: nothing to do" in await office.good("tariff", "publish", str(file))
    file.write_text(good(second="99.00"))
    assert "another version from 2026-01-01" in await office.refused("tariff", "publish", str(file))
    today = SETTLED.date()
    file.write_text(good(since=str(today)))
    assert "too early" in await office.refused("tariff", "publish", str(file))
    follows = period_of(today)[1]
    later.write_text(good(since=str(follows), second="99.00"))
    assert "its newest version" in await office.good("tariff", "publish", str(later))
    listed = json.loads(await office.good("tariff", "list", "--json"))
    assert [(row["code"], row["from"], row["state"]) for row in listed] == [
        ("d", "2020-01-01", "in force"), ("domestic", "2026-01-01", "in force"),
        ("domestic", str(follows), "announced"),
    ]  # fmt: skip
    assert "no version" in await office.refused("tariff", "withdraw", "domestic", "2031-01-01")
    assert "counts already" in await office.refused("tariff", "withdraw", "domestic", "2026-01-01")
    assert "no day" in await office.refused("tariff", "withdraw", "domestic", "soon")
    await office.good("tariff", "withdraw", "domestic", str(follows))
    async with sessions() as session:
        trail = list((await session.scalars(select(OperatorAction).order_by(OperatorAction.id))).all())
        versions = await session.scalar(select(func.count()).select_from(TariffVersion))
    assert versions == 2
    assert [row.action for row in trail] == ["operator.add", "tariff.publish", "tariff.publish", "tariff.withdraw"]
    assert {row.operator for row in trail} == {"amina"}
    assert trail[1].detail == {"code": "domestic", "effective_from": "2026-01-01", "file": "first.yaml"}


async def test_what_a_month_would_come_to(office: Office, tmp_path: Path) -> None:
    file = tmp_path / "domestic.yaml"
    file.write_text(good())
    await office.good("tariff", "publish", str(file))

    async def price(*words: str) -> tuple[list[tuple[str, int]], int]:
        said = await office.good("tariff", "price", "domestic", *words, "--json")
        bill = json.loads(said)
        assert sum(line["amount_minor"] for line in bill["lines"]) == bill["total_minor"]
        return [(line["line"], line["amount_minor"]) for line in bill["lines"]], bill["total_minor"]

    lines, total = await price("--volume-m3", "12.5", "--month", "2026-11")
    # 6 × 53.455 + 6.5 × 95.10 = 938.88; 4 % of it is 37.5552, which the running total rounds.
    assert lines == [
        ("Water, block 1: 6.0 m³ × KES53.455/m³", 32_073), ("Water, block 2: 6.5 m³ × KES95.10/m³", 61_815),
        ("Regulatory levy", 3_756), ("Meter rent, 30 days", 15_000), ("VAT", 2_400),
    ]  # fmt: skip
    assert total == 115_044
    lines, total = await price("--volume-m3", "12.5", "--month", "2026-11", "--groups", "lifeline, other")
    assert [label for label, _ in lines][:2] == ["Free allowance: 1.0 m³", "Water, block 1: 5.0 m³ × KES53.455/m³"]
    # 5 × 53.455 + 6.5 × 95.10 = 885.425, a tenth of it; the running total rounds.
    assert dict(lines)["Social discount"] in {-8_854, -8_855}
    shown = await office.good("tariff", "price", "domestic", "--volume-m3", "0")
    assert "KES174.00" in shown
    for words in (
        ("nothing", "--volume-m3", "1"), ("domestic", "--volume-m3", "much"), ("domestic", "--volume-m3", "-1"),
        ("domestic", "--volume-m3", "1e40"), ("domestic", "--volume-m3", "1", "--month", "2026-13"),
        ("domestic", "--volume-m3", "1", "--households", "10001"),
        ("domestic", "--volume-m3", "1", "--utility-id", "utl_none"),
    ):  # fmt: skip
        assert "standpipe:" in await office.refused("tariff", "price", *words)


async def test_a_file_is_priced_before_anybody_sees_it(nowhere: Office, tmp_path: Path) -> None:
    file = tmp_path / "draft.yaml"
    file.write_text(good(since="2031-01-01"))
    bill = json.loads(
        await nowhere.good("tariff", "price", str(file), "--volume-m3", "12.5", "--month", "2026-11", "--json")
    )
    assert (bill["currency"], bill["total_minor"]) == ("KES", 115_044)
    file.write_text(BAD)
    assert "draft.yaml:1" in await nowhere.refused("tariff", "price", str(file), "--volume-m3", "1")


async def test_a_month_in_which_prices_change_is_shown_in_its_parts(office: Office, tmp_path: Path) -> None:
    for number, (since, second) in enumerate((("2026-01-01", "95.10"), ("2030-06-16", "200.00"))):
        file = tmp_path / f"{number}.yaml"
        file.write_text(good(since, second))
        await office.good("tariff", "publish", str(file))
    bill = json.loads(
        await office.good("tariff", "price", "domestic", "--volume-m3", "20", "--month", "2030-06", "--json")
    )
    water = [line["line"] for line in bill["lines"] if line["line"].startswith("Water")]
    # Half a month each, half the volume and half the blocks.
    assert water == [
        "Water, block 1: 3.0 m³ × KES53.455/m³", "Water, block 2: 7.0 m³ × KES95.10/m³",
        "Water, block 1: 3.0 m³ × KES53.455/m³", "Water, block 2: 7.0 m³ × KES200.00/m³",
    ]  # fmt: skip


async def test_several_utilities_must_be_told_apart(office: Office, sessions: Sessions, tmp_path: Path) -> None:
    utility_id, _ = await make_utility(sessions)
    file = tmp_path / "t.yaml"
    file.write_text(good())
    assert "--utility-id" in await office.refused("tariff", "publish", str(file))
    await office.good("tariff", "publish", str(file), "--utility-id", utility_id)
    assert "no utility" in await office.refused("tariff", "publish", str(file), "--utility-id", "utl_x")
    file.write_text(good().replace("KES", "USD").replace("domestic", "other"))
    assert "charges in KES" in await office.refused("tariff", "publish", str(file), "--utility-id", utility_id)
    async with sessions.begin() as session:
        with pytest.raises(Exception, match="never changed"):
            await session.execute(text("UPDATE tariff_versions SET effective_from = effective_from + 1"))


@pytest.mark.parametrize("content", [None, {}, {"nyeri.yaml": good()}, {"nyeri.yaml": good(), "bad.yaml": BAD}])
def test_the_library_lists_what_there_is(
    content: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "library"
    if content is not None:
        folder.mkdir()
        for name, words in content.items():
            (folder / name).write_text(words)
    monkeypatch.setattr(prices, "LIBRARY", folder)
    if content and "bad.yaml" in content:
        with pytest.raises(SystemExit):
            prices.tariff_library()
    else:
        prices.tariff_library()
    said = capsys.readouterr()
    assert ("nyeri.yaml" in said.out) is bool(content)
    assert ("bad.yaml:1: tariff" in said.err) is bool(content and "bad.yaml" in content)
    assert content or "nothing" in said.out


def test_dates_of_the_sample_months_are_what_they_seem() -> None:
    assert period_of(date(2026, 11, 1))[1] - date(2026, 11, 1) == timedelta(days=30)
