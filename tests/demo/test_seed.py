"""The demo's town can be built, and its books agree."""

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.fernet import Fernet
from sqlalchemy import func, select

from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter
from standpipe.payments.rails.registry import Rails
from standpipe.payments.reconcile import make_report
from standpipe.platform.database import Sessions
from standpipe_demo import seed


async def test_the_town_is_built_and_its_books_agree(sessions: Sessions) -> None:
    kept: list[dict[str, Any]] = []
    now, keys = datetime.now(UTC), KeyRing([Fernet.generate_key().decode()])
    assert not await seed.is_seeded(sessions)
    await seed.seed(sessions, keys, now, vending_key=bytes(20), progress=lambda _: None, keep=kept.extend)
    assert await seed.is_seeded(sessions)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Meter)) == len(kept) >= len(seed.PLANS)
        report = await make_report(session, Rails({}), now, missing_after=timedelta(days=7))
    assert report.differences == []
