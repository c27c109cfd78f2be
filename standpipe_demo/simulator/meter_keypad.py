"""A simulated meter's keypad: what it makes of 20 digits, by IEC 62055-41 and the page docs/meters/keypad-tokens.md."""

from typing import Any

from standpipe.sts.amounts import ML_PER_UNIT
from standpipe.sts.keypad import Keypad, Typed
from standpipe.sts.keys import DecoderKey, KeyTerms
from standpipe.sts.tokens import CREDIT_CLASS, MANAGEMENT_CLASS, Credit, Management, Token, TokenError
from standpipe_demo.simulator.meter_model import MeterConfig, MeterState, settle_valve


def typed_ml(config: MeterConfig, state: MeterState) -> int | None:
    """Millilitres that the meter states to have been typed; None for one without a keypad."""
    return None if config.keypad is None else state.typed_ml


def type_token(config: MeterConfig, state: MeterState, digits: str) -> str:
    """Type a token; what the display shows. The caller stores the state before anybody can read it."""
    if config.keypad is None:
        return "NO_KEYPAD"
    key = decoder_key(state.keypad or config.keypad)
    if _is_in_total(state, key, digits):
        # Its credit came by radio, in a total: said twice, and a success.
        return Typed.USED
    keypad = Keypad(key, tampered=state.is_tampered, tids=list(state.tids))
    keypad.sections = {int(part): Token(MANAGEMENT_CLASS, int(part), body) for part, body in state.key_sections.items()}
    shown = keypad.enter(digits)
    state.tids, state.is_tampered = keypad.tids, keypad.tampered
    state.key_sections = {str(part): token.payload for part, token in keypad.sections.items()}
    if shown is Typed.KEY_CHANGED:
        state.keypad = described(keypad.key)
    if shown is Typed.ACCEPTED:
        volume_ml = keypad.units * ML_PER_UNIT
        state.credit_accepted += volume_ml
        state.credit_remaining += volume_ml
        state.typed_ml += volume_ml
        if _subclass(key, digits) == (MANAGEMENT_CLASS, Management.CLEAR_CREDIT):
            state.credit_remaining = min(state.credit_remaining, 0)
        settle_valve(state)
    return shown


def decoder_key(raw: dict[str, Any]) -> DecoderKey:
    """A key as a manifest has it."""
    terms = {name: value for name, value in raw.items() if name != "key_hex"}
    return DecoderKey(KeyTerms(**terms), bytes.fromhex(raw["key_hex"]))


def described(key: DecoderKey) -> dict[str, Any]:
    """A key as a manifest holds it."""
    terms = {name: getattr(key.terms, name) for name in KeyTerms.__dataclass_fields__}
    return terms | {"key_hex": key.secret.hex()}


def _is_in_total(state: MeterState, key: DecoderKey, digits: str) -> bool:
    token = _token(key, digits)
    is_credit = token is not None and (token.token_class, token.subclass) == (CREDIT_CLASS, Credit.WATER)
    return token is not None and is_credit and token.tid <= state.tid_mark and token.tid not in state.tids


def _subclass(key: DecoderKey, digits: str) -> tuple[int, int] | None:
    token = _token(key, digits)
    return None if token is None else (token.token_class, token.subclass)


def _token(key: DecoderKey, digits: str) -> Token | None:
    try:
        return Token.from_digits(digits.replace(" ", "").replace("-", ""), key)
    except TokenError:
        return None
