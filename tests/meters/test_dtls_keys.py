"""Meter keys on the command line: given out once, replaced over the air, taken away, and sealed anew."""

import asyncio
import csv
import io
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select, text

from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.tables import MeterDtlsKeys, MeterRegistration
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import MeterCredential
from standpipe.platform.database import Sessions
from standpipe.utilities.models import OperatorRole
from standpipe.utilities.operators import add_operator
from standpipe_demo.simulator import meter_store
from tests.support.command import standpipe
from tests.support.radio import Field, make_field, make_meter
from tests.support.town import METER_SECRET, PREPAID_KEY, until

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
async def run(database_url: str, sessions: Sessions, tmp_path: Path) -> Run:
    """``run("rotate", serial)`` is ``standpipe meter-key rotate serial``, by an engineer."""
    async with sessions.begin() as session:
        engineer = await add_operator(session, "femi", by="root", role=OperatorRole.FIELD)

    def command(*words: str, secrets: str = METER_SECRET, key: str = engineer) -> subprocess.CompletedProcess[str]:
        settings = {"meter_key_secrets": secrets, "log_level": "DEBUG", "operator_key": key}
        return standpipe(database_url, tmp_path, "meter-key", *words, **settings)

    return command


@pytest.fixture
async def keyless(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    async with make_field(database_url, sessions, tmp_path) as made:
        yield made


@pytest.fixture
async def secure(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    async with make_field(database_url, sessions, tmp_path, dtls=True) as made:
        yield made


async def test_a_key_is_shown_once_sealed_at_rest_and_opens_a_session(keyless: Field, run: Run) -> None:
    done = run("provision", keyless.home.serial)
    [[serial, identity, key_hex]] = csv.reader(io.StringIO(done.stdout))
    assert serial == identity == keyless.home.serial
    assert len(bytes.fromhex(key_hex)) == 16
    assert key_hex not in done.stderr
    async with keyless.sessions() as session:
        row = (await session.scalars(select(MeterDtlsKeys))).one()
        dump = (await session.execute(text("SELECT meter_dtls_keys::text FROM meter_dtls_keys"))).scalar_one()
    assert KeyRing([METER_SECRET]).open(row.sealed_key or "").hex() == key_hex
    assert key_hex not in dump
    meter = make_meter(keyless.settings, keyless.home, keyless.folder / "new", dtls_key_hex=key_hex)
    assert await meter.wake()
    shown = run("show", keyless.home.serial, "--json")
    assert key_hex not in shown.stdout
    assert json.loads(shown.stdout)[0]["key"] == "yes"
    assert json.loads(shown.stdout)[0]["used_at"]
    again = run("provision", keyless.home.serial)
    assert (again.returncode, again.stdout) == (1, "")
    assert "rotate or revoke" in again.stderr


async def test_a_table_of_many_is_taken_whole_or_not_at_all(keyless: Field, run: Run, tmp_path: Path) -> None:
    table = tmp_path / "factory.csv"
    serial, key_hex = keyless.home.serial, "00112233445566778899aabbccddeeff"
    for wrong in (f"{serial},\n{serial},zz", f"{serial},\nNOBODY,"):
        table.write_text(f"serial,key\n{wrong}\n")
        done = run("provision", "--from", str(table))
        assert (done.returncode, done.stdout) == (1, ""), wrong
    async with keyless.sessions() as session:
        assert (await session.scalars(select(MeterDtlsKeys.sealed_key))).all() == []
    table.write_text(f"serial,key\n{serial},{key_hex}\n")
    assert run("provision", "--from", str(table)).stdout == f"{serial},{serial},{key_hex}\n"
    assert run("provision", "--bootstrap", serial).returncode == 0


async def test_a_rotated_key_travels_to_the_meter_and_is_proven_by_its_next_session(secure: Field, run: Run) -> None:
    assert await secure.meter.wake()
    first = secure.meter._credential()[1]
    assert "key 1 waits" in run("rotate", secure.home.serial).stdout
    assert "key 1 waits" in run("rotate", secure.home.serial).stdout
    second = await taken_after(secure, first)
    # Written, and not yet proven: both are good.
    assert len(await keys(secure)) == 2
    assert json.loads(run("show", secure.home.serial, "--json").stdout)[0]["written_at"]
    assert await secure.meter.wake()
    await until(lambda: _proven(secure, second))
    old = make_meter(secure.settings, secure.home, secure.folder / "old", dtls_key_hex=first.hex())
    assert not await old.wake()
    assert "key 2 waits" in run("rotate", secure.home.serial).stdout


async def test_m1_a_key_whose_answer_is_lost_is_written_again_and_either_way_opens_a_session(
    secure: Field, run: Run
) -> None:
    assert await secure.meter.wake()
    first = secure.meter._credential()[1]
    run("rotate", secure.home.serial)
    secure.meter.lose_answers_to("new_key", 1)
    taken = await taken_after(secure, first)
    assert len(await keys(secure)) == 2
    async with secure.sessions() as session:
        assert (await session.scalars(select(MeterDtlsKeys.next_written_at))).one() is None
    # It goes on in the old session, and is given the same key again; then it begins another with it.
    while await keys(secure) != (taken,):
        await secure.meter.wake()
    assert secure.meter._credential()[1] == taken


async def test_a_key_that_never_arrived_keeps_nobody_out(secure: Field, run: Run) -> None:
    run("rotate", secure.home.serial)
    secure.meter.lose_answers_to("volume", 1)
    for _ in range(2):
        assert await secure.meter.wake()
        secure.meter._radio.forget_session()
    assert len(await keys(secure)) in {1, 2}


async def test_a_revoked_key_ends_the_session_at_once_and_opens_no_other(secure: Field, run: Run) -> None:
    assert await secure.meter.wake()
    assert run("revoke", secure.home.serial).returncode == 0
    async with secure.sessions() as session:
        assert (await session.scalars(select(MeterRegistration))).all() == []
    assert not await secure.meter.wake()
    assert not secure.meter._radio.is_connected
    # Nor is it heard without one: it has to be provisioned again.
    run("provision", "--from", str(_table(secure)))
    assert await secure.meter.wake()


async def test_reseal_lets_the_old_secret_go(secure: Field, run: Run) -> None:
    assert await secure.meter.wake()
    run("rotate", secure.home.serial)
    fresh = Fernet.generate_key().decode()
    assert run("reseal", secrets=f"{fresh},{METER_SECRET}").stdout.startswith("1 meters'")
    ring = KeyRing([fresh])
    async with secure.sessions() as session:
        found = await dtls_keys.credential_of(session, ring, secure.home.serial)
        prepaid = (await session.scalars(select(MeterCredential.sealed_prepaid_key))).one()
    assert len(found.keys) == 2
    assert ring.open(prepaid) == PREPAID_KEY
    assert run("reseal", secrets=Fernet.generate_key().decode()).returncode == 2


async def test_a_meter_refuses_an_older_key(secure: Field, run: Run) -> None:
    assert await secure.meter.wake()
    secure.meter.state.dtls_generation = 5
    secure.meter.save()
    run("rotate", secure.home.serial)
    assert await secure.meter.wake()
    assert meter_store.load(secure.folder / "meters", secure.meter.config).dtls_key_hex == ""
    assert len(await keys(secure)) == 2


async def keys(field: Field) -> tuple[bytes, ...]:
    async with field.sessions() as session:
        return (await dtls_keys.credential_of(session, KeyRing([METER_SECRET]), field.home.serial)).keys


async def taken_after(field: Field, before: bytes) -> bytes:
    """Wake until the meter has another key."""
    async with asyncio.timeout(30):
        while field.meter._credential()[1] == before:
            await field.meter.wake()
    return field.meter._credential()[1]


async def _proven(field: Field, key: bytes) -> bool:
    return await keys(field) == (key,)


def _table(field: Field) -> Path:
    table = field.folder / "again.csv"
    table.write_text(f"serial,key\n{field.home.serial},{field.meter._credential()[1].hex()}\n")
    return table
