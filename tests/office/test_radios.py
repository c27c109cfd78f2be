"""The office binds radios to meters: by key, with a trace, and never one radio to two meters."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meter_gateway.lorawan.devices import bind as bind_device
from standpipe.meter_gateway.lorawan.tables import DeviceClass, LoraDevice
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.utilities.models import OperatorAction
from tests.support.command import standpipe_beside
from tests.support.town import make_home, make_settings, make_utility


async def test_a_radio_is_bound_to_a_meter_and_changed_but_never_shared(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    utility_id, tariff_id = await make_utility(sessions)
    at = datetime.now(UTC) - timedelta(days=2)
    first, second = [
        await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=at, zone="Africa/Nairobi")
        for _ in range(2)
    ]

    async def run(*words: str, key: str = "") -> subprocess.CompletedProcess[str]:
        return await standpipe_beside(database_url, tmp_path, *words, operator_key=key)

    amina = (await run("operator", "add", "amina")).stdout.strip()
    bind = ("lorawan", "device")
    assert (await run(*bind, first.serial, "70B3D57ED0060001")).returncode == 1
    done = await run(*bind, first.serial, "70:B3:D5:7E:D0:06:00:01", "--class", "C", "--application", "a1", key=amina)
    assert (done.returncode, done.stderr) == (0, "")
    refused = await run(*bind, second.serial, "70b3d57ed0060001", key=amina)
    assert (refused.returncode, "another meter's" in refused.stderr) == (1, True)
    for serial, dev_eui, error in (
        (second.serial, "70b3d57ed006000", InvalidInputError),
        (second.serial, "70b3d57ed006000g", InvalidInputError),
        ("NOBODY", "70b3d57ed0060002", NotFoundError),
    ):
        async with sessions() as session:
            with pytest.raises(error):
                await _bind(session, serial, dev_eui)
    async with sessions.begin() as session:
        await _bind(session, first.serial, "70b3d57ed0060009")
    async with sessions() as session:
        device = (await session.scalars(select(LoraDevice))).one()
        traces = (await session.scalars(select(OperatorAction).where(OperatorAction.action == "lorawan.device"))).all()
    assert (device.meter_id, device.dev_eui, device.device_class) == (first.meter_id, "70b3d57ed0060009", "A")
    assert [(trace.operator, trace.subject_id) for trace in traces] == [
        ("amina", first.meter_id),
        ("brian", first.meter_id),
    ]
    done = await run("lorawan", "list", "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert [(row["serial"], row["dev_eui"], row["downlink"]) for row in listed] == [
        (first.serial, "70b3d57ed0060009", "")
    ]


async def _bind(session: AsyncSession, serial: str, dev_eui: str) -> None:
    await bind_device(
        session,
        operator="brian",
        serial=serial,
        dev_eui=dev_eui,
        device_class=DeviceClass.A,
        region="EU868",
        application_id=None,
    )
