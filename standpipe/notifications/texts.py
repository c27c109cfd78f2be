"""Alerts in words, in the device's language."""

from dataclasses import dataclass
from typing import Any

from standpipe.platform.language import in_language, phrase, to_translate, translate, translate_many
from standpipe.platform.units import money_text, volume_text


@dataclass(frozen=True, slots=True)
class Text:
    """Title and body of a push."""

    title: str
    body: str


_ALERTS = {
    "LOW_BALANCE": (
        to_translate("Water is running low"),
        to_translate("{label}: {money} left, enough for {days}. Top up to keep it flowing."),
    ),
    "EMPTY": (
        to_translate("Your water credit is used up"),
        to_translate("{label}: the valve closes until you top up."),
    ),
    "TOP_UP": (to_translate("Credit is on your meter"), to_translate("{label}: the meter has confirmed your top-up.")),
    "TOP_UP_FAILED": (
        to_translate("Top-up did not go through"),
        to_translate("{label}: the payment failed. If money was taken after all, it will still be credited."),
    ),
    "TAKEN_BACK": (
        to_translate("A payment was given back"),
        to_translate("{label}: money went back to the payer. The app shows what it means."),
    ),
    "AUTO_PAID": (
        to_translate("Topped up automatically"),
        to_translate("{label}: your card was charged, and the credit is on its way."),
    ),
    "AUTO_DECLINED": (
        to_translate("Automatic top-up declined"),
        to_translate("{label}: your card was declined. We will try again later."),
    ),
    "AUTO_AUTHENTICATE": (
        to_translate("Your bank wants you to confirm"),
        to_translate("{label}: open the app to finish the top-up."),
    ),
    "AUTO_TURNED_OFF": (
        to_translate("Automatic top-up is off"),
        to_translate("{label}: your card did not work. Choose another in the app."),
    ),
    "TOKEN_ISSUED": (
        to_translate("Type a token on your meter"),
        to_translate("{label}: it does not answer. Type {token} on its keypad."),
    ),
    "ACCESS_CLAIMED": (
        to_translate("A new owner on your meter"),
        to_translate(
            "{label}: somebody with a claim code can see it and pay for it now. If you do not know them, open Members."
        ),
    ),
    "ACCESS_OWNER": (
        to_translate("A new owner in your household"),
        to_translate("{label}: a member is an owner now. See Members in the app."),
    ),
    "ACCESS_MOVED_OUT": (
        to_translate("Your household has moved out"),
        to_translate("{label}: an owner said so, and this meter is closed to you."),
    ),
    "LEAK": (
        to_translate("Your meter notices a leak"),
        to_translate("{label}: water runs when nobody should be using any. Check taps and pipes."),
    ),
    "TAMPER": (
        to_translate("Somebody touched your meter"),
        to_translate("{label}: the meter says that it was opened or moved."),
    ),
    "BATTERY": (
        to_translate("Your meter's battery is low"),
        to_translate("{label}: the utility will change it; you need do nothing."),
    ),
    "OTHER": ("Standpipe", to_translate("{label}: there is news in the app.")),
}
"""Title and body of each kind of alert, or of its variant."""


def invitation_text(language: str) -> str:
    """Word the text message to somebody who is invited. It says nothing of the household: numbers are mistyped."""
    return in_language(
        phrase("Somebody shares their water meter with you on Standpipe. Sign in with this number to see it."), language
    )


def text_of(kind: str, params: dict[str, Any], language: str) -> Text:
    """Word an alert. ``params`` are those it was raised with; unknown languages fall back to English."""
    # A key of a newer release still tells that there is something to read: no alert may stop the others.
    title, body = _ALERTS.get(params.get("variant") or kind, _ALERTS["OTHER"])
    left = money_text(int(params.get("credit_minor") or 0), str(params.get("currency") or "USD"), language)
    if params.get("left_ml") is not None:
        left = volume_text(int(params["left_ml"]), language)
    values = {
        "label": params.get("label", ""),
        "token": params.get("token", ""),
        "money": left,
        "days": _days_text(max(int(params.get("days_left") or 0), 0), language),
    }
    return Text(translate(title, language), translate(body, language).format(**values))


def _days_text(count: int, language: str) -> str:
    if not count:
        return in_language(phrase("less than a day"), language)
    return translate_many("{count} day", "{count} days", count, language).format(count=count)
