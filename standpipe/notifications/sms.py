"""Texts. Today only sign-in codes, posted as JSON to one address: the fake phone's, or a gateway's adapter."""

from dataclasses import dataclass

import httpx

from standpipe.platform.errors import StandpipeError


@dataclass
class SmsNotSentError(StandpipeError):
    """The text did not go out."""

    reason: str

    def __str__(self) -> str:
        return f"text not sent: {self.reason}"


async def send_sms(http: httpx.AsyncClient, url: str, *, phone: str, text: str) -> None:
    """Post ``{"to", "text"}``. Raises SmsNotSentError for anything but a 2xx answer."""
    try:
        response = await http.post(url, json={"to": phone, "text": text})
    except httpx.HTTPError as error:
        raise SmsNotSentError(type(error).__name__) from error
    if not response.is_success:
        raise SmsNotSentError(f"HTTP {response.status_code}")
