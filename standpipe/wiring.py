"""Parts that every role puts together from the settings."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from pydantic import SecretStr

from standpipe.households.firebase import FirebaseTokens, refuse_emulator
from standpipe.meters.keys import KeyRing
from standpipe.notifications.push import PushSender
from standpipe.payments.async_results import StoredResults
from standpipe.payments.rails.flutterwave import FlutterwaveRail
from standpipe.payments.rails.instrumented import instrumented
from standpipe.payments.rails.momo import MomoKeys, MomoRail
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.payments.rails.port import Rail
from standpipe.payments.rails.registry import Rails
from standpipe.payments.rails.sandbox import SandboxRail
from standpipe.payments.rails.stripe import StripeRail
from standpipe.payments.split import FeeRule
from standpipe.platform import logs, tracing
from standpipe.platform.database import Sessions, answers, create_engine, create_sessions, is_migrated
from standpipe.platform.embedded import embedded
from standpipe.platform.errors import SettingsError
from standpipe.platform.settings import Settings
from standpipe.sts.keys import VENDING_KEY_BYTES
from standpipe.tables import MODULES as _TABLES  # noqa: F401 - whoever opens a database needs every table.
from standpipe.vending.issuer import TokenIssuer
from standpipe.vending.remote import RemoteIssuer
from standpipe.vending.software import SoftwareIssuer

OTEL_TIMEOUT_S = 5
"""Of one export, and so of what a role waits for when it ends."""


@dataclass(frozen=True, slots=True)
class Database:
    """An open database: its URL for listeners, its sessions for all else."""

    url: str
    sessions: Sessions


def configure_logging(settings: Settings) -> None:
    """One line a log entry, to standard error. Raises SettingsError for a level or format that does not exist."""
    logs.configure(settings.log_level, settings.log_format, secret_texts(settings))


def secret_texts(settings: Settings) -> Iterator[str]:
    """Every secret that the settings hold, letter by letter."""
    for value in dict(settings).values():
        found = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]
        yield from (item.get_secret_value() for item in found if isinstance(item, SecretStr))
    if settings.database_url:
        yield urlsplit(settings.database_url).password or ""


@contextmanager
def traced(settings: Settings, role: str) -> Iterator[None]:
    """Spans to the collector that the settings name, for as long as the context lasts; without one, none."""
    if settings.otel_endpoint is None:
        yield
        return
    exporter = OTLPSpanExporter(f"{settings.otel_endpoint.rstrip('/')}/v1/traces", timeout=OTEL_TIMEOUT_S)
    tracing.start(exporter, f"standpipe-{role}", sample_ratio=settings.otel_sample_ratio)
    try:
        yield
    finally:
        tracing.stop()


@asynccontextmanager
async def database_url(settings: Settings) -> AsyncIterator[str]:
    """The operator's server, or the embedded one for as long as the context lasts."""
    if settings.database_url:
        yield settings.database_url
        return
    async with embedded(settings.data_dir, port=settings.postgres_port, bin_dir=settings.postgres_bin) as url:
        yield url


@asynccontextmanager
async def migrated_database(settings: Settings) -> AsyncIterator[Database]:
    """``open_database`` for roles that need the tables. Raises SettingsError where there are none yet."""
    async with open_database(settings) as database:
        if not await is_migrated(database.sessions):
            raise SettingsError("The database has no tables yet: run `standpipe migrate` first.")
        yield database


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """An engine on that server, disposed of at the end. Raises SettingsError."""
    async with database_url(settings) as url:
        engine = create_engine(url, pool_size=settings.pool_size)
        sessions = create_sessions(engine)
        try:
            if not await answers(sessions):
                raise SettingsError("STANDPIPE_DATABASE_URL: the database does not answer, or refuses us.")
            yield Database(url, sessions)
        finally:
            await engine.dispose()


