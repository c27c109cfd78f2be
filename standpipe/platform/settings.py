"""Settings, from the environment alone (prefix ``STANDPIPE_``). The table in docs/settings.md is made from here."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from standpipe.platform.clock import Clock
from standpipe.platform.errors import SettingsError
from standpipe.platform.setting_groups import (
    SECRET_MIN_LENGTH,
    CoapSettings,
    DlmsSettings,
    DtlsSettings,
    FirebaseSettings,
    FlutterwaveSettings,
    KeypadSettings,
    LorawanSettings,
    MomoSettings,
    MpesaSettings,
    Networks,
    SandboxSettings,
    Secrets,
    StripeSettings,
    Texts,
)


class DocumentsMode(StrEnum):
    """GraphQL documents that are not trusted. OFF: they run. LOG: they run, and are logged once. ENFORCE: refused."""

    OFF = "off"
    LOG = "log"
    ENFORCE = "enforce"


class Settings(BaseSettings):
    """Every setting with its default. A field's description is its line in docs/settings.md."""

    model_config = SettingsConfigDict(
        # STANDPIPE_MPESA_CONSUMER_KEY is ``mpesa.consumer_key``: a group's name is one word.
        env_prefix="STANDPIPE_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="ignore",
    )

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
    coap: CoapSettings = Field(default_factory=CoapSettings)
    dtls: DtlsSettings = Field(default_factory=DtlsSettings)
    prepaid_object_id: int = Field(
        42769, ge=32769, le=42800, description="LwM2M id of the prepaid object (docs/lwm2m/)."
    )
    lorawan: LorawanSettings = Field(default_factory=LorawanSettings)
    dlms: DlmsSettings = Field(default_factory=DlmsSettings)
    keypad: KeypadSettings = Field(default_factory=KeypadSettings)
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
    meter_key_secrets: Secrets = Field(
        default_factory=list,
        description="Seal meter keys at rest: Fernet keys, comma-separated, newest first. `gateway` needs one.",
    )
    operator_key_secrets: Secrets = Field(
        default_factory=list,
        description="Seal operators' TOTP secrets at rest: Fernet keys, comma-separated, newest first. Unset: no "
        "operator can sign in.",
    )
    sms_url: str | None = Field(
        None,
        description="Where sign-in codes are posted as JSON (the fake phone's `/sms`). Unset: phone sign-in is off.",
    )
    sms_countries: Texts = Field(
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

    stripe: StripeSettings = Field(default_factory=StripeSettings)
    sandbox: SandboxSettings = Field(default_factory=SandboxSettings)

    public_url: str = Field(
        "http://127.0.0.1:8000",
        description="Our address as providers and payers reach it: callbacks, return page, receipts.",
    )
    trusted_proxies: Networks = Field(
        default_factory=list,
        description="Networks (CIDR) of our own reverse proxies, whose X-Forwarded-For is believed. Empty: none is.",
    )
    service_fees: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description='What customers pay for paying so, as JSON: `{"mpesa": {"basis_points": 50, "fixed_minor": 0}}`.',
    )
    mpesa: MpesaSettings = Field(default_factory=MpesaSettings)
    momo: MomoSettings = Field(default_factory=MomoSettings)
    flutterwave: FlutterwaveSettings = Field(default_factory=FlutterwaveSettings)
    rails_timeout_s: float = Field(
        10.0, gt=0, le=60, description="Time-out of one request to M-Pesa, MoMo or Flutterwave, in seconds."
    )

    firebase: FirebaseSettings = Field(default_factory=FirebaseSettings)
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

    @field_validator("token_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SECRET_MIN_LENGTH:
            message = f"needs at least {SECRET_MIN_LENGTH} characters"
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
            f"{_variable(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError(*lines) from None


def fields_of(model: type[BaseModel] = Settings, group: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its name as the environment has it without the prefix, groups opened."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{name}_")
        else:
            yield group + name, field


def values_of(settings: BaseModel, group: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting's value, by the names of ``fields_of``."""
    for name, value in settings:
        if isinstance(value, BaseModel):
            yield from values_of(value, f"{name}_")
        else:
            yield group + name, value


def require(settings: Settings, *names: str) -> None:
    """Fail at start, not at first use: raises SettingsError naming each setting that is still empty.

    ``names``: as the environment has them, without the prefix (``dlms_port``).
    """
    values, fields = dict(values_of(settings)), dict(fields_of())
    missing = [name for name in names if not values[name]]
    if missing:
        raise SettingsError(*(f"STANDPIPE_{name.upper()} is not set: {fields[name].description}" for name in missing))


def _variable(path: Sequence[int | str]) -> str:
    """The environment's name of a setting, by its path in a ValidationError."""
    field = Settings.model_fields.get(str(path[0]))
    grouped = field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return "STANDPIPE_" + "_".join(str(part) for part in path[: 2 if grouped else 1]).upper()
