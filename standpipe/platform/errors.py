"""Typed errors. Each carries its data; every door maps them in one place of its own."""

from dataclasses import dataclass

from standpipe.platform.language import in_language, phrase


class StandpipeError(Exception):
    """Root of the errors that Standpipe raises on purpose.

    Its message is a ``phrase`` where a customer may read it, and is then said in their language.
    """

    def text_in(self, language: str) -> str:
        """The message in a language (BCP 47), in English where it is no phrase."""
        said = type(self).__str__(self)
        # Exception's own __str__ makes a plain text of its argument; the phrase is the argument itself.
        first = self.args[0] if self.args else said
        return in_language(first if first == said else said, language)


class SettingsError(StandpipeError):
    """A setting is wrong or missing. ``lines`` holds one clear sentence for each."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NotFoundError(StandpipeError):
    """There is no such thing, or it is another household's: the two must look alike."""


class ForbiddenError(StandpipeError):
    """The asker may see this, but their role may not do it; the message says who may."""


@dataclass
class InvalidInputError(StandpipeError):
    """The caller's input breaks a rule. ``field`` is the path of the input at fault."""

    message: str
    field: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.message


@dataclass
class AmountOutOfRangeError(StandpipeError):
    """The amount lies outside what the payment method takes; both limits are in minor units."""

    minimum_minor: int
    maximum_minor: int
    currency: str
    field: tuple[str, ...] = ("pay", "amount")

    def __str__(self) -> str:
        return phrase("The amount is outside what this payment method takes.")


class IdempotencyMismatchError(StandpipeError):
    """The idempotency key was used before with other input."""

    def __str__(self) -> str:
        return phrase("This request key was used before with different input.")


@dataclass
class InsufficientFundsError(StandpipeError):
    """A guarded account would fall below its floor."""

    account_id: str
    balance_minor: int
    wanted_minor: int
    floor_minor: int

    def __str__(self) -> str:
        return (
            f"Account {self.account_id} holds {self.balance_minor}; taking {self.wanted_minor} "
            f"would pass its floor of {self.floor_minor}."
        )


class MeterBlockedError(StandpipeError):
    """This meter does not take money this way at the moment; the message says why."""


class QuoteOutdatedError(StandpipeError):
    """An order by a quote cannot give any more what the quote said; the message says why."""


class RateLimitedError(StandpipeError):
    """Too many tries; ``retry_after_s`` says when to come back."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(phrase("Too many tries. Please wait {seconds} seconds.", seconds=retry_after_s))
        self.retry_after_s = retry_after_s


class NotAuthenticatedError(StandpipeError):
    """No credential, or one that does not verify."""


class NotYetError(StandpipeError):
    """Something has to be waited for; whoever asked asks again later. Nothing is wrong."""


class SignInUnavailableError(StandpipeError):
    """A token's issuer does not answer, so that it can be neither believed nor refused: try again."""