def make_rails(settings: Settings, sessions: Sessions) -> Rails:
    """The payment rails that are set up. Raises SettingsError for one that is set up by half."""
    found = (
        *(_stripe(settings), _mpesa(settings, sessions), _momo(settings)),
        *(_flutterwave(settings), _sandbox(settings)),
    )
    rails = [instrumented(rail) for rail in found if rail is not None]
    fees = {method: _fee(method, rule) for method, rule in settings.service_fees.items()}
    return Rails({rail.name: rail for rail in rails}, fees)


def _fee(method: str, rule: dict[str, int]) -> FeeRule:
    wrong = set(rule) - {"basis_points", "fixed_minor"}
    if wrong or any(value < 0 for value in rule.values()):
        raise SettingsError(f"STANDPIPE_SERVICE_FEES: {method} takes basis_points and fixed_minor, from 0 up.")
    return FeeRule(rule.get("basis_points", 0), rule.get("fixed_minor", 0))


def _stripe(settings: Settings) -> Rail | None:
    if not settings.stripe_api_key:
        return None
    _whole("STRIPE", settings, "stripe_webhook_secrets", "stripe_publishable_key")
    return StripeRail(
        api_keys=_plain(settings.stripe_api_key),
        publishable_key=settings.stripe_publishable_key or "",
        webhook_secrets=_plain(settings.stripe_webhook_secrets),
        api_base=settings.stripe_api_base,
        timeout_s=settings.stripe_timeout_s,
        return_base_url=f"{settings.public_url.rstrip('/')}/return",
        accounts=settings.stripe_accounts,
    )


def _mpesa(settings: Settings, sessions: Sessions) -> Rail | None:
    if settings.mpesa_url is None:
        return None
    needed = ("consumer_key", "consumer_secret", "shortcode", "passkey", "callback_secrets", "initiator")
    _whole("MPESA", settings, *(f"mpesa_{name}" for name in needed))
    return MpesaRail(
        base_url=settings.mpesa_url,
        consumer_key=_reveal(settings.mpesa_consumer_key),
        consumer_secret=_reveal(settings.mpesa_consumer_secret),
        shortcode=settings.mpesa_shortcode or "",
        passkey=_reveal(settings.mpesa_passkey),
        callback_base_url=f"{settings.public_url.rstrip('/')}/webhooks/mpesa",
        callback_secrets=_plain(settings.mpesa_callback_secrets),
        allowed_networks=settings.mpesa_networks,
        initiator_name=settings.mpesa_initiator or "",
        security_credential=_reveal(settings.mpesa_security_credential),
        answers=StoredResults(sessions),
        timeout_s=settings.rails_timeout_s,
    )


def _momo(settings: Settings) -> Rail | None:
    if settings.momo_url is None:
        return None
    needed = ("subscription_key", "api_user", "api_key", "callback_secrets")
    _whole("MOMO", settings, *(f"momo_{name}" for name in needed))
    collection = MomoKeys(
        _reveal(settings.momo_subscription_key), settings.momo_api_user or "", _reveal(settings.momo_api_key)
    )
    disbursement = None
    if settings.momo_disbursement_key is not None:
        _whole("MOMO refunds", settings, "momo_disbursement_user", "momo_disbursement_api_key")
        disbursement = MomoKeys(
            _reveal(settings.momo_disbursement_key),
            settings.momo_disbursement_user or "",
            _reveal(settings.momo_disbursement_api_key),
        )
    return MomoRail(
        base_url=settings.momo_url,
        collection=collection,
        disbursement=disbursement,
        target_environment=settings.momo_target_environment,
        currency=settings.momo_currency,
        callback_url=f"{settings.public_url.rstrip('/')}/webhooks/momo",
        callback_secrets=_plain(settings.momo_callback_secrets),
        allowed_networks=settings.momo_networks,
        timeout_s=settings.rails_timeout_s,
    )


def _flutterwave(settings: Settings) -> Rail | None:
    if settings.flutterwave_url is None:
        return None
    _whole("FLUTTERWAVE", settings, "flutterwave_secret_key", "flutterwave_webhook_hashes")
    return FlutterwaveRail(
        base_url=settings.flutterwave_url,
        secret_key=_reveal(settings.flutterwave_secret_key),
        webhook_hashes=_plain(settings.flutterwave_webhook_hashes),
        return_base_url=f"{settings.public_url.rstrip('/')}/return",
        email_domain=settings.flutterwave_email_domain,
        timeout_s=settings.rails_timeout_s,
    )


