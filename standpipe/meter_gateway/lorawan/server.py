"""The LoRaWAN side of the gateway process: an HTTP door for the network server's events, and the carrier behind it."""

import asyncio
import hmac
from http import HTTPStatus

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from standpipe.engine.batcher import BusyError, StoppedError
from standpipe.meter_gateway.lorawan.carrier import LoraCarrier
from standpipe.meter_gateway.lorawan.events import MAX_EVENT_BYTES, read_event
from standpipe.meter_gateway.lorawan.network import ChirpStack
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.keys import KeyRing
from standpipe.platform.database import DATABASE_DOWN, Sessions, engine_of
from standpipe.platform.errors import NotFoundError
from standpipe.platform.notify import Listener
from standpipe.platform.serving import serve
from standpipe.platform.settings import Settings, require

_log = structlog.get_logger(__name__)


async def run_lorawan(settings: Settings, sessions: Sessions, listener: Listener) -> None:
    """Serve until cancelled. ``listener`` must listen to COMMANDS.

    Raises SettingsError where LoRaWAN is turned on by half.
    """
    require(settings, "meter_key_secrets", "lorawan_api_url", "lorawan_api_token", "lorawan_event_secrets")
    token = settings.lorawan.api_token.get_secret_value() if settings.lorawan.api_token else ""
    keys = KeyRing([secret.get_secret_value() for secret in settings.meter_key_secrets])
    network = ChirpStack(settings.lorawan.api_url or "", token, settings.lorawan.api_ca)
    carrier = LoraCarrier(engine=engine_of(sessions), keys=keys, clock=settings.clock, network=network)
    door = make_door(carrier, [secret.get_secret_value() for secret in settings.lorawan.event_secrets])
    _log.info("lorawan listens", host=settings.lorawan.http_host, port=settings.lorawan.http_port)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(door, settings.lorawan.http_host, settings.lorawan.http_port))
            group.create_task(carrier.hear_commands(listener))
            group.create_task(carrier.supply())
    finally:
        await carrier.stop()
        await network.close()


def make_door(carrier: LoraCarrier, secrets: list[str]) -> Starlette:
    """``POST /lorawan/events?event=…``, as ChirpStack's HTTP integration posts. ``secrets``: any of them opens it."""
    app = Starlette(routes=[Route("/lorawan/events", _event, methods=["POST"], max_body_size=MAX_EVENT_BYTES)])
    app.state.carrier = carrier
    app.state.accepted = [f"Bearer {secret}".encode() for secret in secrets]
    return app


async def _event(request: Request) -> Response:
    """2xx is our word that the event was taken in, or that posting it again would change nothing."""
    if not _may_post(request):
        _log.warning("lorawan event refused: wrong secret")
        return _refusal(HTTPStatus.UNAUTHORIZED, "no")
    name = request.query_params.get("event", "")
    is_json = request.headers.get("content-type", "").startswith("application/json")
    carrier: LoraCarrier = request.app.state.carrier
    try:
        event = read_event(name, await request.body(), is_json=is_json)
        if event is not None:
            await carrier.take(event)
    except ClientDisconnect:
        return _refusal(HTTPStatus.BAD_REQUEST, "the body ended early")
    except ParsingError as error:
        _log.warning("lorawan event refused", reason=str(error))
        return _refusal(HTTPStatus.BAD_REQUEST, "not an event")
    except NotFoundError:
        _log.warning("lorawan event of an unknown device", event_name=name)
    except (*DATABASE_DOWN, BusyError, StoppedError) as error:
        _log.error("lorawan event not stored", error=type(error).__name__)
        return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "not stored; post it again")
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _may_post(request: Request) -> bool:
    given = request.headers.get("authorization", "").encode()
    # All of them are compared, each in constant time.
    return any([hmac.compare_digest(given, accepted) for accepted in request.app.state.accepted])  # noqa: C419


def _refusal(status: HTTPStatus, why: str) -> Response:
    return JSONResponse({"error": why}, status)
