"""Codecs behind one small interface: a picture and a setting to the bytes of a file, and back."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import PIL
from PIL import Image, features

from neurocodec.errors import ConfigError, ImageError
from neurocodec.metrics import psnr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurocodec.checkpoint import Model

NAMES = ("nic", "jpeg", "jpeg-444", "webp")
"""What `create` knows."""


class Codec(Protocol):
    """A codec at its settings. Instances hold only what can be sent to another process."""

    @property
    def name(self) -> str:
        """How tables and figures call it."""

    def settings(self) -> tuple[float, ...]:
        """The settings measured unless others are asked for, from the smallest file to the largest."""

    def describe(self) -> dict[str, str]:
        """Everything that decides on the bytes besides the setting: options and versions."""

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        """uint8 (H, W, 3) -> a whole file. Raises ConfigError if the setting does not exist."""

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """A whole file -> uint8 (H, W, 3)."""


@dataclass(frozen=True)
class Nic:
    """This project's codec; the setting is the quality, 1 to 100. model: a name, a model file, or a loaded model."""

    model: str | Path | Model = "base"
    name: str = "nic"

    def settings(self) -> tuple[float, ...]:
        return (1, *range(5, 101, 5))

    def describe(self) -> dict[str, str]:
        model = Path(self.model).name if isinstance(self.model, (str, Path)) else "given"
        return {"settings": f"neurocodec, model {model}, quality=q", "model_id": self.loaded().model_id.hex()}

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        import neurocodec

        if not 1 <= setting <= 100:
            raise ConfigError(f"found nic quality {setting:g}, expected a number from 1 to 100")
        return neurocodec.encode(rgb, quality=setting, model=self.loaded())

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        import neurocodec

        return np.asarray(neurocodec.decode(data, model=self.loaded()).convert("RGB"))

    def loaded(self) -> Model:
        """The model itself, loaded once a process."""
        from neurocodec import checkpoint

        return self.model if isinstance(self.model, checkpoint.Model) else checkpoint.load(self.model)


@dataclass(frozen=True)
class Jpeg:
    """Baseline JPEG by libjpeg-turbo through Pillow, Huffman tables optimised; the setting is its quality."""

    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"

    @property
    def name(self) -> str:
        return "jpeg" if self.subsampling == "4:2:0" else "jpeg-444"

    def settings(self) -> tuple[float, ...]:
        return (5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 65, 70, 75, 80, 85, 90, 95)

    def describe(self) -> dict[str, str]:
        return {
            "settings": f"Pillow JPEG, quality=q, optimize=True, subsampling={self.subsampling}",
            "pillow": PIL.__version__,
            "libjpeg_turbo": str(features.version_feature("libjpeg_turbo")),
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        quality = _integer(setting, "JPEG quality", 1, 100)
        return _save(rgb, "JPEG", quality=quality, optimize=True, subsampling=self.subsampling)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return _open(data)


@dataclass(frozen=True)
class WebP:
    """Lossy WebP by libwebp through Pillow at its slowest method; the setting is its quality."""

    name: str = "webp"

    def settings(self) -> tuple[float, ...]:
        return (0, 4, 10, 15, 20, 28, 35, 42, 50, 58, 65, 72, 78, 82, 86, 90, 93)

    def describe(self) -> dict[str, str]:
        return {
            "settings": "Pillow WebP, quality=q, method=6",
            "pillow": PIL.__version__,
            "libwebp": str(features.version_module("webp")),
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        return _save(rgb, "WEBP", quality=_integer(setting, "WebP quality", 0, 100), method=6)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return _open(data)


def create(names: Sequence[str], *, model: str | Path | Model = "base") -> list[Codec]:
    """The codecs with these names, in this order. Raises ConfigError for a name that is unknown or comes twice."""
    known: dict[str, Codec] = {"nic": Nic(model), "jpeg": Jpeg(), "jpeg-444": Jpeg("4:4:4"), "webp": WebP()}
    for name in names:
        if name not in known:
            raise ConfigError(f"found the codec {name!r}, expected one of {', '.join(NAMES)}")
    if len(set(names)) < len(names) or not names:
        raise ConfigError(
            f"found the codecs {', '.join(names) or '(none)'}, expected each at most once, and at least one"
        )
    return [known[name] for name in names]


def configuration(codec: Codec) -> dict[str, str]:
    """`codec.describe()` and a fingerprint of what the codec makes of a fixed picture.

    Two configurations are equal only if rows measured with them may stand in one table: an encoder that changed
    without changing its version shows in the fingerprint, over the bytes of three files and their PSNR to 0.01 dB.
    """
    rgb = synthetic_picture(64, 96)
    settings = codec.settings()
    digest = hashlib.sha256()
    for setting in (settings[0], settings[len(settings) // 2], settings[-1]):
        data = codec.encode(rgb, setting)
        digest.update(data)
        digest.update(f"{psnr(rgb, codec.decode(data)):.2f}".encode())
    return codec.describe() | {"fingerprint": digest.hexdigest()[:16]}


def synthetic_picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (height, width, 3) that costs about as many bits as a photograph: noise, falling as f^-1.5 in
    spatial frequency; the same for the same seed."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    falling = np.maximum(np.hypot(fy, fx), 1.0 / max(height, width)) ** -1.5
    luma, *chroma = (
        np.fft.irfft2(falling * np.fft.rfft2(rng.standard_normal((height, width))), s=(height, width)) for _ in range(3)
    )
    planes = [luma + 0.3 * chroma[0], luma, luma + 0.3 * chroma[1]]
    scale = 48.0 / max(float(np.std(luma)), 1e-9)
    values: NDArray[np.uint8] = np.clip(np.rint(128.0 + scale * np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)
    return values


def _integer(setting: float, name: str, least: int, most: int) -> int:
    if setting != int(setting) or not least <= setting <= most:
        raise ConfigError(f"found {name} {setting:g}, expected an integer from {least} to {most}")
    return int(setting)


def _save(rgb: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(rgb)).save(out, format=kind, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"Pillow cannot write a picture of shape {rgb.shape} as {kind}: {error}") from error
    return out.getvalue()


def _open(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as im:
        return np.asarray(im.convert("RGB"))
