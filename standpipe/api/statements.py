"""``GET /statements/{meter_id}/{month}.pdf``: a month's statement, for whoever holds a signed link to it.

Behind the month and a dot may stand the day since when the link's owner has lived there: what was before is left out.
"""

import asyncio
import re
import time
from datetime import date
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from standpipe.billing.statement_pdf import render
from standpipe.billing.statements import number_text, statement_by_month, tenancy_since
from standpipe.payments.receipt_links import link_holds
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import in_language, language_of, phrase

_GONE = phrase("There is no such statement, or this link has run out.")


async def statement_pdf(request: Request) -> Response:
    """The PDF. A link that is wrong, has run out, or names no statement is answered alike."""
    language = language_of(request.headers.get("accept-language"))
    meter_id, month = request.path_params["meter_id"], request.path_params["month"]
    asked, state = request.query_params, request.app.state
    name = f"{meter_id}/{month}"
    if not link_holds(
        *(state.receipt_secret, name, asked.get("expires", ""), asked.get("sig", ""), time.time()), kind="statement"
    ):
        return _not_found(language)
    month, _, since = month.partition(".")
    try:
        async with state.sessions() as session:
            first = date.fromisoformat(f"{month}-01")
            lived_since = date.fromisoformat(since) if since else None
            now = state.clock.now()
            # Whoever lives there now may be others than those whom the link was made for.
            theirs = await tenancy_since(session, meter_id, now) == lived_since
            found = await statement_by_month(session, meter_id, first, now, since=lived_since) if theirs else None
    except (InvalidInputError, ValueError):
        found = None
    if found is None:
        return _not_found(language)
    body, number = found
    page = await asyncio.to_thread(render, body, number_text(number), language)
    serial = re.sub(r"[^A-Za-z0-9-]", "", body.serial)
    headers = {
        "Content-Disposition": f'inline; filename="statement-{serial}-{month}.pdf"',
        "Cache-Control": "private, max-age=3600" if number is not None else "no-store",
        "Vary": "Accept-Language",
    }
    return Response(page, media_type="application/pdf", headers=headers)


def _not_found(language: str) -> Response:
    return JSONResponse({"error": in_language(_GONE, language)}, HTTPStatus.NOT_FOUND)
