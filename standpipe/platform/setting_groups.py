"""Groups of settings, one for each rail, radio and service outside; handed over whole to the room that it is for."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

SECRET_MIN_LENGTH = 32


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _networks(value: list[str]) -> list[str]:
    for text in value:
        ip_network(text)
    return value


def _unguessable(value: list[SecretStr]) -> list[SecretStr]:
    if any(len(secret.get_secret_value()) < SECRET_MIN_LENGTH for secret in value):
        message = f"each needs at least {SECRET_MIN_LENGTH} characters"
        raise ValueError(message)
    return value


Secrets = Annotated[list[SecretStr], NoDecode, BeforeValidator(_split)]
"""Secrets, comma-separated in the environment."""
LongSecrets = Annotated[Secrets, AfterValidator(_unguessable)]
"""Secrets that stand in an address or are all that is asked for: 32 characters or more each."""
Texts = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""Texts, comma-separated in the environment."""
Networks = Annotated[Texts, AfterValidator(_networks)]
"""Networks (CIDR), comma-separated in the environment."""


class StripeSettings(BaseModel):
    """Cards by Stripe."""

    api_key: Secrets = Field(
        default_factory=list,
        description="Stripe secret keys, comma-separated, newest first (two while rotating). Unset: cards are off.",
    )
    publishable_key: str | None = Field(None, description="Stripe publishable key, handed to apps.")
    webhook_secrets: Secrets = Field(
        default_factory=list,
        description="Stripe webhook signing secrets, comma-separated, newest first (two while rotating).",
    )
    api_base: str = Field("https://api.stripe.com", description="Stripe's API; the fake's address in tests and demo.")
    timeout_s: float = Field(10.0, gt=0, le=60, description="Time-out of one request to Stripe in seconds.")
    accounts: Texts = Field(default_factory=list, description="Connected Stripe accounts whose events are ours too.")


class SandboxSettings(BaseModel):
    """The sandbox rail."""

    url: str | None = Field(None, description="The sandbox provider's address. Unset: the sandbox is off.")
    api_key: SecretStr | None = Field(None, description="Our key at the sandbox provider.")
    webhook_secrets: Secrets = Field(
        default_factory=list, description="Sandbox webhook signing secrets, comma-separated, newest first."
    )
    port: int = Field(8010, ge=1, le=65535, description="Demo: port of the sandbox provider.")


class MpesaSettings(BaseModel):
    """M-Pesa (Daraja)."""

    url: str | None = Field(None, description="Daraja's address. Unset: M-Pesa is off.")
    consumer_key: SecretStr | None = Field(None, description="Daraja consumer key.")
    consumer_secret: SecretStr | None = Field(None, description="Daraja consumer secret.")
    shortcode: str | None = Field(None, description="Our paybill number.")
    passkey: SecretStr | None = Field(None, description="Lipa na M-Pesa Online passkey.")
    callback_secrets: LongSecrets = Field(
        default_factory=list,
        description="Secret part of the callback address (32 characters or more), newest first (two while rotating).",
    )
    networks: Networks = Field(
        default_factory=list, description="Networks that M-Pesa callbacks may come from. Empty: Safaricom's own."
    )
    initiator: str | None = Field(None, description="API operator's name, for status queries and reversals.")
    security_credential: SecretStr | None = Field(
        None, description="The API operator's password, encrypted for Safaricom as its portal describes."
    )


class MomoSettings(BaseModel):
    """MTN MoMo."""

    url: str | None = Field(None, description="MTN MoMo's API address. Unset: MoMo is off.")
    subscription_key: SecretStr | None = Field(None, description="MoMo Collections subscription key.")
    api_user: str | None = Field(None, description="MoMo Collections API user (UUID).")
    api_key: SecretStr | None = Field(None, description="MoMo Collections API key.")
    target_environment: str = Field("sandbox", description="MoMo X-Target-Environment, e.g. `mtnuganda`.")
    currency: str = Field("EUR", description="The one currency of that environment; EUR in MTN's sandbox.")
    callback_secrets: LongSecrets = Field(
        default_factory=list, description="Secret part of the callback address (32 characters or more), newest first."
    )
    networks: Networks = Field(
        default_factory=list, description="Networks that MoMo callbacks may come from. Empty: any, with the secret."
    )
    disbursement_key: SecretStr | None = Field(None, description="MoMo Disbursements subscription key (refunds).")
    disbursement_user: str | None = Field(None, description="MoMo Disbursements API user.")
    disbursement_api_key: SecretStr | None = Field(None, description="MoMo Disbursements API key.")


class FlutterwaveSettings(BaseModel):
    """Flutterwave."""

    url: str | None = Field(None, description="Flutterwave's API address. Unset: Flutterwave is off.")
    secret_key: SecretStr | None = Field(None, description="Flutterwave secret key.")
    webhook_hashes: Secrets = Field(
        default_factory=list, description="Flutterwave secret hashes (`verif-hash`), newest first."
    )
    email_domain: str = Field(
        "payers.invalid", description="Flutterwave wants an e-mail address: the top-up's id at this domain."
    )


