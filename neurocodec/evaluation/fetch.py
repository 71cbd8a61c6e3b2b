"""Downloads with a checksum: a file appears under its name only when it is the one that was expected."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from pathlib import Path

from neurocodec import image

TIMEOUT_S = 30
LIMIT = 256 << 20
"""Bytes; what is fetched here is smaller."""


def fetch(url: str, sha256: str, target: Path) -> None:
    """Downloads `url` to `target`, whose folder is made. Raises OSError if it cannot be had or has another SHA-256."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data = answer.read(LIMIT)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise OSError(f"it has the SHA-256 {found[:8]}..., expected {sha256[:8]}...")
    target.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes_atomic(target, data, force=True)
