"""Downloads with a checksum: a file appears under its name only when it is the one that was expected."""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import urllib.request
from pathlib import Path

TIMEOUT_S = 30
LIMIT = 1 << 30
"""Bytes; what is fetched is smaller."""


def fetch(url: str, sha256: str, target: Path) -> None:
    """Downloads `url` to `target`, whose folder is made. Raises OSError if it cannot be had or has another SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}-{secrets.token_hex(8)}.part")
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("xb") as file:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
                if (size := size + len(block)) > LIMIT:
                    raise OSError(f"it has more than {LIMIT >> 20} MB")
        if digest.hexdigest() != sha256:
            raise OSError(f"it has the SHA-256 {digest.hexdigest()[:8]}..., expected {sha256[:8]}...")
        os.replace(part, target)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
