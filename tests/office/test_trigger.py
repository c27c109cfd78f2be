"""``standpipe trigger`` against the real app, the sandbox and Stripe's stand-in; a worker notices what happens."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from standpipe.payments.models import TopUp
from tests.support.command import standpipe_beside
from tests.support.town import METER_SECRET, SANDBOX_KEY, STRIPE_KEY, Town

Trigger = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def trigger(town: Town, database_url: str, tmp_path: Path) -> Trigger:
    """The command, with the settings of a demo."""
    settings = {
        "sandbox_url": town.sandbox_url,
        "sandbox_api_key": SANDBOX_KEY,
        "stripe_api_base": town.stripe_url,
        "stripe_api_key": STRIPE_KEY,
        "stripe_publishable_key": "pk_test",
        "meter_key_secrets": METER_SECRET,
        "public_url": town.api,
        "stripe_webhook_secrets": "whsec",
        "sandbox_webhook_secrets": "secret",
    }

    async def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ("trigger", *words, "--meter", town.home.serial)
        return await standpipe_beside(database_url, tmp_path, *command, **settings | more)

    return run


@asynccontextmanager
async def worker(town: Town) -> AsyncIterator[None]:
    async def work() -> None:
        while True:
            await town.drain()
            await town.poll()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(work())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def the_top_up(town: Town) -> Any:
    async with town.sessions() as session:
        return (await session.scalars(select(TopUp))).one()


@pytest.mark.parametrize(
    ("event", "method", "statuses", "wallet"),
    [
        ("topup.paid", "stripe", ["AWAITING_CUSTOMER", "PAID"], 20_000),
        ("topup.expired", "sandbox", ["AWAITING_CUSTOMER", "EXPIRED"], 0),
        ("topup.cancelled", "sandbox", ["AWAITING_CUSTOMER", "CANCELLED"], 0),
        ("topup.paid_late", "sandbox", ["AWAITING_CUSTOMER", "FAILED", "PAID"], 20_000),
        ("topup.paid_untold", "sandbox", ["AWAITING_CUSTOMER", "PAID"], 20_000),
        ("topup.refunded", "sandbox", ["AWAITING_CUSTOMER", "PAID", "REFUNDED"], 0),
        ("topup.disputed", "sandbox", ["AWAITING_CUSTOMER", "PAID", "REFUNDED"], 0),
    ],
)
async def test_a_flow_happens_and_shows(
    town: Town, trigger: Trigger, event: str, method: str, statuses: list[str], wallet: int
) -> None:
    async with worker(town):
        done = await trigger(event, "--method", method)
    assert done.returncode == 0, done.stdout + done.stderr
    top_up = await the_top_up(town)
    lines = done.stdout.splitlines()
    assert [line.removeprefix(f"{top_up.id}: ") for line in lines if line.split()[-1] in statuses] == statuses
    assert await town.status(top_up.id) == statuses[-1]
    assert await town.wallet() == wallet
    assert set((await town.sums()).values()) <= {0}


async def test_what_nobody_notices_is_said(town: Town, trigger: Trigger) -> None:
    done = await trigger("topup.paid", "--wait-s", "1")
    assert done.returncode == 1
    assert "still AWAITING_CUSTOMER: are `standpipe serve` and `standpipe worker` running?" in done.stderr


async def test_refusals_are_one_clear_line(town: Town, trigger: Trigger) -> None:
    refused = [
        (("topup.paid", "--method", "stripe"), {"stripe_api_base": "https://api.stripe.com"}, "the real Stripe"),
        (("topup.paid", "--amount", "lots"), {}, "no amount"),
        (("topup.paid", "--amount", "0.01"), {}, "KES"),
    ]
    for words, settings, said in refused:
        done = await trigger(*words, **settings)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr
    assert await town.count(TopUp) == 0
    done = await trigger("topup.expired", "--method", "stripe")
    assert (done.returncode, "cannot expire" in done.stderr) == (1, True), done.stderr