def _sandbox(settings: Settings) -> Rail | None:
    if settings.sandbox_url is None:
        return None
    _whole("SANDBOX", settings, "sandbox_webhook_secrets", "sandbox_api_key")
    return SandboxRail(
        base_url=settings.sandbox_url,
        api_key=_reveal(settings.sandbox_api_key),
        webhook_secrets=_plain(settings.sandbox_webhook_secrets),
    )


def _reveal(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


def _plain(secrets: list[SecretStr]) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


async def close_rails(rails: Mapping[str, Rail]) -> None:
    """Close what ``make_rails`` opened."""
    for rail in rails.values():
        await rail.close()


def make_issuer(settings: Settings) -> TokenIssuer | None:
    """Make the issuer of keypad tokens; None where there is none. Raises SettingsError for one set up by half."""
    if settings.keypad_issuer_url is not None:
        if settings.keypad_vending_keys:
            raise SettingsError(
                "STANDPIPE_KEYPAD_VENDING_KEYS: tokens are made by STANDPIPE_KEYPAD_ISSUER_URL; unset one."
            )
        _whole("KEYPAD ISSUER", settings, "keypad_issuer_key")
        return RemoteIssuer(
            url=settings.keypad_issuer_url,
            api_key=_reveal(settings.keypad_issuer_key),
            timeout_s=settings.keypad_issuer_timeout_s,
        )
    if not settings.keypad_vending_keys:
        return None
    return SoftwareIssuer(vending_keys(settings))


def vending_keys(settings: Settings) -> dict[tuple[str, int], bytes]:
    """The software issuer's keys by supply group and revision. Raises SettingsError for one that is none."""
    found = {}
    for name, secret in settings.keypad_vending_keys.items():
        group, _, revision = name.partition(":")
        try:
            key = bytes.fromhex(secret.get_secret_value())
        except ValueError:
            key = b""
        if len(key) != VENDING_KEY_BYTES or not (group.isdecimal() and revision.isdecimal()):
            raise SettingsError(f"STANDPIPE_KEYPAD_VENDING_KEYS: {name} must be GROUP:REVISION with 20 bytes in hex.")
        found[group, int(revision)] = key
    return found


def make_sender(settings: Settings) -> PushSender | None:
    """The push sender, or None where Firebase is not set up."""
    if settings.firebase_credentials is None:
        return None
    return PushSender(settings.firebase_credentials, settings.fcm_base_url)


def make_firebase(settings: Settings) -> FirebaseTokens | None:
    """Make the verifier of Firebase's tokens; None where they are not taken.

    Raises SettingsError for one that is set up by half, and wherever Firebase's emulator is named in the environment.
    """
    refuse_emulator()
    if settings.firebase_project_id is None:
        return None
    if settings.firebase_credentials is None:
        raise SettingsError(
            "STANDPIPE_FIREBASE_CREDENTIALS is not set, but STANDPIPE_FIREBASE_PROJECT_ID is: without the "
            "service-account file nobody can ask Google whether a sign-in was revoked."
        )
    return FirebaseTokens(
        settings.firebase_project_id,
        settings.firebase_credentials,
        base_url=settings.firebase_auth_url,
        timeout_s=settings.firebase_timeout_s,
    )


def make_operator_keys(settings: Settings) -> KeyRing | None:
    """Make the keys of operators' secrets; None where operators cannot sign in. Raises SettingsError."""
    secrets = _plain(settings.operator_key_secrets)
    return KeyRing(secrets, "STANDPIPE_OPERATOR_KEY_SECRETS") if secrets else None


def _whole(rail: str, settings: Settings, *names: str) -> None:
    missing = [f"STANDPIPE_{name.upper()}" for name in names if not getattr(settings, name)]
    if missing:
        raise SettingsError(*(f"{name} is not set, but {rail} is turned on." for name in missing))
