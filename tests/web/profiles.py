"""ICC profiles of version 2 from primaries and a gamma: header, text, white, and a colorant and a curve a channel."""

from __future__ import annotations

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
D65 = (0.3127, 0.3290)  # x, y
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
PRIMARIES = {  # x, y of red, green and blue
    "Display P3": [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)],
    "Adobe RGB": [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)],
}


def rgb_profile(name: str, gamma: float) -> bytes:
    """A profile for RGB with the white of D65. name: of PRIMARIES."""
    colorants = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in PRIMARIES[name]]).T
    white = np.array([D65[0] / D65[1], 1.0, (1 - sum(D65)) / D65[1]])
    colorants = colorants * np.linalg.solve(colorants, white)
    cones = (BRADFORD @ D50) / (BRADFORD @ white)
    adapted = np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ colorants
    tags = {f"{channel}XYZ": _xyz(adapted[:, i]) for i, channel in enumerate("rgb")}
    tags |= {f"{channel}TRC": _curve(gamma) for channel in "rgb"}
    return _profile(b"RGB ", name, tags)


def gray_profile(gamma: float) -> bytes:
    """A profile for gray."""
    return _profile(b"GRAY", f"gray, gamma {gamma}", {"kTRC": _curve(gamma)})


def _xyz(values: object) -> bytes:
    return b"XYZ \0\0\0\0" + np.round(np.asarray(values) * 65536).astype(">i4").tobytes()


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _profile(space: bytes, name: str, tags: dict[str, bytes]) -> bytes:
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + bytes(1 + 78)
    tags = {"desc": description, "cprt": b"text\0\0\0\0none\0", "wtpt": _xyz(D50)} | tags
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag.encode(), at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    fields = (at + len(body), b"", 0x02100000, b"mntr", space, b"XYZ ", 2026, 1, 1, 0, 0, 0, b"acsp")
    header = struct.pack(">I4sI4s4s4s6H4s", *fields) + bytes(28) + _xyz(D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
