"""The page that a payment's redirect comes back to, and health."""

import html

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from standpipe.payments.top_ups import refresh
from standpipe.platform.ids import is_id
from standpipe.platform.language import language_of, spoken, to_translate, translate

_PAGE = """<!doctype html><html lang="{language}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Standpipe</title>
<body style="font:16px/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;text-align:center">
<main><h1>{thanks}</h1><p>{asking}</p>
<p>{done}</p></main></body></html>"""
_THANKS = to_translate("Thank you")
_ASKING = to_translate("We are asking the payment provider now. The app shows when the credit is on your meter.")
_DONE = to_translate("You can close this page.")


async def returned(request: Request) -> Response:
    """``GET /return/{top_up_id}``: the customer is back from paying, so ask the provider now.

    It says the same for every id, so that it tells nobody which exist.
    """
    top_up_id = request.path_params["top_up_id"]
    state = request.app.state
    if is_id(top_up_id, "top"):
        await refresh(state.sessions, state.rails, state.clock, top_up_id)
    language = spoken(language_of(request.headers.get("accept-language")))
    thanks, asking, done = (html.escape(translate(text, language), quote=False) for text in (_THANKS, _ASKING, _DONE))
    page = _PAGE.format(language=language, thanks=thanks, asking=asking, done=done)
    return HTMLResponse(page, headers={"Vary": "Accept-Language"})


async def health(_request: Request) -> Response:
    """``GET /healthz``: the process lives. It touches nothing; whether it can work, ``/readyz`` tells."""
    return JSONResponse({"status": "ok"})
