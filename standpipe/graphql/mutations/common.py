"""Arguments and descriptions that many mutations have in common."""

from typing import Annotated, TypeVar

import strawberry

T = TypeVar("T")

Input = Annotated[T, strawberry.argument(description="Everything that this mutation is told, in one object.")]
"""A mutation's one argument: ``input: Input[TopUpStartInput]``."""

KEY = "idempotencyKey: a UUID made when the screen opens; same key and input replays the first answer."
"""The end of the description of an input that has a key."""
KEY_FIELD = "A UUID made when the screen opens; the same again for every retry of it."
METER_FIELD = "Which of the viewer's meters (mtr_…)."
REPLAYED = "This key was used before with the same input: nothing was done again."
NULL_WHERE_FAILED = "Null where it failed."
WENT_WELL = "Empty where it went well."
