"""Parts that every role puts together from the settings."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from pydantic import BaseModel, SecretStr

from standpipe.households.firebase import FirebaseTokens, refuse_emulator
from standpipe.meters.keys import KeyRing
from standpipe.notifications.push import PushSender
from standpipe.payments.async_results import StoredResults
from standpipe.payments.rails.flutterwave import FlutterwaveRail
from standpipe.payments.rails.instrumented import instrumented
from standpipe.payments.rails.momo import MomoKeys, MomoRail
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.payments.rails.port import AsyncResults, Rail
from standpipe.payments.rails.registry import Rails
from standpipe.payments.rails.sandbox import SandboxRail
from standpipe.payments.rails.stripe import StripeRail
from standpipe.payments.split import FeeRule
from standpipe.platform import logs, tracing
from standpipe.platform.database import Sessions, answers, create_engine, create_sessions, is_migrated
from standpipe.platform.embedded import embedded
from standpipe.platform.errors import SettingsError
from standpipe.platform.setting_groups import (
    FirebaseSettings,
    FlutterwaveSettings,
    KeypadSettings,
    MomoSettings,
    MpesaSettings,
    SandboxSettings,
    StripeSettings,
)
from standpipe.platform.settings import Settings, values_of
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
    for _, value in values_of(settings):
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
    public_url = settings.public_url.rstrip("/")
    found = (
        _stripe(settings.stripe, public_url),
        _mpesa(settings.mpesa, public_url, StoredResults(sessions), settings.rails_timeout_s),
        _momo(settings.momo, public_url, settings.rails_timeout_s),
        _flutterwave(settings.flutterwave, public_url, settings.rails_timeout_s),
        _sandbox(settings.sandbox),
    )
    rails = [instrumented(rail) for rail in found if rail is not None]
    fees = {method: _fee(method, rule) for method, rule in settings.service_fees.items()}
    return Rails({rail.name: rail for rail in rails}, fees)


def _fee(method: str, rule: dict[str, int]) -> FeeRule:
    wrong = set(rule) - {"basis_points", "fixed_minor"}
    if wrong or any(value < 0 for value in rule.values()):
        raise SettingsError(f"STANDPIPE_SERVICE_FEES: {method} takes basis_points and fixed_minor, from 0 up.")
    return FeeRule(rule.get("basis_points", 0), rule.get("fixed_minor", 0))


def _stripe(settings: StripeSettings, public_url: str) -> Rail | None:
    if not settings.api_key:
        return None
    _whole("STRIPE", settings, "webhook_secrets", "publishable_key")
    return StripeRail(
        api_keys=_plain(settings.api_key),
        publishable_key=settings.publishable_key or "",
        webhook_secrets=_plain(settings.webhook_secrets),
        api_base=settings.api_base,
        timeout_s=settings.timeout_s,
        return_base_url=f"{public_url}/return",
        accounts=settings.accounts,
    )


def _mpesa(settings: MpesaSettings, public_url: str, answers: AsyncResults, timeout_s: float) -> Rail | None:
    if settings.url is None:
        return None
    needed = ("consumer_key", "consumer_secret", "shortcode", "passkey", "callback_secrets", "initiator")
    _whole("MPESA", settings, *needed)
    return MpesaRail(
        base_url=settings.url,
        consumer_key=_reveal(settings.consumer_key),
        consumer_secret=_reveal(settings.consumer_secret),
        shortcode=settings.shortcode or "",
        passkey=_reveal(settings.passkey),
        callback_base_url=f"{public_url}/webhooks/mpesa",
        callback_secrets=_plain(settings.callback_secrets),
        allowed_networks=settings.networks,
        initiator_name=settings.initiator or "",
        security_credential=_reveal(settings.security_credential),
        answers=answers,
        timeout_s=timeout_s,
    )


def _momo(settings: MomoSettings, public_url: str, timeout_s: float) -> Rail | None:
    if settings.url is None:
        return None
    needed = ("subscription_key", "api_user", "api_key", "callback_secrets")
    _whole("MOMO", settings, *needed)
    collection = MomoKeys(_reveal(settings.subscription_key), settings.api_user or "", _reveal(settings.api_key))
    disbursement = None
    if settings.disbursement_key is not None:
        _whole("MOMO", settings, "disbursement_user", "disbursement_api_key", what="MOMO refunds")
        disbursement = MomoKeys(
            _reveal(settings.disbursement_key),
            settings.disbursement_user or "",
            _reveal(settings.disbursement_api_key),
        )
    return MomoRail(
        base_url=settings.url,
        collection=collection,
        disbursement=disbursement,
        target_environment=settings.target_environment,
        currency=settings.currency,
        callback_url=f"{public_url}/webhooks/momo",
        callback_secrets=_plain(settings.callback_secrets),
        allowed_networks=settings.networks,
        timeout_s=timeout_s,
    )


def _flutterwave(settings: FlutterwaveSettings, public_url: str, timeout_s: float) -> Rail | None:
    if settings.url is None:
        return None
    _whole("FLUTTERWAVE", settings, "secret_key", "webhook_hashes")
    return FlutterwaveRail(
        base_url=settings.url,
        secret_key=_reveal(settings.secret_key),
        webhook_hashes=_plain(settings.webhook_hashes),
        return_base_url=f"{public_url}/return",
        email_domain=settings.email_domain,
        timeout_s=timeout_s,
    )


def _sandbox(settings: SandboxSettings) -> Rail | None:
    if settings.url is None:
        return None
    _whole("SANDBOX", settings, "webhook_secrets", "api_key")
    return SandboxRail(
        base_url=settings.url,
        api_key=_reveal(settings.api_key),
        webhook_secrets=_plain(settings.webhook_secrets),
    )


def _reveal(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


def _plain(secrets: list[SecretStr]) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


async def close_rails(rails: Mapping[str, Rail]) -> None:
    """Close what ``make_rails`` opened."""
    for rail in rails.values():
        await rail.close()


def make_issuer(settings: KeypadSettings) -> TokenIssuer | None:
    """Make the issuer of keypad tokens; None where there is none. Raises SettingsError for one set up by half."""
    if settings.issuer_url is not None:
        if settings.vending_keys:
            raise SettingsError(
                "STANDPIPE_KEYPAD_VENDING_KEYS: tokens are made by STANDPIPE_KEYPAD_ISSUER_URL; unset one."
            )
        _whole("KEYPAD", settings, "issuer_key", what="KEYPAD ISSUER")
        return RemoteIssuer(
            url=settings.issuer_url,
            api_key=_reveal(settings.issuer_key),
            timeout_s=settings.issuer_timeout_s,
        )
    if not settings.vending_keys:
        return None
    return SoftwareIssuer(vending_keys(settings))


def vending_keys(settings: KeypadSettings) -> dict[tuple[str, int], bytes]:
    """The software issuer's keys by supply group and revision. Raises SettingsError for one that is none."""
    found = {}
    for name, secret in settings.vending_keys.items():
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
    if settings.firebase.credentials is None:
        return None
    return PushSender(settings.firebase.credentials, settings.fcm_base_url)


