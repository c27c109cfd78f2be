"""The keypads of the simulated meters on a web page: type a token, see what the display shows.

``GET /meters`` tells how they stand; ``POST /meters/{serial}/type`` with ``{"digits": "…"}`` types.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from standpipe_demo.simulator.meter_model import CLOSED, MeterConfig, MeterState

PAGE = (Path(__file__).parent / "pages" / "keypad.html").read_text()
MAX_BODY = 500


class KeypadMeter(Protocol):
    """A meter whose keypad somebody stands before."""

    config: MeterConfig
    state: MeterState

    def type_token(self, digits: str) -> str:
        """Type a token, and return what the display shows."""
        ...


def keypad_routes(meters: Mapping[str, KeypadMeter]) -> list[Route]:
    """The page's routes over these meters, by serial."""

    async def page(_request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def listed(_request: Request) -> Response:
        return JSONResponse({"meters": [_stands(meter) for meter in meters.values()]})

    async def typed(request: Request) -> Response:
        meter = meters.get(request.path_params["serial"])
        if meter is None:
            return JSONResponse({"error": "no such meter"}, HTTPStatus.NOT_FOUND)
        try:
            digits = json.loads((await request.body())[:MAX_BODY])["digits"]
        except (ValueError, KeyError, TypeError):
            digits = None
        if not isinstance(digits, str):
            return JSONResponse({"error": 'send {"digits": "…"}'}, HTTPStatus.BAD_REQUEST)
        return JSONResponse({"shows": meter.type_token(digits)} | _stands(meter))

    return [
        Route("/", page),
        Route("/meters", listed),
        Route("/meters/{serial}/type", typed, methods=["POST"]),
    ]


def _stands(meter: KeypadMeter) -> dict[str, Any]:
    return {
        "serial": meter.config.serial,
        "litres": meter.state.credit_remaining // 1000,
        "valve": "closed" if meter.state.valve == CLOSED else "open",
    }
