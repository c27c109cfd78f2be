"""Pushes through firebase-admin (FCM HTTP v1), one message a call, its outcome in our own words.

The SDK keeps 429 from us behind no retry and forgets Retry-After, retries 5xx inside a call, and lets a failed OAuth
grant take a whole batch with it; hence one message a call, the token fetched beforehand in a thread (the SDK would
block the event loop for it), and our own queue's back-off (N7).
"""

import asyncio
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import firebase_admin
from firebase_admin import credentials, exceptions, messaging
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from standpipe.errors import SettingsError

SEND_TIMEOUT_S = 10
TIME_TO_LIVE = timedelta(days=1)
_DEFAULT_RETRY_S = 60.0


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
        # The SDK has no setting for its address; this class attribute is read when the app's service is first used.
        messaging._MessagingService.FCM_URL = base_url.rstrip("/") + "/v1/projects/{0}/messages:send"  # noqa: SLF001
        self._credential = certificate.get_credential()
        self._app = firebase_admin.initialize_app(
            certificate, {"httpTimeout": SEND_TIMEOUT_S}, name=f"standpipe-{id(self)}"
        )
        self._refreshing = asyncio.Lock()

    async def send(self, message: PushMessage) -> PushOutcome:
        """Send one message. Never raises: whatever happens is an outcome."""
        try:
            await self._authorise()
            answer = (await messaging.send_each_async([_encode(message)], app=self._app)).responses[0]
        except (GoogleAuthError, exceptions.FirebaseError, OSError, ValueError) as error:
            return PushOutcome(error=f"{type(error).__name__}: {error}"[:300], retry_after_s=_DEFAULT_RETRY_S)
        if answer.success:
            return PushOutcome(message_id=answer.message_id)
        return _failed(answer.exception)

    async def close(self) -> None:
        """Give up the SDK's app.

        The SDK closes its connections with an event loop of its own making, which fails within ours: so they are
        closed here first, and the app is deleted from a thread.
        """
        service = messaging._get_messaging_service(self._app)  # noqa: SLF001 - there is no public way to it.
        await service._async_client.aclose()  # noqa: SLF001 - as above.
        await asyncio.to_thread(firebase_admin.delete_app, self._app)

    async def _authorise(self) -> None:
        async with self._refreshing:
            if not self._credential.valid:
                await asyncio.to_thread(self._credential.refresh, Request())


def _encode(message: PushMessage) -> messaging.Message:
    address: dict[str, Any] = {"fid": message.fcm_fid} if message.fcm_fid else {"token": message.fcm_token}
    with warnings.catch_warnings():
        # Tokens are deprecated in favour of installation ids, but apps in the field still send them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return messaging.Message(
            notification=messaging.Notification(title=message.title, body=message.body),
            data=message.data,
            android=messaging.AndroidConfig(collapse_key=message.collapse_key, priority="high", ttl=TIME_TO_LIVE),
            apns=messaging.APNSConfig(headers={"apns-collapse-id": message.collapse_key[:64]}),
            **address,
        )


def _failed(error: Any) -> PushOutcome:
    why = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, messaging.UnregisteredError | messaging.SenderIdMismatchError):
        return PushOutcome(error=why, address_gone=True)
    if isinstance(error, exceptions.InvalidArgumentError):
        # The message or the address is malformed: to repeat it is pointless, but only UNREGISTERED proves it gone.
        return PushOutcome(error=why)
    return PushOutcome(error=why, retry_after_s=_retry_after_s(error) or _DEFAULT_RETRY_S)


def _retry_after_s(error: Any) -> float | None:
    response = getattr(error, "http_response", None)
    header = None if response is None else response.headers.get("Retry-After")
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
