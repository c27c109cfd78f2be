"""A meter's flash memory: a small JSON file, written whole, synced, and swapped in before the meter answers."""

import json
import os
from pathlib import Path

from standpipe_demo.simulator.meter_model import MeterConfig, MeterState, fresh_state


def load(folder: Path, config: MeterConfig) -> MeterState:
    """Load what the meter remembers, or its fresh state."""
    path = folder / f"{config.serial}.json"
    if not path.exists():
        return fresh_state(config)
    raw = json.loads(path.read_text())
    raw["unsent"] = [(time_s, register_ml) for time_s, register_ml in raw["unsent"]]
    raw["pipe_empty"] = [(since_s, empty) for since_s, empty in raw.get("pipe_empty", [])]
    return MeterState(**raw)


def save(folder: Path, config: MeterConfig, state: MeterState) -> None:
    """Durable once this returns: a power cut leaves the old state or the new, never half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{config.serial}.json"
    draft = path.with_suffix(".new")
    with draft.open("w") as file:
        json.dump(state.to_dict(), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
