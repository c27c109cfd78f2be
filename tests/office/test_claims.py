"""Claim codes on the command line."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from standpipe.meters.claim_codes import hash_code, read_code
from standpipe.meters.claim_models import ClaimCode
from standpipe.platform.database import Sessions
from standpipe.utilities.models import OperatorAction
from tests.support.office import hire
from tests.support.town import make_home, make_settings, make_utility


async def test_codes_are_made_for_many_meters_shown_once_and_revoked(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    utility_id, tariff_id = await make_utility(sessions)
    homes = [
        await make_home(
            *(sessions, make_settings(), utility_id, tariff_id), installed_at=datetime.now(UTC), zone="Africa/Nairobi"
        )
        for _ in range(2)
    ]
    serials = [home.serial for home in homes]
    amina = await hire(database_url, tmp_path)
    printed = await amina.good("claim", "issue", *serials, "--csv", "--expires-in", "30")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["serial"] for row in rows] == serials
    async with sessions() as session:
        kept = list(await session.scalars(select(ClaimCode).order_by(ClaimCode.id)))
        assert [row.code_hash for row in kept] == [hash_code(read_code(row["code"])) for row in rows]
        assert {row.issued_by for row in kept} == {"amina"}
    plain = (await amina.good("claim", "issue", serials[0])).split()
    assert plain[0] == serials[0]
    assert read_code(plain[1])
    listed = await amina.good("claim", "list", serials[0], "--json")
    assert [(row["state"], row["expires"] == "") for row in json.loads(listed)] == [("open", True), ("open", False)]
    assert not any(row["code"] in listed for row in rows)
    assert "revoked: 1" in await amina.good("claim", "revoke", rows[1]["id"])
    assert "no open code" in await amina.refused("claim", "revoke", rows[1]["id"])
    assert "revoked: 2" in await amina.good("claim", "revoke", serials[0])
    assert {row["state"] for row in json.loads(await amina.good("claim", "list", "--json"))} == {"revoked"}
    async with sessions() as session:
        trace = list(await session.scalars(select(OperatorAction.action).order_by(OperatorAction.id)))
    assert trace[-5:] == ["claim.issue"] * 3 + ["claim.revoke"] * 2


async def test_what_cannot_be_is_refused_with_one_clear_line_and_makes_no_code(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    utility_id, tariff_id = await make_utility(sessions)
    home = await make_home(
        *(sessions, make_settings(), utility_id, tariff_id), installed_at=datetime.now(UTC), zone="Africa/Nairobi"
    )
    amina = await hire(database_url, tmp_path)
    assert "No meter has the serial NOBODY" in await amina.refused("claim", "issue", home.serial, "NOBODY")
    assert "lives 1 to 3650 days" in await amina.refused("claim", "issue", home.serial, "--expires-in", "0")
    assert (await amina.run("claim", "issue", home.serial, key="")).returncode == 1
    assert (await amina.run("claim", "issue", home.serial, key="opk_wrong")).returncode == 1
    async with sessions() as session:
        assert (await session.scalars(select(ClaimCode))).all() == []
