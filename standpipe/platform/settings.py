"""Settings, from the environment alone (prefix ``STANDPIPE_``). The table in docs/settings.md is made from here."""

from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from standpipe.platform.clock import Clock
from standpipe.platform.errors import SettingsError

_SECRET_MIN_LENGTH = 32


class DocumentsMode(StrEnum):
    """GraphQL documents that are not trusted. OFF: they run. LOG: they run, and are logged once. ENFORCE: refused."""

    OFF = "off"
    LOG = "log"
    ENFORCE = "enforce"


class Settings(BaseSettings):
    """Every setting with its default. A field's description is its line in docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="STANDPIPE_", extra="ignore")

    data_dir: Path = Field(Path(".data"), description="Folder for the embedded PostgreSQL and the demo's files.")
    database_url: str | None = Field(
        None,
        description="A PostgreSQL 15+ server, `postgresql://user:password@host:port/name`. Unset: embedded.",
    )
    postgres_bin: Path | None = Field(
        None, description="`bin` folder of a PostgreSQL 15+ for the embedded server. Unset: the wheel's own."
    )
    postgres_port: int = Field(5443, ge=1, le=65535, description="Loopback TCP port of the embedded PostgreSQL.")
    pool_size: int = Field(10, ge=1, le=200, description="Database connections kept by one process.")

    http_host: str = Field("127.0.0.1", description="Address that `standpipe serve` listens on.")
    http_port: int = Field(8000, ge=1, le=65535, description="Port that `standpipe serve` listens on.")
    coap_host: str = Field("127.0.0.1", description="Address that `standpipe gateway` listens on.")
    coap_port: int = Field(5683, ge=1, le=65535, description="UDP port that `standpipe gateway` listens on.")
    coap_plain_udp: bool = Field(
        False, description="Serve CoAP without DTLS. Only for loopback or an operator's private APN."
    )
    coap_dtls: bool = Field(True, description="Serve CoAP over DTLS 1.2 with pre-shared keys.")
    coap_dtls_port: int = Field(5684, ge=1, le=65535, description="UDP port of CoAP over DTLS.")
    coap_bootstrap_port: int | None = Field(
        None, ge=1, le=65535, description="UDP port of the LwM2M bootstrap server (5694, say). Unset: there is none."
    )
    coap_public_url: str | None = Field(
        None, description="Where meters reach CoAP over DTLS, `coaps://host:port`; the bootstrap server hands it out."
    )
    dtls_max_sessions: int = Field(
        20_000, ge=1, description="DTLS sessions that one gateway keeps (some 75 kB each); the idlest goes first."
    )
    dtls_idle_h: float = Field(24.0, gt=0, description="Hours of silence after which a DTLS session is forgotten.")
    dtls_handshake_timeout_s: float = Field(
        60.0, gt=0, le=600, description="Seconds after which an unfinished DTLS handshake is forgotten."
    )
    dtls_max_handshakes: int = Field(1_000, ge=1, description="DTLS handshakes under way at once, in all.")
    dtls_max_handshakes_per_host: int = Field(
        200, ge=1, description="The same from one IP address; behind a carrier's NAT many meters share one."
    )
    coap_ack_timeout_s: float = Field(
        2.0, gt=0, le=30, description="CoAP ACK_TIMEOUT (RFC 7252 §4.8) of requests to meters, in seconds."
    )
    coap_max_retransmit: int = Field(4, ge=0, le=8, description="CoAP MAX_RETRANSMIT of requests to meters.")
    prepaid_object_id: int = Field(
        42769, ge=32769, le=42800, description="LwM2M id of the prepaid object (docs/lwm2m/)."
    )
    lorawan_api_url: str | None = Field(
        None, description="ChirpStack v4's gRPC API, `https://host:port`, or `http://` without TLS. Unset: no LoRaWAN."
    )
    lorawan_api_token: SecretStr | None = Field(None, description="ChirpStack API key (of a tenant).")
    lorawan_api_ca: Path | None = Field(
        None, description="PEM file of the authority that signed ChirpStack's certificate. Unset: the public ones."
    )
    lorawan_event_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="What ChirpStack's HTTP integration sends as `Authorization: Bearer …` (32 characters or more), "
        "comma-separated, newest first.",
    )
    lorawan_http_host: str = Field("127.0.0.1", description="Address on which `gateway` takes LoRaWAN events.")
    lorawan_http_port: int = Field(8070, ge=1, le=65535, description="Port on which `gateway` takes LoRaWAN events.")
    dlms_host: str = Field("127.0.0.1", description="Address that `standpipe gateway` listens on for DLMS meters.")
    dlms_port: int | None = Field(
        None, ge=1, le=65535, description="TCP port on which DLMS meters dial in, usually 4059. Unset: DLMS is off."
    )
    dlms_system_title: str = Field(
        "5350570000000001",
        pattern=r"^[0-9a-fA-F]{16}$",
        description="Our system title to DLMS meters, 8 bytes in hex; must differ from every meter's.",
    )
    dlms_allow_lls: bool = Field(
        False,
        description="Serve DLMS meters that know only LLS, which encrypts nothing. Only within a private APN.",
    )
    dlms_answer_timeout_s: float = Field(
        30.0, gt=0, le=120, description="How long a DLMS meter may take to answer one request, in seconds."
    )
    dlms_idle_timeout_s: float = Field(
        7200.0, gt=0, description="Silence after which a DLMS meter's connection is closed, in seconds."
    )
    keypad_token_after_min: int = Field(
        120, ge=1, description="Minutes on its way after which credit is offered as a keypad token (STS), town time."
    )
    keypad_issuer_url: str | None = Field(
        None, description="Who makes keypad tokens: an HSM or vending service (docs/meters/keypad-tokens.md)."
    )
    keypad_issuer_key: SecretStr | None = Field(None, description="Our bearer key at that issuer.")
    keypad_issuer_timeout_s: float = Field(10.0, gt=0, le=60, description="Time-out of one request to it in seconds.")
    keypad_vending_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Instead of it, for development: vending keys in this process, as JSON of 20 bytes in hex by "
        'supply group and key revision, `{"123457:1": "…40 hex…"}`.',
    )
    command_deadline_h: int = Field(
        72, ge=1, description="Hours after which an undelivered valve or threshold command expires."
    )
    offline_after_h: int = Field(26, ge=1, description="Hours of silence after which a meter shows as offline.")

    min_app_versions: dict[Literal["ANDROID", "IOS", "WEB"], str] = Field(
        default_factory=dict,
        description='The oldest version of the app that still works, as JSON by platform: `{"ANDROID": "2.3.0"}`.',
    )

    token_secret: SecretStr | None = Field(
        None, description="Signs access tokens (HS256); at least 32 characters. `serve` needs it."
    )
    token_ttl_s: int = Field(900, ge=60, le=7 * 86400, description="Life of an access token in seconds.")
    meter_key_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="Seal meter keys at rest: Fernet keys, comma-separated, newest first. `gateway` needs one.",
    )
    operator_key_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="Seal operators' TOTP secrets at rest: Fernet keys, comma-separated, newest first. Unset: no "
        "operator can sign in.",
    )
    sms_url: str | None = Field(
        None,
        description="Where sign-in codes are posted as JSON (the fake phone's `/sms`). Unset: phone sign-in is off.",
    )
    sms_countries: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Country codes (ISO 3166) allowed to sign in by phone. Empty: all."
    )
    sms_daily_cap: int = Field(
        1_000, ge=1, description="Texts with sign-in codes that go out in 24 hours, in all: what abuse may cost a day."
    )
    sign_in_codes_per_address: int = Field(
        10,
        ge=1,
        description="Sign-in codes that one address may ask for in an hour (an IPv6 /64 is one). More where a carrier "
        "puts many phones behind one address.",
    )
    session_idle_days: int = Field(60, ge=1, description="Days unused after which an app's sign-in ends.")
    session_max_days: int = Field(365, ge=1, description="Days after which an app's sign-in ends in any case.")
    web_session_idle_days: int = Field(7, ge=1, description="Days unused after which a browser's sign-in ends.")
    web_session_max_days: int = Field(30, ge=1, description="Days after which a browser's sign-in ends in any case.")

    stripe_api_key: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="Stripe secret keys, comma-separated, newest first (two while rotating). Unset: cards are off.",
    )
    stripe_publishable_key: str | None = Field(None, description="Stripe publishable key, handed to apps.")
    stripe_webhook_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="Stripe webhook signing secrets, comma-separated, newest first (two while rotating).",
    )
    stripe_api_base: str = Field(
        "https://api.stripe.com", description="Stripe's API; the fake's address in tests and demo."
    )
    stripe_timeout_s: float = Field(10.0, gt=0, le=60, description="Time-out of one request to Stripe in seconds.")
    sandbox_url: str | None = Field(None, description="The sandbox provider's address. Unset: the sandbox is off.")
    sandbox_api_key: SecretStr | None = Field(None, description="Our key at the sandbox provider.")
    sandbox_webhook_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list, description="Sandbox webhook signing secrets, comma-separated, newest first."
    )

    public_url: str = Field(
        "http://127.0.0.1:8000",
        description="Our address as providers and payers reach it: callbacks, return page, receipts.",
    )
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Networks (CIDR) of our own reverse proxies, whose X-Forwarded-For is believed. Empty: none is.",
    )
    service_fees: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description='What customers pay for paying so, as JSON: `{"mpesa": {"basis_points": 50, "fixed_minor": 0}}`.',
    )
    stripe_accounts: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Connected Stripe accounts whose events are ours too."
    )
    mpesa_url: str | None = Field(None, description="Daraja's address. Unset: M-Pesa is off.")
    mpesa_consumer_key: SecretStr | None = Field(None, description="Daraja consumer key.")
    mpesa_consumer_secret: SecretStr | None = Field(None, description="Daraja consumer secret.")
    mpesa_shortcode: str | None = Field(None, description="Our paybill number.")
    mpesa_passkey: SecretStr | None = Field(None, description="Lipa na M-Pesa Online passkey.")
    mpesa_callback_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="Secret part of the callback address (32 characters or more), newest first (two while rotating).",
    )
    mpesa_networks: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Networks that M-Pesa callbacks may come from. Empty: Safaricom's own."
    )
    mpesa_initiator: str | None = Field(None, description="API operator's name, for status queries and reversals.")
    mpesa_security_credential: SecretStr | None = Field(
        None, description="The API operator's password, encrypted for Safaricom as its portal describes."
    )
    momo_url: str | None = Field(None, description="MTN MoMo's API address. Unset: MoMo is off.")
    momo_subscription_key: SecretStr | None = Field(None, description="MoMo Collections subscription key.")
    momo_api_user: str | None = Field(None, description="MoMo Collections API user (UUID).")
    momo_api_key: SecretStr | None = Field(None, description="MoMo Collections API key.")
    momo_target_environment: str = Field("sandbox", description="MoMo X-Target-Environment, e.g. `mtnuganda`.")
    momo_currency: str = Field("EUR", description="The one currency of that environment; EUR in MTN's sandbox.")
    momo_callback_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list, description="Secret part of the callback address (32 characters or more), newest first."
    )
    momo_networks: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Networks that MoMo callbacks may come from. Empty: any, with the secret."
    )
    momo_disbursement_key: SecretStr | None = Field(None, description="MoMo Disbursements subscription key (refunds).")
    momo_disbursement_user: str | None = Field(None, description="MoMo Disbursements API user.")
    momo_disbursement_api_key: SecretStr | None = Field(None, description="MoMo Disbursements API key.")
    flutterwave_url: str | None = Field(None, description="Flutterwave's API address. Unset: Flutterwave is off.")
    flutterwave_secret_key: SecretStr | None = Field(None, description="Flutterwave secret key.")
    flutterwave_webhook_hashes: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list, description="Flutterwave secret hashes (`verif-hash`), newest first."
    )
    flutterwave_email_domain: str = Field(
        "payers.invalid", description="Flutterwave wants an e-mail address: the top-up's id at this domain."
    )
    rails_timeout_s: float = Field(
        10.0, gt=0, le=60, description="Time-out of one request to M-Pesa, MoMo or Flutterwave, in seconds."
    )

    firebase_credentials: Path | None = Field(
        None, description="Firebase service-account JSON file. Unset: pushes are off and show as suppressed."
    )
    firebase_project_id: str | None = Field(
        None,
        description="Firebase project whose ID tokens sign customers in (docs/api/firebase.md); needs the "
        "service-account file. Unset: off.",
    )
    firebase_auth_url: str | None = Field(
        None, description="Google's sign-in servers; the stand-in's address in tests and demo. Unset: Google's own."
    )
    firebase_timeout_s: float = Field(
        5.0, gt=0, le=60, description="How long Google may take to say whether a sign-in still holds, in seconds."
    )
    fcm_base_url: str = Field(
        "https://fcm.googleapis.com", description="FCM HTTP v1 address; the fake phone's in tests and demo."
    )
    graphiql_dir: Path | None = Field(
        None, description="Folder of the GraphiQL files (`make graphiql`). Unset: no IDE is served."
    )
    introspection: bool | None = Field(
        None, description="Whether those who have signed in may ask for the schema. Unset: where the IDE is served."
    )
    documents_mode: DocumentsMode = Field(
        DocumentsMode.OFF,
        description="GraphQL documents that are not trusted: `off` runs them, `log` notes them too, `enforce` refuses.",
    )
    cost_capacity: int = Field(
        30_000,
        ge=5_000,
        description="Points that a customer's budget of GraphQL operations holds (docs/api/limits.md).",
    )
    cost_refill_per_s: int = Field(300, ge=1, description="Points that come back to it each second.")

    sandbox_port: int = Field(8010, ge=1, le=65535, description="Demo: port of the sandbox provider.")
    phone_port: int = Field(8020, ge=1, le=65535, description="Demo: port of the fake phone.")
    fake_stripe_port: int = Field(8030, ge=1, le=65535, description="Demo: port of the Stripe stand-in.")
    fake_mpesa_port: int = Field(8040, ge=1, le=65535, description="Demo: port of the M-Pesa stand-in.")
    fake_momo_port: int = Field(8050, ge=1, le=65535, description="Demo: port of the MTN MoMo stand-in.")
    fake_flutterwave_port: int = Field(8060, ge=1, le=65535, description="Demo: port of the Flutterwave stand-in.")
    fake_chirpstack_port: int = Field(8090, ge=1, le=65535, description="Demo: port of the ChirpStack stand-in.")

    fake_keypad_port: int = Field(
        8100, ge=1, le=65535, description="Demo: port of the keypads' page and of the stand-in that makes tokens."
    )

    fake_google_port: int = Field(
        8110, ge=1, le=65535, description="Demo: port of the stand-in for Google's sign-in servers."
    )

    clock_factor: float = Field(
        1.0, ge=1, le=100_000, description="How many times faster than real the town's clock runs."
    )
    clock_anchor_real_s: float = Field(0.0, description="Real Unix time at which the town's clock stood at its anchor.")
    clock_anchor_at: datetime | None = Field(None, description="What the town's clock showed at its anchor (RFC 3339).")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field("json", description="`json`: a line is an object; `text`: for people, as in the demo.")
    otel_endpoint: str | None = Field(
        None, description="OpenTelemetry collector for traces, `http://host:4318` (OTLP over HTTP). Unset: no traces."
    )
    otel_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of the traces that is kept, decided where each begins."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz of each role.")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the same; each role on one machine needs its own. Unset: off."
    )

    @field_validator(
        "meter_key_secrets",
        "operator_key_secrets",
        "stripe_webhook_secrets",
        "sandbox_webhook_secrets",
        "sms_countries",
        "trusted_proxies",
        "stripe_api_key",
        "stripe_accounts",
        "mpesa_callback_secrets",
        "mpesa_networks",
        "momo_callback_secrets",
        "momo_networks",
        "flutterwave_webhook_hashes",
        "lorawan_event_secrets",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("trusted_proxies", "mpesa_networks", "momo_networks")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ip_network(text)
        return value

    @field_validator("mpesa_callback_secrets", "momo_callback_secrets", "lorawan_event_secrets")
    @classmethod
    def _unguessable(cls, value: list[SecretStr]) -> list[SecretStr]:
        if any(len(secret.get_secret_value()) < _SECRET_MIN_LENGTH for secret in value):
            message = f"each needs at least {_SECRET_MIN_LENGTH} characters"
            raise ValueError(message)
        return value

    @field_validator("token_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SECRET_MIN_LENGTH:
            message = f"needs at least {_SECRET_MIN_LENGTH} characters"
            raise ValueError(message)
        return value

    @property
    def trusted_networks(self) -> list[IPv4Network | IPv6Network]:
        """``trusted_proxies``, read."""
        return [ip_network(text) for text in self.trusted_proxies]

    @property
    def clock(self) -> Clock:
        """The town's clock that these settings describe."""
        if self.clock_anchor_at is None:
            return Clock()
        return Clock(self.clock_factor, self.clock_anchor_real_s, self.clock_anchor_at)


def load() -> Settings:
    """Settings from the environment.

    Raises SettingsError with one line for each setting that is wrong, naming it as the operator wrote it.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"STANDPIPE_{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError(*lines) from None


def require(settings: Settings, *names: str) -> None:
    """Fail at start, not at first use: raises SettingsError naming each setting that is still empty."""
    missing = [name for name in names if not getattr(settings, name)]
    if missing:
        raise SettingsError(
            *(f"STANDPIPE_{name.upper()} is not set: {Settings.model_fields[name].description}" for name in missing)
        )
