"""Devices, preferences, the app's configuration: read, changed in part, refused in words."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.ids import new_id
from standpipe.platform.settings import SettingsError
from tests.graphql.test_alerts import stranger
from tests.support.rating import take_report
from tests.support.town import Town, make_settings, make_town

FIELDS = "language daysLeft channels quietFrom quietTo"
READ = "query { viewer { language notificationPreferences { " + FIELDS + " } } }"
CHANGE = (
    "mutation($i: NotificationPreferencesInput!) { notificationPreferencesUpdate(input: $i) { preferences { "
    + FIELDS
    + " } userErrors { __typename code field message } } }"
)
REGISTER = """mutation($i: DeviceRegisterInput!) { deviceRegister(input: $i) {
    device { id label platform appVersion } userErrors { code field } } }"""
DEVICES = "query { viewer { devices { id label platform appVersion pushHealthy lastSeenAt } } }"
USUAL = {"language": "en", "daysLeft": [7, 3, 1], "channels": ["PUSH"], "quietFrom": None, "quietTo": None}


async def preferences(town: Town, token: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = (await town.gql(READ, token))["data"]["viewer"]["notificationPreferences"]
    return found


async def change(town: Town, **given: Any) -> dict[str, Any]:
    answer = await town.gql(CHANGE, i=given)
    assert "errors" not in answer, answer
    payload: dict[str, Any] = answer["data"]["notificationPreferencesUpdate"]
    return payload


async def test_what_is_left_out_stays_as_it_is(town: Town) -> None:
    assert await preferences(town) == USUAL
    changed = await change(town, daysLeft=[2, 14], quietFrom="22:00", quietTo="06:30")
    assert changed["userErrors"] == []
    assert changed["preferences"] == USUAL | {"daysLeft": [14, 2], "quietFrom": "22:00", "quietTo": "06:30"}
    assert (await change(town, quietTo="07:00"))["preferences"]["quietFrom"] == "22:00"
    await change(town, channels=[], daysLeft=None)
    wanted = {"language": "en", "daysLeft": [14, 2], "channels": [], "quietFrom": "22:00", "quietTo": "07:00"}
    assert await preferences(town) == wanted
    assert (await change(town))["preferences"] == wanted
    # Either end taken away ends the quiet hours.
    assert (await change(town, quietTo=None))["preferences"] == wanted | {"quietFrom": None, "quietTo": None}
    assert (await change(town, daysLeft=[]))["preferences"]["daysLeft"] == []
    other = await stranger(town)
    assert await preferences(town, other.token) == USUAL


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"daysLeft": [0]}, ["daysLeft"]),
        ({"daysLeft": [31]}, ["daysLeft"]),
        ({"daysLeft": [3, 3]}, ["daysLeft"]),
        ({"daysLeft": [1, 2, 3, 4, 5, 6]}, ["daysLeft"]),
        ({"channels": ["PUSH", "SMS"]}, ["channels"]),
        ({"quietFrom": "22:00"}, ["quietFrom"]),
        ({"quietFrom": "24:00", "quietTo": "06:00"}, ["quietFrom"]),
        ({"quietFrom": "22:00", "quietTo": "6:00"}, ["quietTo"]),
        ({"quietFrom": "22:00", "quietTo": "0٦:00"}, ["quietTo"]),
        ({"quietFrom": "22:00", "quietTo": "22:00"}, ["quietTo"]),
        ({"language": "xx-klingon"}, ["language"]),
        ({"language": ""}, ["language"]),
        ({"language": "e\0"}, ["language"]),
        ({"language": "en-" * 2_000}, ["language"]),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(town: Town, given: Any, field: list[str]) -> None:
    payload = await change(town, **({"daysLeft": [5], "language": "sw"} | given))
    assert payload["preferences"] is None
    assert [(error["code"], error["field"]) for error in payload["userErrors"]] == [("INVALID", field)]
    assert await preferences(town) == USUAL


@pytest.mark.parametrize(("given", "kept"), [("sw", "sw"), ("fr-CI", "fr-CI"), ("pt_br", "pt-BR"), ("am", "am")])
async def test_n9_the_customers_language_is_one_that_babel_knows(town: Town, given: str, kept: str) -> None:
    assert (await change(town, language=given))["preferences"]["language"] == kept
    assert (await town.gql(READ))["data"]["viewer"]["language"] == kept


async def test_g7_signed_out_there_is_nothing_to_change(town: Town) -> None:
    answer = await town.gql(CHANGE, "", i={"daysLeft": [3]})
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def register(town: Town, installation: str = "phone", token: str | None = None, **more: Any) -> dict[str, Any]:
    given = {"installationId": installation, "platform": "ANDROID", "push": {"fcmToken": f"t-{installation}"}}
    given |= {"appVersion": "2.1.0", "language": "en", "timeZone": "Africa/Nairobi"} | more
    payload: dict[str, Any] = (await town.gql(REGISTER, token, i=given))["data"]["deviceRegister"]
    return payload


async def test_devices_are_listed_with_their_names(town: Town) -> None:
    first = (await register(town))["device"]
    assert (first["label"], first["appVersion"]) == ("Android", "2.1.0")
    named = await register(town, label="Amina's phone")
    assert named["device"] == first | {"label": "Amina's phone"}
    # Registered again by an app that says no name: it keeps the one it has.
    assert (await register(town, appVersion="2.2.0"))["device"]["label"] == "Amina's phone"
    await register(town, "browser", platform="WEB")
    listed = (await town.gql(DEVICES))["data"]["viewer"]["devices"]
    assert [(row["label"], row["platform"], row["appVersion"]) for row in listed] == [
        ("Browser", "WEB", "2.1.0"),
        ("Amina's phone", "ANDROID", "2.2.0"),
    ]
    assert all(row["pushHealthy"] for row in listed)


@pytest.mark.parametrize("label", ["x" * 81, "a\0b"])
async def test_g1_a_name_that_cannot_be_kept_is_refused(town: Town, label: str) -> None:
    payload = await register(town, label=label)
    assert (payload["device"], [error["code"] for error in payload["userErrors"]]) == (None, ["INVALID"])


async def test_g7_anothers_device_is_like_one_that_is_not_there(town: Town) -> None:
    other = await stranger(town)
    device_id = (await register(town, token=other.token))["device"]["id"]
    query = "query($i: ID!) { node(id: $i) { id } }"
    assert (await town.gql(query, other.token, i=device_id))["data"]["node"] == {"id": device_id}
    for wanted in (device_id, new_id("dev"), "dev_nothing"):
        assert (await town.gql(query, i=wanted))["data"] == {"node": None}
        assert (await town.gql(query, "", i=wanted))["data"] == {"node": None}
    assert (await town.gql(DEVICES))["data"]["viewer"]["devices"] == []
    answer = await town.gql('mutation { deviceRemove(input: {installationId: "phone"}) { userErrors { code } } }')
    assert answer["data"]["deviceRemove"]["userErrors"] == [{"code": "NOT_FOUND"}]


CONFIG = """query { appConfig { android: minAppVersion(platform: ANDROID) web: minAppVersion(platform: WEB)
    languages webPushPublicKey } }"""


async def test_an_app_reads_its_configuration_before_anybody_signs_in(database_url: str, tmp_path: Path) -> None:
    async with make_town(database_url, tmp_path, min_app_versions={"ANDROID": "2.3.0"}) as town:
        answer = await town.gql(CONFIG, "")
    config = {"android": "2.3.0", "web": None, "languages": ["en", "sw", "fr"], "webPushPublicKey": None}
    assert answer == {"data": {"appConfig": config}}


def test_a_platform_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises((SettingsError, ValueError)):
        make_settings(min_app_versions={"SYMBIAN": "1.0"})


EXPECTED = "query($m: ID!) { node(id: $m) { ... on Meter { connectivity { lastSeenAt expectedNextAt } } } }"


async def test_the_next_contact_is_expected_by_the_meters_own_habit(town: Town) -> None:
    now = datetime.now(UTC).replace(microsecond=0)

    async def connectivity() -> dict[str, Any]:
        found: dict[str, Any] = (await town.gql(EXPECTED, m=town.home.meter_id))["data"]["node"]["connectivity"]
        return found

    assert await connectivity() == {"lastSeenAt": None, "expectedNextAt": None}
    # Every six hours with six kept hours each, once twice in a minute, and once missed.
    for number, hours in enumerate((60, 54, 48, 42, 30, 24, 18, 12, 6)):
        at = now - timedelta(hours=hours)
        for arrived in (at, at + timedelta(seconds=50)):
            told = tuple(RegisterReading(arrived - timedelta(hours=ago), 6_000 * number) for ago in range(6))
            async with town.sessions.begin() as session:
                await take_report(session, MeterReport(town.home.meter_id, arrived, told), arrived)
        if number == 2:
            assert (await connectivity())["expectedNextAt"] is None
    expected = datetime.fromisoformat((await connectivity())["expectedNextAt"])
    assert abs(expected - now) < timedelta(minutes=2)
