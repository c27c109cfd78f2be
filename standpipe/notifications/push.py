"""Pushes through firebase-admin (FCM HTTP v1), one message a call, its outcome in our own words.

The SDK checks and encodes messages and reads Google's errors. Its transport is replaced: it fetches OAuth tokens on
the event loop, retries 500 and 503 for seconds inside one call, and forgets Retry-After. Ours makes one attempt; our
own queue decides about the next (N7).
"""

import asyncio
import functools
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import firebase_admin
import httpx
from firebase_admin import credentials, exceptions, messaging
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from standpipe.platform.errors import SettingsError
from standpipe.platform.ids import new_id

SEND_TIMEOUT_S = 10.0
TIME_TO_LIVE = timedelta(days=1)
_DEFAULT_RETRY_S = 60.0
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


@dataclass(frozen=True, slots=True)
class PushMessage:
    """One push to one device; exactly one of token and installation id. ``collapse_key`` lets a copy replace it."""

    fcm_token: str | None
    fcm_fid: str | None
    title: str
    body: str
    collapse_key: str
    data: dict[str, str]


@dataclass(frozen=True, slots=True)
class PushOutcome:
    """``message_id`` when sent; else why not, whether the address is gone for good, and when to try again."""

    message_id: str | None = None
    error: str | None = None
    address_gone: bool = False
    retry_after_s: float | None = None


class PushSender:
    """Sends with one service account. Raises SettingsError for a credentials file that cannot be used."""

    def __init__(self, credentials_file: Path, base_url: str) -> None:
        try:
            certificate = credentials.Certificate(str(credentials_file))
        except (OSError, ValueError) as error:
            raise SettingsError(f"STANDPIPE_FIREBASE_CREDENTIALS: {error}") from None
        self._auth = _GoogleAuth(certificate.get_credential())
        self._http = _Transport(self._auth)
        self._app = firebase_admin.initialize_app(certificate, name=new_id("fba"))
        # The SDK has no setting for its address or its transport; for these two attributes it is pinned below 8.
        service = messaging._get_messaging_service(self._app)  # noqa: SLF001 - see above.
        service._fcm_url = f"{base_url.rstrip('/')}/v1/projects/{certificate.project_id}/messages:send"  # noqa: SLF001 - see above.
        service._async_client = self._http  # noqa: SLF001 - see above.

    async def send(self, message: PushMessage) -> PushOutcome:
        """Send one message, in one attempt. Never raises: whatever happens is an outcome."""
        try:
            await self._auth.ensure_token()
            answer = (await messaging.send_each_async([_encode(message)], app=self._app)).responses[0]
        except (GoogleAuthError, exceptions.FirebaseError, OSError, ValueError) as error:
            return PushOutcome(error=f"{type(error).__name__}: {error}"[:300], retry_after_s=_DEFAULT_RETRY_S)
        if answer.success:
            return PushOutcome(message_id=answer.message_id)
        return _failed(answer.exception)

    async def close(self) -> None:
        """End the connections and give up the SDK's app."""
        await self._http.aclose()
        self._auth.close()
        # The SDK closes its client with asyncio.run, which a running loop refuses; a thread has none.
        await asyncio.to_thread(firebase_admin.delete_app, self._app)


class _GoogleAuth(httpx.Auth):
    """Bearer tokens of a service account, fetched in a thread and by one caller at a time."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential
        self._google = Request()
        self._request = functools.partial(self._google, timeout=SEND_TIMEOUT_S)
        self._lock = asyncio.Lock()

    async def ensure_token(self, refused: str | None = None) -> None:
        """Hold a token that is not about to expire and is not ``refused``. Raises GoogleAuthError."""
        async with self._lock:
            if not self._credential.valid or (refused is not None and self._credential.token == refused):
                await asyncio.to_thread(self._credential.refresh, self._request)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        token = self._credential.token
        request.headers["authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            await self.ensure_token(refused=token)
            request.headers["authorization"] = f"Bearer {self._credential.token}"
            yield request

    def close(self) -> None:
        self._google.session.close()


class _Transport:
    """The part of the SDK's async client that its messaging calls use."""

    def __init__(self, auth: httpx.Auth) -> None:
        self._client = httpx.AsyncClient(auth=auth, timeout=SEND_TIMEOUT_S, http2=True)

    async def request(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        response = await self._client.request(method, url, **kwargs)
        return response.raise_for_status()

    async def aclose(self) -> None:
        await self._client.aclose()


def _encode(message: PushMessage) -> messaging.Message:
    encoded = messaging.Message(
        notification=messaging.Notification(title=message.title, body=message.body),
        data=message.data,
        android=messaging.AndroidConfig(collapse_key=message.collapse_key, priority="high", ttl=TIME_TO_LIVE),
        apns=messaging.APNSConfig(headers={"apns-collapse-id": message.collapse_key[:64]}),
        fid=message.fcm_fid,
    )
    if message.fcm_fid is None:
        # Set afterwards: the constructor would warn, and apps in the field still register with tokens.
        encoded.token = message.fcm_token
    return encoded


def _failed(error: Any) -> PushOutcome:
    why = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, messaging.UnregisteredError | messaging.SenderIdMismatchError):
        return PushOutcome(error=why, address_gone=True)
    if isinstance(error, exceptions.InvalidArgumentError):
        # Only FcmError's own word speaks of the address; a 400 without it is about the message (N6).
        return PushOutcome(error=why, address_gone=_fcm_code(error.http_response) == "INVALID_ARGUMENT")
    return PushOutcome(error=why, retry_after_s=_retry_after_s(error) or _DEFAULT_RETRY_S)


def _fcm_code(response: httpx.Response | None) -> str | None:
    try:
        details = [] if response is None else response.json()["error"]["details"]
        return next((str(item["errorCode"]) for item in details if item.get("@type") == _FCM_ERROR), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _retry_after_s(error: Any) -> float | None:
    """Retry-After in seconds from now, written as seconds or as a date (RFC 9110 §10.2.3); None if unreadable."""
    response = getattr(error, "http_response", None)
    header = "" if response is None else response.headers.get("Retry-After", "")
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max((parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
