"""Codecs behind one small interface: a picture and a setting to the bytes of a file, and back.

nic[:MODEL]   this codec, with an installed model or a model file      quality 1 to 100
jpeg          libjpeg-turbo through Pillow, 4:2:0; jpeg-444 is 4:4:4   quality 1 to 100
mozjpeg       mozjpeg through pyvips, 4:2:0, progressive, trellis      quality 1 to 100
webp          libwebp through Pillow, method 6                         quality 0 to 100
avif, avif-psnr  libaom through Pillow: its defaults; tuned for PSNR   quality 0 to 100
heic          HEVC intra by x265 through pillow-heif: BPG's stand-in   quality 0 to 100
bpg           bpgenc and bpgdec, HEVC intra by x265, 4:4:4             QP 51 to 0
jxl           libjxl through imagecodecs, effort 7                     Butteraugli distance 25 to 0.1
jpeg2000      OpenJPEG through Pillow, irreversible                    bits per pixel
cai:NAME      a CompressAI model through `neurocodec.interop.compressai`
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import PIL
from PIL import Image, features

from neurocodec.errors import ConfigError, ImageError, MissingPackageError
from neurocodec.metrics import psnr
from neurocodec.packages import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurocodec.model import Model

NAMES = (
    "nic",
    "jpeg",
    "jpeg-444",
    "mozjpeg",
    "webp",
    "avif",
    "avif-psnr",
    "heic",
    "bpg",
    "jxl",
    "jpeg2000",
)
"""What `create` knows, besides nic:MODEL, nic@REALISM and cai:NAME."""

_NIC = re.compile(r"nic(?::(?P<model>[^@]+))?(?:@(?P<realism>\d+(?:\.\d+)?))?")


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
    """This project's codec; the setting is the quality, 1 to 100. model: a name, a model file, or a loaded model;
    realism: 0 to 1, of decoding."""

    model: str | Path | Model = "base"
    name: str = "nic"
    realism: float = field(default=0.0, kw_only=True)

    def settings(self) -> tuple[float, ...]:
        return (1, *range(5, 101, 5))

    def describe(self) -> dict[str, str]:
        model = Path(self.model).name if isinstance(self.model, (str, Path)) else "given"
        realism = f", decoded with realism {self.realism:g}" if self.realism else ""
        found = {"settings": f"neurocodec, model {model}, quality=q{realism}", "model_id": self.loaded().model_id.hex()}
        return found | ({"generator": self._generator()} if self.realism else {})

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        import neurocodec

        if not 1 <= setting <= 100:
            raise ConfigError(f"found nic quality {setting:g}, expected a number from 1 to 100")
        return neurocodec.encode(rgb, quality=setting, model=self.loaded())

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        import neurocodec

        return np.asarray(neurocodec.decode(data, model=self.loaded(), realism=self.realism).convert("RGB"))

    def _generator(self) -> str:
        """The first 16 digits of a SHA-256 over the generative decoder's weights."""
        from neurocodec.models import generators

        digest = hashlib.sha256()
        for name, value in generators.of(self.loaded()).state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def loaded(self) -> Model:
        """The model itself, loaded once a process."""
        from neurocodec import model as model_files

        return self.model if isinstance(self.model, Model) else model_files.load(self.model)


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


