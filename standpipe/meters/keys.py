"""Secrets at rest: sealed under the utility's Fernet keys, newest first, so that those can be rotated."""

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from standpipe.platform.errors import SettingsError


class KeyRing:
    """Seals with the first secret, opens with any. Raises SettingsError for a secret that is no Fernet key.

    ``setting`` is where the secrets came from: meters' keys and operators' secrets are sealed apart.
    """

    def __init__(self, secrets: list[str], setting: str = "STANDPIPE_METER_KEY_SECRETS") -> None:
        self._setting = setting
        try:
            self._fernet = MultiFernet([Fernet(secret) for secret in secrets])
        except ValueError:
            raise SettingsError(
                f"{setting}: every part must be a Fernet key; `standpipe new-key` prints one."
            ) from None

    def seal(self, key: bytes) -> str:
        """The key as it is stored."""
        return self._fernet.encrypt(key).decode("ascii")

    def reseal(self, sealed: str) -> str:
        """Seal a key again under the newest secret. Raises SettingsError where none of the secrets opens it."""
        return self.seal(self.open(sealed))

    def open(self, sealed: str) -> bytes:
        """The key itself. Raises SettingsError where none of the operator's secrets opens it."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise SettingsError(f"{self._setting}: none of these keys opens a stored key; was one dropped?") from None
