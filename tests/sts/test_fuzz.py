"""Any digits are a token of this meter or one typed error, and no meter takes what was not made for it."""

import random
from collections import Counter

from standpipe.sts.keypad import Typed
from standpipe_demo.simulator.meter_keypad import type_token
from standpipe_demo.simulator.meter_model import MeterConfig, fresh_state
from tests.support.lengths import rounds
from tests.support.tokens import keypad_config

ROUNDS = rounds(600, 3_000, "CHAOS_FRAMES")


def test_m7_digits_that_nobody_made_are_rejected_and_credit_nothing() -> None:
    config = MeterConfig(
        serial="KW1", endpoint="KW1", prepaid_key_hex="00" * 16, currency="VOL", time_zone="UTC", blocks=(),
        started_at="2026-06-01T00:00:00+00:00", keypad=keypad_config(),
    )  # fmt: skip
    state, chance = fresh_state(config), random.Random(3)
    shown: Counter[str] = Counter()
    for _ in range(ROUNDS):
        length = 20 if chance.random() < 0.9 else chance.randrange(40)
        digits = "".join(chance.choice("0123456789") for _ in range(length))
        if chance.random() < 0.05:
            digits = "".join(chance.choice("0123456789 -٣²x") for _ in range(20))
        shown[type_token(config, state, digits)] += 1
    # One in 65,536 numbers holds the CRC by chance, and few of those say something that a water meter knows.
    assert shown[Typed.REJECTED] >= ROUNDS - 1 - ROUNDS // 10_000
    assert shown[Typed.ACCEPTED] <= ROUNDS // 50_000
