"""Every door and the worker, when the database ends our connections: all go on, and nothing happens twice or never."""

from pathlib import Path

import pytest

from standpipe.payments.models import RailEvent, TopUp
from standpipe.platform.database import Sessions
from standpipe_demo.simulator.fake_stripe import event
from tests.support.lost import end_all, lost_at
from tests.support.radio import Field, make_field
from tests.support.town import Town, until

VIEWER = "query { viewer { id } }"
HOMES = "query { viewer { meters(first: 5) { nodes { id serial } } } }"
QUIET = "mutation { notificationPreferencesUpdate(input: {daysLeft: [3]}) { preferences { daysLeft } } }"


async def test_the_next_query_start_webhook_and_round_of_the_worker_succeed(town: Town, database_url: str) -> None:
    assert "errors" not in await town.gql(VIEWER)
    assert await end_all(database_url)
    assert "errors" not in await town.gql(VIEWER)
    assert await end_all(database_url)
    top_up_id, intent = await town.pay_by_card()
    assert await end_all(database_url)
    assert (await town.tell(event("payment_intent.succeeded", intent))).status_code == 200
    assert await end_all(database_url)
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.wallet() == 1500


@pytest.mark.parametrize("moment", ["FROM customers", "FROM meters"])
async def test_a_query_that_loses_its_connection_under_way_is_asked_again(town: Town, moment: str) -> None:
    with lost_at(town.sessions, moment) as lost:
        answer = await town.gql(HOMES)
    assert lost
    assert answer["data"]["viewer"]["meters"]["nodes"][0]["id"] == town.home.meter_id


@pytest.mark.parametrize("moment", ["INSERT INTO top_ups", "UPDATE payments t SET"])
async def test_a_start_that_was_lost_happens_once(town: Town, moment: str) -> None:
    """Before it is stored; and after it, when the rail has answered."""
    with lost_at(town.sessions, moment) as lost:
        payload = await town.start(key="k")
    assert lost
    assert payload["topUp"]["id"]
    assert await town.count(TopUp) == 1


async def test_a_change_that_was_lost_before_its_commit_is_made_again(town: Town) -> None:
    with lost_at(town.sessions, "notification_preferences") as lost:
        answer = await town.gql(QUIET)
    assert lost
    assert answer["data"]["notificationPreferencesUpdate"]["preferences"] == {"daysLeft": [3]}


async def test_a_change_whose_commit_is_unknown_is_the_apps_to_ask_for_again(town: Town) -> None:
    with lost_at(town.sessions, "COMMIT", after="notification_preferences") as lost:
        answer = await town.gql(QUIET)
    assert lost
    (error,) = answer["errors"]
    assert (error["extensions"]["code"], error["extensions"]["retryable"]) == ("UNAVAILABLE", True)
    assert "errors" not in await town.gql(QUIET)


@pytest.mark.parametrize("stored", [False, True])
async def test_a_webhook_that_was_lost_is_stored_once(town: Town, stored: bool) -> None:
    """Lost before it was stored, and after it, when nobody knows."""
    _, intent = await town.pay_by_card()
    with lost_at(town.sessions, "INSERT INTO rail_events", late=stored) as lost:
        answer = await town.tell(event("payment_intent.succeeded", intent))
    assert lost
    assert answer.status_code == 200
    assert await town.count(RailEvent) == 1


async def test_a_page_is_read_again_and_then_says_when_to_come_back(town: Town) -> None:
    page, headers = f"{town.api}/agents/me", {"authorization": "Bearer nobody"}
    with lost_at(town.sessions, "agents") as lost:
        assert (await town.http.get(page, headers=headers)).status_code == 401
    assert lost
    with lost_at(town.sessions, "agents", times=2) as lost:
        answer = await town.http.get(page, headers=headers)
    assert len(lost) == 2
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_the_next_contact_is_served(database_url: str, sessions: Sessions, tmp_path: Path) -> None:
    patience = {"coap_ack_timeout_s": 2.0, "coap_max_retransmit": 2}
    async with make_field(database_url, sessions, tmp_path, settings=patience) as field:
        for number in range(2):
            await field.grant(1500, f"k{number}")
            assert await end_all(database_url)
            await field.meter.wake()
            await until(lambda: confirmed(field))


async def confirmed(field: Field) -> bool:
    return {status for _, status in await field.statuses()} <= {"CONFIRMED", "SUPERSEDED"}
