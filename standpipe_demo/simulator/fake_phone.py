"""A phone on a web page, with Google's servers behind it: it shows the pushes and texts that customers would get.

It speaks FCM HTTP v1 and the OAuth 2.0 JWT-bearer grant (RFC 7523) in their real wire formats. Tokens ending in
``-gone`` are UNREGISTERED; ``POST /_control/throttle?seconds=N`` has the next send answered 429.
"""

import json
import secrets
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

PAGE = (Path(__file__).parent / "pages" / "phone.html").read_text()
PROJECT = "standpipe-demo"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_TTL_S = 3600
MAX_KEPT = 500


class PhoneState:
    """Messages that arrived, newest last, and the access tokens that were granted."""

    def __init__(self, public_key: Any) -> None:
        self.public_key = public_key
        self.messages: list[dict[str, Any]] = []
        self.tokens: dict[str, float] = {}
        self.throttle_s: int | None = None
        self.unavailable = 0

    def keep(self, message: dict[str, Any]) -> None:
        """Add a message; old ones fall off."""
        self.messages.append({"at": time.time()} | message)
        del self.messages[:-MAX_KEPT]


def write_service_account(path: Path, token_uri: str) -> None:
    """A service-account file as Google makes them, with a fresh key, whose token address is ours."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": secrets.token_hex(20),
        "private_key": pem.decode(),
        "client_email": f"push@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(account))


def make_app(credentials_file: Path) -> Starlette:
    """The phone as an ASGI app; it trusts assertions signed with the key in ``credentials_file``."""
    pem = json.loads(credentials_file.read_text())["private_key"]
    private_key = serialization.load_pem_private_key(pem.encode(), password=None)
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/messages", _messages, methods=["GET", "DELETE"]),
            Route("/sms", _sms, methods=["POST"]),
            Route("/token", _token, methods=["POST"]),
            Route("/v1/projects/{project}/messages:send", _send, methods=["POST"]),
            Route("/_control/throttle", _throttle, methods=["POST"]),
            Route("/_control/unavailable", _unavailable, methods=["POST"]),
        ]
    )
    app.state.phone = PhoneState(private_key.public_key())
    return app


def _state(request: Request) -> PhoneState:
    state: PhoneState = request.app.state.phone
    return state


async def _page(_request: Request) -> Response:
    return HTMLResponse(PAGE)


async def _messages(request: Request) -> Response:
    state = _state(request)
    if request.method == "DELETE":
        state.messages.clear()
    return JSONResponse({"messages": state.messages})


async def _sms(request: Request) -> Response:
    body = await request.json()
    _state(request).keep({"channel": "sms", "to": str(body["to"]), "title": "Text message", "body": str(body["text"])})
    return JSONResponse({"ok": True})


async def _token(request: Request) -> Response:
    """RFC 7523 §2.1: exchange a signed assertion for an access token."""
    state = _state(request)
    form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    if form.get("grant_type") != GRANT:
        return JSONResponse({"error": "unsupported_grant_type"}, HTTPStatus.BAD_REQUEST)
    try:
        jwt.decode(
            form.get("assertion", ""),
            state.public_key,
            algorithms=["RS256"],
            options={"verify_aud": False, "require": ["exp", "iat", "iss"]},
        )
    except jwt.InvalidTokenError as error:
        return JSONResponse({"error": "invalid_grant", "error_description": str(error)}, HTTPStatus.BAD_REQUEST)
    token = secrets.token_urlsafe(32)
    state.tokens[token] = time.time() + TOKEN_TTL_S
    return JSONResponse({"access_token": token, "expires_in": TOKEN_TTL_S, "token_type": "Bearer"})


async def _send(request: Request) -> Response:
    """FCM HTTP v1 ``projects.messages.send``."""
    state = _state(request)
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if state.tokens.get(token, 0) < time.time():
        return _error(HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
    if state.throttle_s is not None:
        after_s, state.throttle_s = state.throttle_s, None
        return _error(HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", "Quota exceeded.", "QUOTA_EXCEEDED", after_s)
    if state.unavailable > 0:
        state.unavailable -= 1
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "Try again.", "UNAVAILABLE")
    message = (await request.json()).get("message")
    address = message.get("fid") or message.get("token") if isinstance(message, dict) else None
    if not isinstance(address, str):
        return _error(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Recipient is missing.", "INVALID_ARGUMENT")
    if address.endswith("-gone"):
        return _error(HTTPStatus.NOT_FOUND, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED")
    text = message.get("notification", {})
    state.keep(
        {
            "channel": "push",
            "to": address,
            "title": text.get("title", ""),
            "body": text.get("body", ""),
            "data": message.get("data", {}),
            "collapse_key": message.get("android", {}).get("collapse_key"),
        }
    )
    name = f"projects/{request.path_params['project']}/messages/{secrets.token_hex(8)}"
    return JSONResponse({"name": name})


async def _throttle(request: Request) -> Response:
    _state(request).throttle_s = int(request.query_params.get("seconds", "1"))
    return JSONResponse({"ok": True})


async def _unavailable(request: Request) -> Response:
    _state(request).unavailable = int(request.query_params.get("times", "1"))
    return JSONResponse({"ok": True})


def _error(
    status: HTTPStatus, name: str, message: str, fcm_code: str | None = None, retry_after_s: int | None = None
) -> Response:
    """An error body as Google's APIs shape it, with the FcmError detail."""
    details = (
        [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": fcm_code}] if fcm_code else []
    )
    body = {"error": {"code": int(status), "message": message, "status": name, "details": details}}
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(body, status, headers=headers)