class CoapSettings(BaseModel):
    """CoAP and LwM2M."""

    host: str = Field("127.0.0.1", description="Address that `standpipe gateway` listens on.")
    port: int = Field(5683, ge=1, le=65535, description="UDP port that `standpipe gateway` listens on.")
    plain_udp: bool = Field(
        False, description="Serve CoAP without DTLS. Only for loopback or an operator's private APN."
    )
    dtls: bool = Field(True, description="Serve CoAP over DTLS 1.2 with pre-shared keys.")
    dtls_port: int = Field(5684, ge=1, le=65535, description="UDP port of CoAP over DTLS.")
    bootstrap_port: int | None = Field(
        None, ge=1, le=65535, description="UDP port of the LwM2M bootstrap server (5694, say). Unset: there is none."
    )
    public_url: str | None = Field(
        None, description="Where meters reach CoAP over DTLS, `coaps://host:port`; the bootstrap server hands it out."
    )
    ack_timeout_s: float = Field(
        2.0, gt=0, le=30, description="CoAP ACK_TIMEOUT (RFC 7252 §4.8) of requests to meters, in seconds."
    )
    max_retransmit: int = Field(4, ge=0, le=8, description="CoAP MAX_RETRANSMIT of requests to meters.")


class DtlsSettings(BaseModel):
    """DTLS sessions and handshakes."""

    max_sessions: int = Field(
        20_000, ge=1, description="DTLS sessions that one gateway keeps (some 75 kB each); the idlest goes first."
    )
    idle_h: float = Field(24.0, gt=0, description="Hours of silence after which a DTLS session is forgotten.")
    handshake_timeout_s: float = Field(
        60.0, gt=0, le=600, description="Seconds after which an unfinished DTLS handshake is forgotten."
    )
    max_handshakes: int = Field(1_000, ge=1, description="DTLS handshakes under way at once, in all.")
    max_handshakes_per_host: int = Field(
        200, ge=1, description="The same from one IP address; behind a carrier's NAT many meters share one."
    )


class LorawanSettings(BaseModel):
    """LoRaWAN by ChirpStack."""

    api_url: str | None = Field(
        None, description="ChirpStack v4's gRPC API, `https://host:port`, or `http://` without TLS. Unset: no LoRaWAN."
    )
    api_token: SecretStr | None = Field(None, description="ChirpStack API key (of a tenant).")
    api_ca: Path | None = Field(
        None, description="PEM file of the authority that signed ChirpStack's certificate. Unset: the public ones."
    )
    event_secrets: LongSecrets = Field(
        default_factory=list,
        description="What ChirpStack's HTTP integration sends as `Authorization: Bearer …` (32 characters or more), "
        "comma-separated, newest first.",
    )
    http_host: str = Field("127.0.0.1", description="Address on which `gateway` takes LoRaWAN events.")
    http_port: int = Field(8070, ge=1, le=65535, description="Port on which `gateway` takes LoRaWAN events.")


class DlmsSettings(BaseModel):
    """DLMS meters that dial in."""

    host: str = Field("127.0.0.1", description="Address that `standpipe gateway` listens on for DLMS meters.")
    port: int | None = Field(
        None, ge=1, le=65535, description="TCP port on which DLMS meters dial in, usually 4059. Unset: DLMS is off."
    )
    system_title: str = Field(
        "5350570000000001",
        pattern=r"^[0-9a-fA-F]{16}$",
        description="Our system title to DLMS meters, 8 bytes in hex; must differ from every meter's.",
    )
    allow_lls: bool = Field(
        False,
        description="Serve DLMS meters that know only LLS, which encrypts nothing. Only within a private APN.",
    )
    answer_timeout_s: float = Field(
        30.0, gt=0, le=120, description="How long a DLMS meter may take to answer one request, in seconds."
    )
    idle_timeout_s: float = Field(
        7200.0, gt=0, description="Silence after which a DLMS meter's connection is closed, in seconds."
    )


class KeypadSettings(BaseModel):
    """Keypad tokens."""

    token_after_min: int = Field(
        120, ge=1, description="Minutes on its way after which credit is offered as a keypad token (STS), town time."
    )
    issuer_url: str | None = Field(
        None, description="Who makes keypad tokens: an HSM or vending service (docs/meters/keypad-tokens.md)."
    )
    issuer_key: SecretStr | None = Field(None, description="Our bearer key at that issuer.")
    issuer_timeout_s: float = Field(10.0, gt=0, le=60, description="Time-out of one request to it in seconds.")
    vending_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Instead of it, for development: vending keys in this process, as JSON of 20 bytes in hex by "
        'supply group and key revision, `{"123457:1": "…40 hex…"}`.',
    )


class FirebaseSettings(BaseModel):
    """Firebase: pushes and sign-in."""

    credentials: Path | None = Field(
        None, description="Firebase service-account JSON file. Unset: pushes are off and show as suppressed."
    )
    project_id: str | None = Field(
        None,
        description="Firebase project whose ID tokens sign customers in (docs/api/firebase.md); needs the "
        "service-account file. Unset: off.",
    )
    auth_url: str | None = Field(
        None, description="Google's sign-in servers; the stand-in's address in tests and demo. Unset: Google's own."
    )
    timeout_s: float = Field(
        5.0, gt=0, le=60, description="How long Google may take to say whether a sign-in still holds, in seconds."
    )