@dataclass(frozen=True)
class MozJpeg:
    """JPEG by mozjpeg as the pyvips-binary package bundles it: trellis quantisation, progressive, 4:2:0."""

    name: str = "mozjpeg"

    def settings(self) -> tuple[float, ...]:
        return (5, 10, 20, 35, 50, 65, 75, 85, 90, 95)

    def describe(self) -> dict[str, str]:
        return {
            "settings": "mozjpeg through pyvips, Q=q, 4:2:0, trellis_quant, overshoot_deringing, optimize_scans, "
            "optimize_coding, interlace, quant_table=3",
            "libvips": ".".join(str(self._vips().version(part)) for part in range(3)),
            "pyvips-binary": _version("pyvips-binary"),
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        return self._save(rgb, _integer(setting, "mozjpeg quality", 1, 100))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return _open(data)

    def check(self) -> None:
        """Raises MissingPackageError without pyvips, and with one whose libjpeg is not mozjpeg: it has no trellis."""
        rgb = synthetic_picture(64, 64)
        if self._save(rgb, 50) == self._save(rgb, 50, trellis=False):
            raise MissingPackageError("the libvips that pyvips found has no mozjpeg: pip install pyvips-binary")

    def _save(self, rgb: NDArray[np.uint8], quality: int, *, trellis: bool = True) -> bytes:
        picture = self._vips().Image.new_from_array(np.ascontiguousarray(rgb))
        data: bytes = picture.jpegsave_buffer(
            Q=quality,
            trellis_quant=trellis,
            overshoot_deringing=True,
            optimize_scans=True,
            optimize_coding=True,
            interlace=True,
            quant_table=3,
            subsample_mode="on",
            keep="none",
        )
        return data

    def _vips(self) -> Any:
        return require("pyvips", "pyvips", "mozjpeg")


@dataclass(frozen=True)
class Avif:
    """AVIF by libaom through Pillow. "default" is what Pillow does unasked, tuned for the eye; "psnr" is 4:4:4 at
    speed 6, tuned for PSNR. One thread, so that the bytes do not depend on the machine."""

    tune: Literal["default", "psnr"] = "default"

    @property
    def name(self) -> str:
        return "avif" if self.tune == "default" else "avif-psnr"

    def settings(self) -> tuple[float, ...]:
        return (10, 20, 30, 40, 50, 60, 70, 80) if self.tune == "default" else (12, 20, 28, 36, 44, 52, 60, 70, 80)

    def describe(self) -> dict[str, str]:
        defaults = "Pillow's defaults (4:2:0, speed 6, tuned for the eye)"
        options = defaults if self.tune == "default" else "4:4:4, speed=6, tune=psnr"
        return {
            "settings": f"Pillow AVIF, quality=q, {options}, max_threads=1",
            "pillow": PIL.__version__,
            "libavif": str(features.version_module("avif")),
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        options: dict[str, Any] = {}
        if self.tune == "psnr":
            options = {"subsampling": "4:4:4", "speed": 6, "advanced": {"tune": "psnr"}}
        return _save(rgb, "AVIF", quality=_integer(setting, "AVIF quality", 0, 100), max_threads=1, **options)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return _open(data)

    def check(self) -> None:
        """Raises MissingPackageError if this Pillow was built without AVIF."""
        if not features.check("avif"):
            raise MissingPackageError("this Pillow has no AVIF: pip install 'pillow>=11.3'")


@dataclass(frozen=True)
class Heic:
    """HEVC intra by x265 through pillow-heif, 4:4:4, for PSNR (no psycho-visual terms): the coding of BPG, by the same
    encoder, within 2 % of bpgenc's bits. It stands in for BPG where there is no bpgenc, under its own name."""

    name: str = "heic"
    options: ClassVar[dict[str, str]] = {"preset": "slow", "tune": "psnr", "x265:psy-rd": "0", "x265:psy-rdoq": "0"}

    def settings(self) -> tuple[float, ...]:
        return (6, 14, 20, 26, 32, 38, 44, 50, 58, 66, 74)

    def describe(self) -> dict[str, str]:
        found = self._heif().libheif_info()
        return {
            "settings": "HEVC intra (x265 through pillow-heif), a stand-in for BPG: quality=q, chroma 444, "
            + ", ".join(f"{key}={value}" for key, value in self.options.items()),
            "pillow-heif": _version("pillow-heif"),
            "libheif": str(found["libheif"]),
            "x265": str(found["HEIF"]),
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        quality = _integer(setting, "HEIC quality", 0, 100)
        out = io.BytesIO()
        picture = self._heif().from_pillow(Image.fromarray(np.ascontiguousarray(rgb)))
        picture.save(out, quality=quality, chroma="444", enc_params=dict(self.options))  # it adds to them
        return out.getvalue()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return np.asarray(self._heif().open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))

    def check(self) -> None:
        """Raises MissingPackageError without pillow-heif, or if its libheif has no x265."""
        if "x265" not in self._heif().libheif_info()["HEIF"]:
            raise MissingPackageError("the libheif of this pillow-heif has no x265: install pillow-heif's own wheel")

    def _heif(self) -> Any:
        return require("pillow_heif", "pillow-heif", "HEIC")


@dataclass(frozen=True)
class Bpg:
    """BPG by Fabrice Bellard's bpgenc and bpgdec, on PATH or where NEUROCODEC_BPGENC and NEUROCODEC_BPGDEC say: HEVC
    intra by x265 at its default effort, 4:4:4; the setting is the quantiser, larger for smaller files."""

    name: str = "bpg"

    def settings(self) -> tuple[float, ...]:
        return (47, 44, 42, 39, 37, 34, 32, 29, 27, 24, 22)

    def describe(self) -> dict[str, str]:
        printed = _call([self._tool("bpgenc"), "-h"], may_fail=True).splitlines()
        return {"settings": "bpgenc -e x265 -m 8 -f 444 -c ycbcr -b 8 -q q", "version": printed[0] if printed else "?"}

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        quantiser = _integer(setting, "BPG quantiser", 0, 51)
        options = ["-e", "x265", "-m", "8", "-f", "444", "-c", "ycbcr", "-b", "8", "-q", str(quantiser)]
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.png", Path(folder) / "out.bpg"
            Image.fromarray(np.ascontiguousarray(rgb)).save(source, compress_level=1)
            _call([self._tool("bpgenc"), *options, "-o", str(target), str(source)])
            return target.read_bytes()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.bpg", Path(folder) / "out.png"
            source.write_bytes(data)
            _call([self._tool("bpgdec"), "-o", str(target), str(source)])
            return _open(target.read_bytes())

    def check(self) -> None:
        """Raises MissingPackageError if a tool is not there."""
        for tool in ("bpgenc", "bpgdec"):
            self._tool(tool)

    def _tool(self, name: str) -> str:
        variable = f"NEUROCODEC_{name.upper()}"
        found = shutil.which(os.environ.get(variable) or name)
        if found is None:
            where = f"where {variable} says" if os.environ.get(variable) else f"on PATH: name it with {variable}"
            raise MissingPackageError(f"BPG needs {name}, which is not {where}; heic is its stand-in")
        return found


@dataclass(frozen=True)
class Jxl:
    """Lossy JPEG XL by libjxl through imagecodecs, effort 7; the setting is the Butteraugli distance, larger for
    smaller files. JPEG XL is tuned for the eye, not for PSNR."""

    name: str = "jxl"

    def settings(self) -> tuple[float, ...]:
        return (20, 14, 9, 6, 4.2, 3, 2.1, 1.5, 1, 0.7, 0.45)

    def describe(self) -> dict[str, str]:
        package = self._package()
        return {
            "settings": "JPEG XL (libjxl through imagecodecs), VarDCT, distance=q, effort=7, numthreads=1",
            "imagecodecs": _version("imagecodecs"),
            "libjxl": str(package.jpegxl_version()),
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        if not 0.1 <= setting <= 25:
            raise ConfigError(f"found JPEG XL distance {setting:g}, expected a number from 0.1 to 25")
        data = self._package().jpegxl_encode(np.ascontiguousarray(rgb), distance=setting, effort=7, numthreads=1)
        return bytes(data)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return np.asarray(self._package().jpegxl_decode(data, numthreads=1))

    def check(self) -> None:
        """Raises MissingPackageError without imagecodecs, or if it was built without libjxl."""
        if not self._package().JPEGXL.available:
            raise MissingPackageError("this imagecodecs was built without libjxl: install its own wheel")

    def _package(self) -> Any:
        return require("imagecodecs", "imagecodecs", "JPEG XL")


@dataclass(frozen=True)
class Jpeg2000:
    """JPEG 2000 by OpenJPEG through Pillow: irreversible 9/7 wavelet, one layer; the setting is the rate asked for,
    in bits per pixel."""

    name: str = "jpeg2000"

    def settings(self) -> tuple[float, ...]:
        return (0.1, 0.17, 0.26, 0.38, 0.55, 0.75, 1, 1.35, 1.75, 2.2)

    def describe(self) -> dict[str, str]:
        return {
            "settings": "Pillow JPEG 2000, irreversible, mct=1, one layer, rate 24/q (q: bits per pixel)",
            "pillow": PIL.__version__,
            "openjpeg": str(features.version_codec("jpg_2000")),
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        if not 0 < setting <= 24:
            raise ConfigError(f"found JPEG 2000 rate {setting:g}, expected bits per pixel, above 0 and up to 24")
        options = {"irreversible": True, "mct": 1, "quality_mode": "rates", "quality_layers": [24 / setting]}
        return _save(rgb, "JPEG2000", **options)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return _open(data)

    def check(self) -> None:
        """Raises MissingPackageError if this Pillow was built without OpenJPEG."""
        if not features.check("jpg_2000"):
            raise MissingPackageError("this Pillow was built without JPEG 2000: install Pillow's own wheel")


def create(names: Sequence[str], *, model: str | Path | Model = "base") -> list[Codec]:
    """The codecs with these names, in this order; nic is `model`, nic:MODEL is another one, a name or a file.

    Raises ConfigError for a name that is unknown or comes twice, ModelNotFoundError for a model that is not there,
    MissingPackageError for a codec that is not installed.
    """
    return [_create(name, label, model) for name, label in _labels(names).items()]


def installed(names: Sequence[str], *, model: str | Path | Model = "base") -> tuple[list[Codec], dict[str, str]]:
    """Those of `create`'s codecs that are installed, and why each other one is not, by name. Raises as `create` does,
    and ConfigError if none is installed."""
    found: list[Codec] = []
    missing: dict[str, str] = {}
    for name, label in _labels(names).items():
        try:
            found.append(_create(name, label, model))
        except MissingPackageError as error:
            missing[name] = str(error)
    if not found:
        raise ConfigError("none of these codecs is installed: " + "; ".join(missing.values()))
    return found, missing


def has_common_quality(codec: Codec) -> bool:
    """Whether the setting is a quality of about 1 to 100, larger for larger files, so that one list fits them all."""
    return isinstance(codec, (Nic, Jpeg, MozJpeg, WebP, Avif, Heic))


def is_ours(name: str) -> bool:
    """Whether a codec of this name is this project's."""
    return _NIC.fullmatch(name) is not None


def _labels(names: Sequence[str]) -> dict[str, str]:
    """What tables call each name: of a model file its name, with its folder's if two have the same."""
    for name in names:
        if name not in NAMES and not is_ours(name) and not name.startswith("cai:"):
            raise ConfigError(
                f"found the codec {name!r}, expected one of {', '.join(NAMES)}, nic:MODEL, nic@REALISM or cai:NAME"
            )
    if len(set(names)) < len(names) or not names:
        raise ConfigError(
            f"found the codecs {', '.join(names) or '(none)'}, expected each at most once, and at least one"
        )
    models = {found["model"] for name in names if (found := _NIC.fullmatch(name)) and found["model"]}
    stems = Counter(Path(model).stem for model in models)
    labels = {}
    for name in names:
        found = _NIC.fullmatch(name)
        labels[name] = name
        if found and found["model"]:
            path = Path(found["model"])
            label = path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
            labels[name] = f"nic:{label}" + (f"@{found['realism']}" if found["realism"] else "")
    if len(set(labels.values())) < len(labels):
        raise ConfigError(f"two of the models in {', '.join(names)} have one name: rename a file or its folder")
    return labels


def _create(name: str, label: str, model: str | Path | Model) -> Codec:
    if ours := _NIC.fullmatch(name):
        nic = Nic(ours["model"] or model, label, realism=float(ours["realism"] or 0))
        if not 0 <= nic.realism <= 1:
            raise ConfigError(f"found the realism {ours['realism']} in {name}, expected a number from 0 to 1")
        nic.loaded()  # so that a model that is not there is found now, not after hours
        return nic
    if name.startswith("cai:"):
        rival = importlib.import_module("neurocodec.bench.compressai")
        codec: Codec = rival.benchmark_codec(name)
        return codec
    known: dict[str, Codec] = {
        "jpeg": Jpeg(),
        "jpeg-444": Jpeg("4:4:4"),
        "mozjpeg": MozJpeg(),
        "webp": WebP(),
        "avif": Avif(),
        "avif-psnr": Avif("psnr"),
        "heic": Heic(),
        "bpg": Bpg(),
        "jxl": Jxl(),
        "jpeg2000": Jpeg2000(),
    }
    codec = known[name]
    if isinstance(codec, (MozJpeg, Avif, Heic, Bpg, Jxl, Jpeg2000)):
        codec.check()
    return codec


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


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _call(command: Sequence[str], *, may_fail: bool = False) -> str:
    """What a command prints on both streams. Raises ImageError with its last line if it fails or takes ten minutes."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{name} cannot be run: {error}") from error
    if done.returncode and not may_fail:
        lines = done.stdout.strip().splitlines() or ["it printed nothing"]
        raise ImageError(f"{name} ended with status {done.returncode}: {lines[-1]}")
    return done.stdout
