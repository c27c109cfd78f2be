"""The demo's settings for its parts, and the secrets that they share."""

import json
import os
import secrets
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from standpipe.platform.settings import Settings
from standpipe_demo.simulator.fake_phone import PROJECT

DEMO_FACTOR = 240.0
DEMO_DLMS_PORT = 4059
TOKEN_TTL_S = 7 * 86_400
_STAND_INS_ALONE = frozenset({"keypad_vending_key"})
"""Variables that only a stand-in may hold: they are in no part's environment."""
_SECRETS = (
    *("token_secret", "sandbox_api_key", "sandbox_webhook_secrets", "stripe_webhook_secrets"),
    *("mpesa_consumer_key", "mpesa_consumer_secret", "mpesa_passkey", "mpesa_callback_secrets"),
    *("momo_subscription_key", "momo_api_key", "momo_callback_secrets"),
    *("flutterwave_secret_key", "flutterwave_webhook_hashes"),
    *("lorawan_api_token", "lorawan_event_secrets", "keypad_issuer_key"),
)


def demo_secrets(data_dir: Path) -> dict[str, str]:
    path = data_dir / "secrets.json"
    if not path.exists():
        fresh = {"meter_key_secrets": Fernet.generate_key().decode(), "stripe_api_key": "sk_test_demo"}
        write_json(path, fresh)
    kept: dict[str, str] = json.loads(path.read_text())
    if "keypad_vending_key" not in kept:
        kept["keypad_vending_key"] = secrets.token_hex(20)
        write_json(path, kept)
    if "operator_key_secrets" not in kept:
        kept["operator_key_secrets"] = Fernet.generate_key().decode()
        write_json(path, kept)
    missing = [name for name in _SECRETS if name not in kept]
    if missing:
        # A town of an earlier release has not got them all.
        kept |= {name: secrets.token_urlsafe(32) for name in missing}
        write_json(path, kept)
    return kept


def demo_environment(
    settings: Settings,
    url: str,
    data_dir: Path,
    kept: dict[str, str],
    credentials: Path,
    last: datetime | None,
    *,
    currency: str,
) -> dict[str, str]:
    """The environment of the demo's parts: this process's own, and the settings that tie the parts together.

    ``kept``: ``demo_secrets``; ``last``: the latest that the town's clock has shown; ``currency``: the town's.
    """
    factor = settings.clock_factor if "clock_factor" in settings.model_fields_set else DEMO_FACTOR
    # The town's clock goes on from where it stood: it must not fall behind what meters have already told.
    anchor_at = max(datetime.now(UTC), last) if last is not None else datetime.now(UTC)
    graphiql = settings.graphiql_dir or Path(__file__).resolve().parents[1] / ".cache" / "graphiql"
    chosen = {
        "DATA_DIR": data_dir,
        "DATABASE_URL": url,
        "HTTP_HOST": settings.http_host,
        "HTTP_PORT": settings.http_port,
        "PUBLIC_URL": f"http://{settings.http_host}:{settings.http_port}",
        "FIREBASE_CREDENTIALS": credentials,
        "GRAPHIQL_DIR": graphiql,
        "TOKEN_TTL_S": TOKEN_TTL_S,
        "CLOCK_FACTOR": factor,
        "CLOCK_ANCHOR_REAL_S": time.time(),
        "CLOCK_ANCHOR_AT": anchor_at.isoformat(),
        "LOG_FORMAT": settings.log_format if "log_format" in settings.model_fields_set else "text",
        "LOG_LEVEL": settings.log_level if "log_level" in settings.model_fields_set else "ERROR",
        **_meters(settings, data_dir),
        **_outside(settings, kept, currency),
        **{name.upper(): value for name, value in kept.items() if name not in _STAND_INS_ALONE},
    }
    return dict(os.environ) | {f"STANDPIPE_{name}": str(value) for name, value in chosen.items()}