def make_firebase(settings: FirebaseSettings) -> FirebaseTokens | None:
    """Make the verifier of Firebase's tokens; None where they are not taken.

    Raises SettingsError for one that is set up by half, and wherever Firebase's emulator is named in the environment.
    """
    refuse_emulator()
    if settings.project_id is None:
        return None
    if settings.credentials is None:
        raise SettingsError(
            "STANDPIPE_FIREBASE_CREDENTIALS is not set, but STANDPIPE_FIREBASE_PROJECT_ID is: without the "
            "service-account file nobody can ask Google whether a sign-in was revoked."
        )
    return FirebaseTokens(
        settings.project_id,
        settings.credentials,
        base_url=settings.auth_url,
        timeout_s=settings.timeout_s,
    )


def make_operator_keys(settings: Settings) -> KeyRing | None:
    """Make the keys of operators' secrets; None where operators cannot sign in. Raises SettingsError."""
    secrets = _plain(settings.operator_key_secrets)
    return KeyRing(secrets, "STANDPIPE_OPERATOR_KEY_SECRETS") if secrets else None


def _whole(group: str, settings: BaseModel, *names: str, what: str | None = None) -> None:
    """Raises SettingsError naming each setting of a group that is empty. ``what``: what is turned on; the group."""
    missing = [f"STANDPIPE_{group}_{name.upper()}" for name in names if not getattr(settings, name)]
    if missing:
        raise SettingsError(*(f"{name} is not set, but {what or group} is turned on." for name in missing))
