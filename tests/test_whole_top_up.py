"""What a whole top-up costs the database: from the mutation to the meter's confirmation, with all that follows."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from standpipe.billing.rounds import rate_due
from standpipe.meter_gateway.delivery import DeliveryDesk
from standpipe.meter_gateway.lwm2m import registrations
from standpipe.meter_gateway.lwm2m.contacts import Contacts
from standpipe.notifications.deliver import deliver_due
from standpipe.payments.inbox import work_inbox
from standpipe.platform.database import engine_of
from standpipe.worker import work_outbox
from standpipe_demo.simulator import fake_stripe
from tests.meter_gateway.test_contacts import RING, Bench, Script
from tests.notifications.conftest import StubSender
from tests.support.statements import counted
from tests.support.town import Town

OFFLINE_AFTER = timedelta(hours=26)


@pytest.fixture
async def radio(town: Town) -> AsyncIterator[Bench]:
    """The town's meter at a gateway, registered and awake."""
    engine, script = engine_of(town.sessions), Script(town.home.serial)
    desk = DeliveryDesk(engine, town.settings.clock)
    contacts = Contacts(
        engine=engine,
        desk=desk,
        keys=RING,
        clock=town.settings.clock,
        object_id=42769,
        peer_at=lambda _: script,  # type: ignore[arg-type, return-value]  # Speaks like a MeterPeer.
    )
    wish = registrations.NewRegistration(
        town.home.serial, has_proven=False, remote="udp://127.0.0.1:9", lifetime_s=300, queue_mode=True, objects=""
    )
    async with engine.begin() as conn:
        await registrations.register(conn, RING, wish)
    yield Bench(town.sessions, town.home, script, contacts)
    await contacts.stop()
    await desk.stop()


async def whole_top_up(town: Town, radio: Bench) -> str:
    """Each door and queue once, in the order of things."""
    clock = town.settings.clock
    top_up_id, intent = await town.pay_by_card()
    assert (await town.tell(fake_stripe.event("payment_intent.succeeded", intent))).status_code == 200
    assert await work_inbox(town.sessions, town.rails, clock) == 1
    assert await work_outbox(town.sessions, town.rails, clock, OFFLINE_AFTER)
    await radio.updates()
    await radio.quiet()
    assert await work_outbox(town.sessions, town.rails, clock, OFFLINE_AFTER)
    assert await rate_due(town.sessions, clock)
    sender = StubSender()
    assert await deliver_due(town.sessions, sender, clock) == 1
    assert len(sender.sent) == 1
    return top_up_id


async def test_a_whole_top_up_takes_no_more_statements_than_it_did(town: Town, radio: Bench) -> None:
    device = (
        'mutation { deviceRegister(input: {installationId: "i", platform: IOS, push: {fcmToken: "t"}, appVersion: "1", '
        'language: "sw", timeZone: "Africa/Nairobi"}) { userErrors { code } } }'
    )
    assert (await town.gql(device))["data"]["deviceRegister"]["userErrors"] == []
    await whole_top_up(town, radio)
    with counted(town.sessions) as sent:
        top_up_id = await whole_top_up(town, radio)
    assert await town.status(top_up_id) == "ON_METER"
    # A round's rating is 22 of them, shared by up to 200 meters.
    sent.at_most(90)
