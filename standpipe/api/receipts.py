"""``GET /receipts/{receipt_id}.pdf``: a receipt's page, for whoever holds a signed link to it."""

import asyncio
import time
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from standpipe.payments.receipt_links import link_holds
from standpipe.payments.receipt_pdf import render
from standpipe.payments.receipt_text import number_text
from standpipe.payments.receipts import receipt_by_id
from standpipe.platform.ids import is_id
from standpipe.platform.language import in_language, language_of, phrase

_GONE = phrase("There is no such receipt, or this link has run out.")


async def receipt_pdf(request: Request) -> Response:
    """The PDF. A link that is wrong, has run out, or names no receipt is answered alike."""
    language = language_of(request.headers.get("accept-language"))
    receipt_id, asked, state = request.path_params["receipt_id"], request.query_params, request.app.state
    good = is_id(receipt_id, "rct") and link_holds(
        state.receipt_secret, receipt_id, asked.get("expires", ""), asked.get("sig", ""), time.time()
    )
    if not good:
        return _not_found(language)
    async with state.sessions() as session:
        view = await receipt_by_id(session, receipt_id)
    if view is None:
        return _not_found(language)
    page = await asyncio.to_thread(render, view, language)
    headers = {
        "Content-Disposition": f'inline; filename="receipt-{number_text(view)}.pdf"',
        "Cache-Control": "private, max-age=3600",
        "Vary": "Accept-Language",
    }
    return Response(page, media_type="application/pdf", headers=headers)


def _not_found(language: str) -> Response:
    return JSONResponse({"error": in_language(_GONE, language)}, HTTPStatus.NOT_FOUND)