def _meters(settings: Settings, data_dir: Path) -> dict[str, object]:
    """Return where meters reach the gateway, and the gateway what makes their tokens."""
    return {
        "COAP_HOST": settings.coap.host,
        "COAP_PORT": settings.coap.port,
        "COAP_DTLS_PORT": settings.coap.dtls_port,
        "COAP_PLAIN_UDP": int(settings.coap.plain_udp or _has_meters_without_key(data_dir)),
        "COAP_ACK_TIMEOUT_S": "0.5",
        "COAP_MAX_RETRANSMIT": "2",
        "DLMS_HOST": settings.dlms.host,
        "DLMS_PORT": settings.dlms.port or DEMO_DLMS_PORT,
        "DLMS_ALLOW_LLS": "1",
        "FAKE_CHIRPSTACK_PORT": settings.fake_chirpstack_port,
        "LORAWAN_API_URL": f"http://127.0.0.1:{settings.fake_chirpstack_port}",
        "LORAWAN_HTTP_PORT": settings.lorawan.http_port,
        "FAKE_KEYPAD_PORT": settings.fake_keypad_port,
        "KEYPAD_ISSUER_URL": f"http://127.0.0.1:{settings.fake_keypad_port}",
    }


def _outside(settings: Settings, kept: dict[str, str], currency: str) -> dict[str, object]:
    """The stand-ins for payment providers and the phone."""
    phone = f"http://127.0.0.1:{settings.phone_port}"
    return {
        "SANDBOX_PORT": settings.sandbox.port,
        "PHONE_PORT": settings.phone_port,
        "FAKE_STRIPE_PORT": settings.fake_stripe_port,
        "SANDBOX_URL": f"http://127.0.0.1:{settings.sandbox.port}",
        "STRIPE_API_BASE": f"http://127.0.0.1:{settings.fake_stripe_port}",
        "STRIPE_PUBLISHABLE_KEY": "pk_test_demo",
        "FAKE_MPESA_PORT": settings.fake_mpesa_port,
        "FAKE_MOMO_PORT": settings.fake_momo_port,
        "FAKE_FLUTTERWAVE_PORT": settings.fake_flutterwave_port,
        "MPESA_URL": f"http://127.0.0.1:{settings.fake_mpesa_port}",
        "MPESA_SHORTCODE": "600999",
        "MPESA_INITIATOR": "standpipe",
        "MPESA_SECURITY_CREDENTIAL": "sealed",
        "MPESA_NETWORKS": "127.0.0.1/32,::1/128",
        "MOMO_URL": f"http://127.0.0.1:{settings.fake_momo_port}",
        "MOMO_API_USER": "standpipe",
        "MOMO_CURRENCY": currency,
        "MOMO_DISBURSEMENT_USER": "standpipe",
        "MOMO_DISBURSEMENT_KEY": kept["momo_subscription_key"],
        "MOMO_DISBURSEMENT_API_KEY": kept["momo_api_key"],
        "FLUTTERWAVE_URL": f"http://127.0.0.1:{settings.fake_flutterwave_port}",
        "FCM_BASE_URL": phone,
        "FAKE_GOOGLE_PORT": settings.fake_google_port,
        "FIREBASE_PROJECT_ID": PROJECT,
        "FIREBASE_AUTH_URL": f"http://127.0.0.1:{settings.fake_google_port}",
        "SMS_URL": f"{phone}/sms",
    }


def _has_meters_without_key(data_dir: Path) -> bool:
    """Tell whether the town is of an earlier release, whose meters speak plain UDP."""
    return any(not meter.get("dtls_key_hex") for meter in json.loads((data_dir / "meters.json").read_text()))


def write_json(path: Path, value: Any) -> None:
    """Write for scripts to read; only the owner may, since tokens and keys are in it."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_environment(path: Path, environment: dict[str, str]) -> None:
    """The demo's settings for a shell, so that the office's commands find its database and providers."""
    path.touch(mode=0o600)
    ours = {name: value for name, value in environment.items() if name.startswith("STANDPIPE_")}
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(ours.items())))
