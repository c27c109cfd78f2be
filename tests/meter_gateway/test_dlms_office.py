"""Enrolling a meter from the command line, as an operator does, and serving it with what was typed."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select, update

from standpipe.meter_gateway.dlms import meters as dlms
from standpipe.meter_gateway.dlms.tables import DlmsMeter
from standpipe.meters.models import Meter
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.tariffs.models import Tariff
from standpipe.utilities.models import OperatorAction
from standpipe.utilities.operators import add_operator
from tests.support.command import standpipe_beside
from tests.support.dlms import HLS, dlms_field, enrol, identity_of
from tests.support.town import METER_SECRET, make_home, make_utility


async def test_an_operator_enrols_a_meter_and_the_trail_shows_it_without_its_keys(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with dlms_field(database_url, sessions, tmp_path) as field:
        fresh = identity_of(field.home)
        file = tmp_path / "meter.json"
        names = ("system_title", "encryption_key", "authentication_key")
        file.write_text(json.dumps({name: fresh[name] for name in names} | {"device_name": fresh["name"]}))
        async with sessions.begin() as session:
            key = await add_operator(session, "wanjiku", by="wanjiku")
        assert (await office(database_url, "", "dlms", "enrol", field.home.serial, HLS, str(file)))[0] == 1
        code, text = await office(database_url, key, "dlms", "enrol", field.home.serial, "no-such", str(file))
        assert (code, "No profile is called no-such" in text) == (1, True)
        code, text = await office(database_url, key, "dlms", "enrol", field.home.serial, HLS, str(file))
        assert code == 0, text
        await field.grant(5_000)
        field.run_meter(field.another_meter(field.home, fresh))
        await field.until_statuses(("CREDIT", "CONFIRMED"))
        async with sessions() as session:
            actions = (await session.scalars(select(OperatorAction).where(OperatorAction.action == "dlms.enrol"))).all()
        assert [(row.operator, row.subject_id) for row in actions] == [("wanjiku", field.home.meter_id)]
        assert fresh["encryption_key"] not in json.dumps(actions[0].detail)
        row = await field.row()
        assert fresh["encryption_key"] not in row.sealed_keys


async def test_new_keys_start_the_meters_counter_anew_and_never_ours(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with dlms_field(database_url, sessions, tmp_path) as field:
        first = vars(field.meter.identity)
        async with sessions.begin() as session:
            assert await dlms.reserve_counters(session, field.home.meter_id, 10) == 0
            await session.execute(update(DlmsMeter).values(meter_counter=77))
        await enrol(sessions, field.home, first)
        assert ((await field.row()).client_counter, (await field.row()).meter_counter) == (10, 77)
        await enrol(sessions, field.home, first | {"encryption_key": "ab" * 16})
        assert ((await field.row()).client_counter, (await field.row()).meter_counter) == (10, -1)
        async with sessions.begin() as session:
            with pytest.raises(InvalidInputError, match="used up"):
                await dlms.reserve_counters(session, field.home.meter_id, 2**32)


async def test_a_title_or_name_belongs_to_one_meter(database_url: str, sessions: Sessions, tmp_path: Path) -> None:
    async with dlms_field(database_url, sessions, tmp_path) as field:
        utility_id, tariff_id = await make_utility(sessions)
        at = datetime.now(UTC)
        other = await make_home(sessions, field.settings, utility_id, tariff_id, installed_at=at, zone="UTC")
        for name in ("system_title", "name"):
            stolen = identity_of(other) | {name: vars(field.meter.identity)[name]}
            with pytest.raises(InvalidInputError, match="Another meter"):
                await enrol(sessions, other, stolen)
        async with sessions.begin() as session:
            await session.execute(update(Tariff).where(Tariff.id == tariff_id).values(basis="PURCHASE"))
            await session.execute(update(Meter).where(Meter.id == other.meter_id).values(wallet_kind="VOLUME"))
        with pytest.raises(InvalidInputError, match="holds volume"):
            await enrol(sessions, other, identity_of(other))


async def test_a_file_with_a_key_of_the_wrong_length_is_refused(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with dlms_field(database_url, sessions, tmp_path) as field:
        async with sessions.begin() as session:
            key = await add_operator(session, "wanjiku", by="wanjiku")
        file = tmp_path / "meter.json"
        whole = {"system_title": "53" * 8, "device_name": "SPW1", "encryption_key": "00" * 16}
        for wrong in (whole, whole | {"authentication_key": "00" * 15}, whole | {"authentication_key": "xy"}, []):
            file.write_text(json.dumps(wrong))
            code, text = await office(database_url, key, "dlms", "enrol", field.home.serial, HLS, str(file))
            assert (code, "Traceback" in text) == (1, False), text
        assert (await field.row()).system_title == field.meter.identity.system_title


async def office(database_url: str, key: str, *words: str) -> tuple[int, str]:
    """The office's command line: exit code, and what it said."""
    done = await standpipe_beside(database_url, Path(), *words, meter_key_secrets=METER_SECRET, operator_key=key)
    return done.returncode, done.stdout + done.stderr
