"""What many tests look at is made once a session, for all of its processes.

Whoever starts the session makes a folder, and names it to the processes that share the work.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

FOLDER = "MAPTILE2SAT_TESTS"
"""Environment variable with the folder of the session."""

Made = TypeVar("Made")


def scratch(name: str) -> Path:
    """Return a new folder that lasts as long as the session does."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=os.environ[FOLDER]))


def once(make: Callable[..., Made]) -> Callable[..., Made]:
    """Keep what a function returns for arguments, which can be pickled; do not change it."""

    @functools.cache
    def kept(*given: Any, **named: Any) -> Made:
        asked = repr((make.__module__, make.__qualname__, given, sorted(named.items())))
        path = Path(os.environ[FOLDER]) / hashlib.sha256(asked.encode()).hexdigest()
        with FileLock(f"{path}.lock"):
            if path.exists():
                found: Made = pickle.loads(path.read_bytes())
                return found
            made = make(*given, **named)
            path.write_bytes(pickle.dumps(made))
            return made

    return kept
