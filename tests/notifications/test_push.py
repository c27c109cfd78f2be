"""Pushes through the real firebase-admin, against Google's wire format: what is retried, dropped, and shown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from standpipe.notifications.alerts import check_low_balance, raise_once
from standpipe.notifications.deliver import deliver_due
from standpipe.notifications.models import Alert, AlertKind, Delivery, Device
from standpipe.notifications.push import PushSender
from standpipe.notifications.rules import LowBalanceSignal
from standpipe.platform.serving import serve
from standpipe_demo.simulator import fake_phone
from tests.support.database import free_port
from tests.support.town import Town

REGISTER = (
    "mutation($i: ID!, $p: PushAddress!) { deviceRegister(input: {installationId: $i, platform: ANDROID, push: $p, "
    'appVersion: "1", language: "en", timeZone: "UTC"}) { device { id pushHealthy } userErrors { code } } }'
)
PARAMS = {"label": "Home", "credit_minor": 5, "currency": "KES", "days_left": 1}


@pytest.fixture
async def phone(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    fake_phone.write_service_account(tmp_path / "firebase.json", f"{url}/token")
    task = asyncio.create_task(serve(fake_phone.make_app(tmp_path / "firebase.json"), "127.0.0.1", port))
    yield url, tmp_path / "firebase.json"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def sender(phone: tuple[str, Path]) -> AsyncIterator[PushSender]:
    made = PushSender(phone[1], phone[0])
    yield made
    await made.close()


async def tell(town: Town, key: str = "k") -> bool:
    async with town.sessions.begin() as session:
        return await raise_once(
            session,
            meter_id=town.home.meter_id,
            kind=AlertKind.LOW_BALANCE,
            business_key=key,
            params=PARAMS,
            now=datetime.now(UTC),
        )


async def deliveries(town: Town) -> list[Delivery]:
    async with town.sessions() as session:
        return list((await session.scalars(select(Delivery).order_by(Delivery.id))).all())


async def messages(town: Town, phone: tuple[str, Path]) -> list[dict[str, Any]]:
    answer = (await town.http.get(f"{phone[0]}/messages")).json()
    return list(answer["messages"])


async def register(town: Town, address: dict[str, str], installation: str = "i1") -> Any:
    return (await town.gql(REGISTER, i=installation, p=address))["data"]["deviceRegister"]


@pytest.mark.parametrize("address", [{"fcmFid": "fid-1"}, {"fcmToken": "token-1"}])
async def test_an_alert_reaches_each_device_once(
    town: Town, phone: tuple[str, Path], sender: PushSender, address: dict[str, str]
) -> None:
    assert (await register(town, address))["userErrors"] == []
    assert await tell(town)
    assert not await tell(town)
    assert await deliver_due(town.sessions, sender) == 1
    assert await deliver_due(town.sessions, sender) == 0
    [message] = await messages(town, phone)
    assert message["to"] == next(iter(address.values()))
    assert message["title"] == "Water is running low"
    assert [row.status for row in await deliveries(town)] == ["SENT"]


async def test_n6_a_gone_address_is_forgotten(town: Town, phone: tuple[str, Path], sender: PushSender) -> None:
    await register(town, {"fcmToken": "token-gone"})
    await tell(town)
    await deliver_due(town.sessions, sender)
    assert [row.status for row in await deliveries(town)] == ["FAILED"]
    async with town.sessions() as session:
        device = (await session.scalars(select(Device))).one()
    assert (device.healthy, device.fcm_token) == (False, None)
    assert await messages(town, phone) == []


async def test_n7_too_many_requests_waits_as_long_as_google_says(
    town: Town, phone: tuple[str, Path], sender: PushSender
) -> None:
    await register(town, {"fcmFid": "fid-1"})
    await town.http.post(f"{phone[0]}/_control/throttle", params={"seconds": "3600"})
    await tell(town)
    await deliver_due(town.sessions, sender)
    [row] = await deliveries(town)
    assert row.status == "QUEUED"
    assert row.due_at is not None
    assert (row.due_at - row.updated_at).total_seconds() >= 3599
    await town.hurry(Delivery)
    await deliver_due(town.sessions, sender)
    assert [row.status for row in await deliveries(town)] == ["SENT"]


async def test_n7_a_refused_grant_loses_nothing(town: Town, phone: tuple[str, Path], tmp_path: Path) -> None:
    await register(town, {"fcmFid": "fid-1"})
    other = tmp_path / "other.json"
    fake_phone.write_service_account(other, f"{phone[0]}/token")
    stranger = PushSender(other, phone[0])
    await tell(town)
    await deliver_due(town.sessions, stranger)
    await stranger.close()
    [row] = await deliveries(town)
    assert (row.status, row.attempts) == ("QUEUED", 1)
    assert row.last_error is not None
    assert "invalid_grant" in row.last_error


async def test_n8_a_worker_that_dies_between_send_and_record_repeats_itself_at_most_once(
    town: Town, phone: tuple[str, Path], sender: PushSender
) -> None:
    await register(town, {"fcmFid": "fid-1"})
    await tell(town)
    await deliver_due(town.sessions, sender)
    async with town.sessions.begin() as session:
        # As if the record of it had been lost: due again after the lease.
        row = (await session.scalars(select(Delivery))).one()
        row.status, row.due_at = "QUEUED", row.updated_at
    await deliver_due(town.sessions, sender)
    sent = await messages(town, phone)
    assert len(sent) == 2
    assert len({message["collapse_key"] for message in sent}) == 1


async def test_n10_a_customer_without_a_device_is_seen_to_be_unreached(town: Town, sender: PushSender) -> None:
    await tell(town)
    assert await deliver_due(town.sessions, sender) == 0
    assert [row.status for row in await deliveries(town)] == ["SUPPRESSED"]


async def test_without_firebase_a_push_is_suppressed_and_not_lost_from_sight(town: Town) -> None:
    await register(town, {"fcmFid": "fid-1"})
    await tell(town)
    await deliver_due(town.sessions, None)
    assert [row.status for row in await deliveries(town)] == ["SUPPRESSED"]


async def test_a_phone_that_changes_hands_leaves_its_old_owner(town: Town) -> None:
    await register(town, {"fcmToken": "token-1"}, "i1")
    await register(town, {"fcmFid": "fid-other"}, "i2")
    await register(town, {"fcmToken": "token-1"}, "i3")
    async with town.sessions() as session:
        healthy = {row.installation_id: row.healthy for row in await session.scalars(select(Device))}
    assert healthy == {"i1": False, "i2": True, "i3": True}


async def test_crossing_a_threshold_twice_at_once_is_told_once(town: Town) -> None:
    async def signal() -> None:
        async with town.sessions.begin() as session:
            await check_low_balance(
                session,
                meter_id=town.home.meter_id,
                signal=LowBalanceSignal(2.0, 500),
                params=PARAMS,
                now=datetime.now(UTC),
            )

    await asyncio.gather(*(signal() for _ in range(8)))
    assert await town.count(Alert) == 1
