"""The 16-bit amount field of a credit token: two bits of exponent, fourteen of mantissa (IEC 62055-41 §6.3.6). Pure.

Water counts in 0.1 m³. Exact up to 1,638.3 m³; from there in steps of 10, 100 and 1,000 units, rounded up, so that
nobody gets less than they paid for.
"""

from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import ML_PER_KILOLITRE

ML_PER_UNIT = ML_PER_KILOLITRE // 10
"""0.1 m³, of which a water token's amount is so many."""
_MANTISSAS = 1 << 14
MAX_EXACT_UNITS = _MANTISSAS - 1
"""Beyond it a token may say more than was asked for."""
_STEPS = (1, 10, 100, 1000)
_STARTS = (0, _MANTISSAS, 11 * _MANTISSAS, 111 * _MANTISSAS)
MAX_UNITS = _STARTS[3] + (_MANTISSAS - 1) * _STEPS[3]


def to_field(units: int) -> int:
    """The field that stands for at least ``units``. Raises InvalidInputError for none, or more than it can say."""
    if not 0 < units <= MAX_UNITS:
        raise InvalidInputError(f"A token carries between 1 and {MAX_UNITS} units of 0.1 m³.")
    for exponent, (start, step) in enumerate(zip(_STARTS, _STEPS, strict=True)):
        # Between two ranges lies what the lower one cannot reach; it is rounded up to the upper one's start.
        mantissa = max(-(-(units - start) // step), 0)
        if mantissa < _MANTISSAS:
            return exponent << 14 | mantissa
    raise AssertionError("MAX_UNITS is the last range's end")


def from_field(field: int) -> int:
    """The units that a field stands for."""
    exponent, mantissa = field >> 14, field & (_MANTISSAS - 1)
    return _STARTS[exponent] + mantissa * _STEPS[exponent]


def units_of(volume_ml: int) -> int:
    """A volume in whole units of 0.1 m³. Raises InvalidInputError for one that is none."""
    if volume_ml % ML_PER_UNIT:
        raise InvalidInputError("A water token carries whole units of 0.1 m³.")
    return volume_ml // ML_PER_UNIT
