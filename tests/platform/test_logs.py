"""A log that can be read by machines, and holds nobody's number, name, code, token or key: not even at DEBUG."""

import ast
import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy import text

from standpipe.graphql import meters as graphql_meters
from standpipe.platform.errors import SettingsError, StandpipeError
from standpipe.platform.logs import KEYS
from standpipe.platform.serving import serve
from standpipe.wiring import secret_texts
from standpipe_demo.simulator import fake_phone
from tests.payments.test_mpesa import begin, decide, work
from tests.support.database import free_port
from tests.support.logs import lines, logged, told, traced
from tests.support.town import Town, make_town, until

PHONE, PAYER = "+254712000111", "+254733987654"
NAME = "Wanjiku Otieno"
PACKAGE = Path(__file__).resolve().parents[2] / "standpipe"
OUR_KEYS = {"exc_info"}


@pytest.fixture
async def city(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """A town whose phones get texts."""
    port = free_port()
    phone = f"http://127.0.0.1:{port}"
    fake_phone.write_service_account(tmp_path / "firebase.json", f"{phone}/token")
    task = asyncio.create_task(serve(fake_phone.make_app(tmp_path / "firebase.json"), "127.0.0.1", port))
    async with make_town(database_url, tmp_path, sms_url=f"{phone}/sms") as town:
        town.extras["phone"] = phone
        await until(lambda: _answers(town))
        yield town
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _answers(town: Town) -> bool:
    try:
        return (await town.http.get(f"{town.extras['phone']}/messages")).is_success
    except httpx.HTTPError:
        return False


async def sign_in(town: Town) -> tuple[str, str]:
    """Returns the code and the token."""
    start = "mutation($p: PhoneNumber!) { signInStart(input: {phone: $p}) { sent userErrors { code } } }"
    finish = "mutation($p: PhoneNumber!, $c: String!) { signInFinish(input: {phone: $p, code: $c}) { token } }"
    await town.gql(start, token="", p=PHONE)
    sent = (await town.http.get(f"{town.extras['phone']}/messages")).json()["messages"]
    code = str(sent[-1]["body"]).split()[-1].rstrip(".")
    wrong = "111111" if code != "111111" else "222222"
    await town.gql(finish, token="", p=PHONE, c=wrong)
    answer = await town.gql(finish, token="", p=PHONE, c=code)
    return code, answer["data"]["signInFinish"]["token"]


async def fail_everywhere(town: Town, monkeypatch: pytest.MonkeyPatch, code: str, token: str) -> None:
    """A resolver, a provider, a worker and a statement that fail, each quoting what it was given."""

    def boom(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError(f"no room for {NAME}, {PHONE}, code {code}, bearer {token}")

    with monkeypatch.context() as patched:
        patched.setattr(graphql_meters, "meter_of", boom)
        patched.setattr("standpipe.graphql.viewer.Viewer.meters", boom, raising=False)
        async with town.sessions.begin() as session:
            await session.execute(text("UPDATE meters SET time_zone = :zone"), {"zone": f"{NAME}/{PHONE}"})
        answer = await town.gql("{ viewer { meters { nodes { id } } } }")
        assert answer["errors"][0]["extensions"]["code"] == "INTERNAL"
        async with town.sessions.begin() as session:
            await session.execute(text("UPDATE meters SET time_zone = 'Africa/Nairobi'"))
    rail = town.rails["mpesa"]
    with monkeypatch.context() as patched:
        patched.setattr(rail, "create", boom)
        patched.setattr(rail, "fetch", boom)
        patched.setattr(rail, "find", boom)
        await town.start("mpesa", "20.00")
        await town.poll()
    log = structlog.get_logger("standpipe.test")
    try:
        async with town.sessions.begin() as session:
            for _ in range(2):
                await session.execute(
                    text("INSERT INTO customers (id, phone, name) VALUES (:id, :phone, :name)"),
                    {"id": f"cus_{_}", "phone": PAYER, "name": NAME},
                )
    except Exception:
        log.exception("not stored", phone=PHONE, customer=NAME, reason=f"{NAME!r} at {PHONE}")
    logging.getLogger("uvicorn.error").error("Exception for %s with %s", PHONE, {"authorization": f"Bearer {token}"})
    logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=ValueError(f"{NAME} {code}"))
    logging.getLogger("websockets.server").debug("< TEXT %s", token)
    logging.getLogger("stripe").warning("card %s of %s", "4242 4242 4242 4242", "jane@example.com")


async def test_nothing_personal_is_logged_or_traced_at_debug_level(city: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [secret for secret in secret_texts(city.settings) if secret]
    async with city.sessions.begin() as session:
        await session.execute(
            text("UPDATE customers SET name = :name, phone = :phone WHERE id = :id"),
            {"name": NAME, "phone": "+254700111222", "id": city.home.customer_id},
        )
    with logged(secrets) as written, traced() as exporter:
        code, token = await sign_in(city)
        top_up_id, push = await begin(city, phone=PAYER)
        await decide(city, push, "approve")
        await work(city)
        assert await city.status(top_up_id) == "PAID"
        await city.post("mpesa/wrong_secret_of_someone/stk", b"{}", {})
        await fail_everywhere(city, monkeypatch, code, token)
        spans = exporter.get_finished_spans()
    everything = written.getvalue() + told(spans)
    personal = [PHONE, PAYER, "+254700111222", NAME, "Wanjiku", code, token, city.home.token, "jane@example.com"]
    personal += [*secrets, "wrong_secret_of_someone", "4242 4242"]
    for held in personal:
        assert held not in everything, held
        assert held.removeprefix("+254") not in everything, held
    said = lines(written)
    events = {line["event"] for line in said}
    assert {"resolver failed", "payment not settled", "webhook refused", "not stored"} <= events, events
    assert all({"timestamp", "level", "event", "logger"} <= line.keys() for line in said)
    assert all(line["timestamp"].endswith("Z") for line in said)
    failed, *_ = [line for line in said if line["event"] == "resolver failed"]
    assert {"request_id", "trace_id", "span_id", "error_id"} <= failed.keys()
    assert "zoneinfo" in failed["exception"], "where it came from is told"
    # A customer's number is at the provider by now, so that all this was about something.
    assert city.mpesa.pushes[push]["phone"] == PAYER.removeprefix("+")


def test_a_key_that_nobody_has_looked_at_shows_nothing() -> None:
    with logged() as written:
        structlog.get_logger("a.logger").info("seen", meter_id="m", nickname="Wanjiku", given=["Wanjiku"], fine=None)
    [line] = lines(written)
    assert (line["meter_id"], line["nickname"], line["given"]) == ("m", "[kept out]", "[kept out]")
    assert (line["logger"], line["level"], line["fine"]) == ("a.logger", "info", None)


def test_every_key_in_the_code_is_on_the_list() -> None:
    """One that is missing shows as "[kept out]": add it to ``platform.logs.KEYS`` if nothing personal can be in it."""
    used: dict[str, str] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
            ):
                used |= {keyword.arg or "**": f"{path.name}:{node.lineno}" for keyword in node.keywords}
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: an event is a fixed text"
    missing = {key: where for key, where in used.items() if key not in KEYS | OUR_KEYS}
    assert len(used) > 20
    assert missing == {}


def test_an_exception_tells_its_place_and_type_and_of_its_message_what_can_be_told() -> None:
    with logged() as written:
        log = structlog.get_logger("a.logger")
        try:
            try:
                raise KeyError(NAME)  # noqa: TRY301 - the cause of what follows.
            except KeyError as cause:
                raise StandpipeError(f"No meter for {NAME!r} at {PHONE}.") from cause
        except StandpipeError:
            log.exception("failed")
        log.error("group", exc_info=ExceptionGroup(NAME, [OSError(111, "refused"), ValueError(NAME)]))
    first, group = lines(written)
    assert "builtins.KeyError: [kept out]\nwhich led to:\n" in first["exception"]
    assert first["exception"].endswith("standpipe.platform.errors.StandpipeError: No meter for '…' at [number].")
    assert "test_logs.py" in first["exception"]
    assert "OSError: [Errno 111] refused" not in group["exception"], "the type's full name is told"
    assert "builtins.ConnectionRefusedError: [Errno 111] refused" in group["exception"]
    assert NAME not in group["exception"]


def test_text_is_for_people_and_other_formats_and_levels_are_refused() -> None:
    with logged(format_="text", level="INFO") as written:
        structlog.get_logger("a.logger").info("seen", count=3)
        structlog.get_logger("a.logger").debug("not seen")
        logging.getLogger("httpx").info("HTTP Request: GET http://x/secret")
    assert "event='seen'" in written.getvalue()
    assert written.getvalue().count("\n") == 1
    for wrong in ({"level": "LOUD"}, {"format_": "xml"}):
        with pytest.raises(SettingsError, match="is none of"), logged(**wrong):  # type: ignore[arg-type]
            pass
