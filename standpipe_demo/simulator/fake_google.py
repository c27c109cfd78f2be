"""Google's sign-in servers: the certificates of Firebase's token signer, and what Identity Toolkit knows of accounts.

It speaks the real wire formats: x509 certificates by key id with their Cache-Control, ID tokens signed RS256 with the
claims that Firebase puts in, and ``accounts:lookup``. Its page makes a token for a phone number, without a text.
``POST /_control/sign-in?phone=&email=&age_s=``, ``/_control/revoke?uid=``, ``/_control/disable?uid=``,
``/_control/forget?uid=``, ``/_control/unavailable?times=`` and ``/_control/silent?on=`` drive it.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

PAGE = (Path(__file__).parent / "pages" / "google.html").read_text()
CERTIFICATES_PATH = "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
CERTIFICATES_MAX_AGE_S = 6 * 3600
TOKEN_TTL_S = 3600


class GoogleState:
    """One project's signing key and accounts. ``tokens``: access tokens granted, and until when (Unix seconds)."""

    def __init__(self, project: str, tokens: Mapping[str, float]) -> None:
        self.project, self.tokens = project, tokens
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.certificate = _certify(self.key)
        self.key_id = hashlib.sha1(self.certificate, usedforsecurity=False).hexdigest()
        self.accounts: dict[str, dict[str, Any]] = {}
        self.fetches = 0
        """Number of times that the certificates were asked for."""
        self.lookups = 0
        self.unavailable = 0
        self.speaks = asyncio.Event()
        self.speaks.set()

    def account(self, phone: str | None, email: str | None) -> dict[str, Any]:
        """The account with this number or address, made at its first sign-in."""
        uid = hashlib.sha256(f"{phone}/{email}".encode()).hexdigest()[:28]
        now_s = int(time.time())
        fresh = {"localId": uid, "validSince": "0", "disabled": False, "createdAt": str(now_s * 1000)}
        named = {"phoneNumber": phone, "email": email}
        return self.accounts.setdefault(uid, fresh | {name: value for name, value in named.items() if value})

    def claims(self, account: Mapping[str, Any], age_s: int = 0) -> dict[str, Any]:
        """Return what Firebase states about a sign-in that happened ``age_s`` ago."""
        at_s, phone, email = int(time.time()) - age_s, account.get("phoneNumber"), account.get("email")
        identities = {kind: [value] for kind, value in (("phone", phone), ("email", email)) if value}
        claims: dict[str, Any] = {
            "iss": f"https://securetoken.google.com/{self.project}",
            "aud": self.project,
            "auth_time": at_s,
            "user_id": account["localId"],
            "sub": account["localId"],
            "iat": at_s,
            "exp": at_s + TOKEN_TTL_S,
            "firebase": {"identities": identities, "sign_in_provider": "phone" if phone else "password"},
        }
        if phone:
            claims["phone_number"] = phone
        if email:
            claims |= {"email": email, "email_verified": True}
        return claims

    def sign(self, claims: Mapping[str, Any]) -> str:
        """An ID token."""
        return jwt.encode(dict(claims), self.key, algorithm="RS256", headers={"kid": self.key_id})


def make_app(project: str, tokens: Mapping[str, float]) -> Starlette:
    """The servers as an ASGI app; ``tokens``: the access tokens that the OAuth endpoint (the fake phone's) granted."""
    app = Starlette(
        routes=[
            Route("/", _page),
            Route(CERTIFICATES_PATH, _certificates),
            Route("/v1/projects/{project}/accounts:lookup", _lookup, methods=["POST"]),
            Route("/_control/sign-in", _sign_in, methods=["POST"]),
            Route("/_control/{action}", _control, methods=["POST"]),
        ]
    )
    app.state.google = GoogleState(project, tokens)
    return app


def _state(request: Request) -> GoogleState:
    state: GoogleState = request.app.state.google
    return state


async def _page(_request: Request) -> Response:
    return HTMLResponse(PAGE)


async def _certificates(request: Request) -> Response:
    state = _state(request)
    state.fetches += 1
    if (trouble := await _trouble(state)) is not None:
        return trouble
    headers = {"Cache-Control": f"public, max-age={CERTIFICATES_MAX_AGE_S}, must-revalidate, no-transform"}
    return JSONResponse({state.key_id: state.certificate.decode()}, headers=headers)


async def _lookup(request: Request) -> Response:
    """Identity Toolkit ``projects.accounts.lookup``: by ``localId``, for a service account's bearer token."""
    state = _state(request)
    state.lookups += 1
    if (trouble := await _trouble(state)) is not None:
        return trouble
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    if state.tokens.get(bearer, 0) < time.time():
        return _error(HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
    if request.path_params["project"] != state.project:
        return _error(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "PROJECT_NOT_FOUND")
    wanted = (await request.json()).get("localId", [])
    found = [state.accounts[uid] for uid in wanted if uid in state.accounts]
    # Google leaves "users" out where there is none.
    return JSONResponse({"kind": "identitytoolkit#GetAccountInfoResponse"} | ({"users": found} if found else {}))


async def _sign_in(request: Request) -> Response:
    """Sign in with the code of a text: an ID token, like ``accounts:signInWithPhoneNumber`` answers."""
    state, asked = _state(request), request.query_params
    account = state.account(asked.get("phone"), asked.get("email"))
    token = state.sign(state.claims(account, int(asked.get("age_s", "0"))))
    return JSONResponse({"idToken": token, "localId": account["localId"], "expiresIn": str(TOKEN_TTL_S)})


async def _control(request: Request) -> Response:
    state, asked = _state(request), request.query_params
    account = state.accounts.get(asked.get("uid", ""), {})
    match request.path_params["action"]:
        case "revoke":
            account["validSince"] = str(int(time.time()))
        case "disable":
            account["disabled"] = True
        case "forget":
            state.accounts.pop(asked.get("uid", ""), None)
        case "unavailable":
            state.unavailable = int(asked.get("times", "1"))
        case "silent" if asked.get("on") == "1":
            state.speaks.clear()
        case "silent":
            state.speaks.set()
        case _:
            return JSONResponse({"error": "no such control"}, HTTPStatus.NOT_FOUND)
    return JSONResponse({"ok": True})


async def _trouble(state: GoogleState) -> Response | None:
    """Answer like a server in trouble: nothing while it is silent, or 503; None for one that is well."""
    await state.speaks.wait()
    if state.unavailable > 0:
        state.unavailable -= 1
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "The service is currently unavailable.")
    return None


def _error(status: HTTPStatus, name: str, message: str) -> Response:
    """An error body as Google's APIs shape it."""
    return JSONResponse({"error": {"code": int(status), "message": message, "status": name}}, status)


def _certify(key: rsa.RSAPrivateKey) -> bytes:
    """A certificate that signs itself, PEM, as Google's are."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetoken.system.gserviceaccount.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=16))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
