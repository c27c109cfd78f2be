"""Firebase ID tokens, verified by firebase-admin; what they say in our own words.

The SDK blocks: it runs in threads of our own, which a silent Google cannot take from anybody else, and its answers are
waited for only so long. It keeps Google's certificates for as long as their Cache-Control says.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import firebase_admin
import jwt
import structlog
from firebase_admin import auth, credentials
from requests.adapters import HTTPAdapter

from standpipe.platform.errors import NotAuthenticatedError, SettingsError, SignInUnavailableError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase

EMULATOR_HOST = "FIREBASE_AUTH_EMULATOR_HOST"
ISSUER_PREFIX = "https://securetoken.google.com/"
CERTIFICATES_PATH = "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
CLOCK_SKEW_S = 10
_VERIFYING_THREADS, _ASKING_THREADS = 4, 8
_ALGORITHM = "RS256"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FirebaseClaims:
    """Claims of a verified token, in Unix seconds. ``phone``: E.164, and proven by Firebase; or None."""

    issuer: str
    subject: str
    phone: str | None
    signed_in_at_s: int
    expires_at_s: int


def refuse_emulator() -> None:
    """Raises SettingsError while the SDK would believe unsigned tokens (A1)."""
    if os.environ.get(EMULATOR_HOST):
        raise SettingsError(
            f"{EMULATOR_HOST} is set: with it, Firebase's SDK believes forged sign-ins. Unset it to serve customers."
        )


def is_firebase(token: str) -> bool:
    """Tell whether a token says that Firebase issued it, true or not: nobody else needs to look at it then."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return False
    issuer = claims.get("iss")
    return isinstance(issuer, str) and issuer.startswith(ISSUER_PREFIX)


class FirebaseTokens:
    """Verifies the tokens of one project. Raises SettingsError for a credentials file that cannot be used.

    ``base_url``: a stand-in for Google's servers; None: Google's own.
    """

    def __init__(self, project_id: str, credentials_file: Path, *, base_url: str | None, timeout_s: float) -> None:
        refuse_emulator()
        try:
            certificate = credentials.Certificate(str(credentials_file))
        except (OSError, ValueError) as error:
            raise SettingsError(f"STANDPIPE_FIREBASE_CREDENTIALS: {error}") from None
        options = {"projectId": project_id, "httpTimeout": timeout_s}
        self._app = firebase_admin.initialize_app(certificate, options, name=new_id("fba"))
        self._client = auth.Client(self._app)
        self._timeout_s = timeout_s
        # The SDK has no setting for its addresses or its retries; for these attributes it is pinned below 8.
        users = self._client._user_manager  # noqa: SLF001 - see above.
        for scheme in ("http://", "https://"):
            # Its own would try five times over 7 seconds, while a customer waits.
            users.http_client.session.mount(scheme, HTTPAdapter(max_retries=0))
        if base_url is not None:
            base = base_url.rstrip("/")
            users.base_url = f"{base}/v1/projects/{project_id}"
            self._client._token_verifier.id_token_verifier.cert_url = f"{base}{CERTIFICATES_PATH}"  # noqa: SLF001 - see above.
        # Apart: look-ups that hang must not keep anybody from reading.
        self._verifying = ThreadPoolExecutor(_VERIFYING_THREADS, thread_name_prefix="firebase-verify")
        self._asking = ThreadPoolExecutor(_ASKING_THREADS, thread_name_prefix="firebase-ask")

    async def verify(self, token: str) -> FirebaseClaims:
        """Verify a token and return its claims.

        Raises NotAuthenticatedError, or SignInUnavailableError without Google's certificates.
        """
        _refuse_unsigned(token)
        claims = await self._call(self._verifying, token, check_revoked=False)
        if claims.get("firebase", {}).get("tenant"):
            raise NotAuthenticatedError(phrase("Sign-in of a Firebase tenant is not taken here."))
        return FirebaseClaims(
            issuer=str(claims["iss"]),
            subject=str(claims["sub"]),
            phone=_proven_phone(claims),
            signed_in_at_s=int(claims.get("auth_time", claims["iat"])),
            expires_at_s=int(claims["exp"]),
        )

    async def check(self, token: str) -> None:
        """Ask Google whether the sign-in still holds.

        Raises NotAuthenticatedError for one that was revoked, SignInUnavailableError where Google does not say.
        """
        _refuse_unsigned(token)
        await self._call(self._asking, token, check_revoked=True)

    async def close(self) -> None:
        """End the connections and give up the SDK's app; what still hangs ends by its own time-out."""
        for pool in (self._verifying, self._asking):
            pool.shutdown(wait=False, cancel_futures=True)
        self._client._user_manager.http_client.close()  # noqa: SLF001 - as above.
        self._client._token_verifier.request.session.close()  # noqa: SLF001 - as above.
        firebase_admin.delete_app(self._app)

    async def _call(self, pool: ThreadPoolExecutor, token: str, *, check_revoked: bool) -> Mapping[str, Any]:
        def verify() -> Mapping[str, Any]:
            found: Mapping[str, Any] = self._client.verify_id_token(token, check_revoked, CLOCK_SKEW_S)
            return found

        return await self._in_time(pool, verify)

    async def _in_time(self, pool: ThreadPoolExecutor, verify: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(pool, verify), self._timeout_s)
        except (auth.InvalidIdTokenError, auth.UserDisabledError, auth.UserNotFoundError) as error:
            raise NotAuthenticatedError(
                phrase("The Firebase token is not valid, has expired or was revoked.")
            ) from error
        except Exception as error:
            # Whatever else happens, the token has not been judged, and nobody may act on it.
            _log.warning("Firebase did not say whether a sign-in holds", reason=type(error).__name__)
            raise SignInUnavailableError(
                phrase("Sign-in cannot be checked at the moment. Please try again.")
            ) from error


def _refuse_unsigned(token: str) -> None:
    """The SDK believes unsigned tokens while its emulator is named in the environment: we never do (A1)."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        header = {}
    signed = header.get("alg") == _ALGORITHM and isinstance(header.get("kid"), str)
    if not signed or os.environ.get(EMULATOR_HOST):
        raise NotAuthenticatedError(phrase("The Firebase token is not signed by Google."))


def _proven_phone(claims: Mapping[str, Any]) -> str | None:
    """The phone number that Firebase has proven.

    The claim ``phone_number`` alone could be a project's custom claim; nobody but Firebase writes ``firebase``.
    """
    phone, proven = claims.get("phone_number"), claims.get("firebase", {}).get("identities", {}).get("phone", [])
    return phone if isinstance(phone, str) and phone in proven else None
