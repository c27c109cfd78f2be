"""A household with two members, and push senders whose every answer the test decides."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from standpipe.households.models import Customer, Household, Membership
from standpipe.meters.models import Meter
from standpipe.notifications.push import PushMessage, PushOutcome
from standpipe.tariffs.models import Tariff
from standpipe.utilities.models import Utility

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass
class StubSender:
    """Stands where PushSender stands; answers each message by ``answer``."""

    answer: PushOutcome = field(default_factory=lambda: PushOutcome(message_id="projects/p/messages/1"))
    sent: list[PushMessage] = field(default_factory=list)

    async def send(self, message: PushMessage) -> PushOutcome:
        self.sent.append(message)
        return self.answer


@pytest.fixture
def sender() -> StubSender:
    return StubSender()


@pytest.fixture
async def meter_id(sessions) -> str:
    """A meter whose household has the members cus_a and cus_b."""
    async with sessions.begin() as session:
        await session.execute(insert(Utility).values(id="uti_1", name="U", currency="KES", time_zone="Africa/Nairobi"))
        await session.execute(insert(Household).values(id="hou_1", utility_id="uti_1", name="H"))
        await session.execute(insert(Tariff).values(**_tariff()))
        for customer, phone in (("cus_a", "+254700000001"), ("cus_b", "+254700000002")):
            await session.execute(insert(Customer).values(id=customer, phone=phone))
            await session.execute(insert(Membership).values(household_id="hou_1", customer_id=customer, role="OWNER"))
        await session.execute(
            insert(Meter).values(
                id="mtr_1",
                serial="S1",
                label="Home",
                utility_id="uti_1",
                household_id="hou_1",
                tariff_id="tar_1",
                wallet_kind="MONEY",
                currency="KES",
                time_zone="Africa/Nairobi",
                installed_at=NOW,
            )
        )
    return "mtr_1"


def _tariff() -> dict[str, object]:
    known = {"id": "tar_1", "code": "T", "utility_id": "uti_1", "name": "T", "basis": "MONEY", "currency": "KES"}
    return {column.name: known[column.name] for column in Tariff.__table__.columns if column.name in known}
