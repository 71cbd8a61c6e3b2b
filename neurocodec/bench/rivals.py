"""This codec and its rivals behind one small interface: a picture and a setting to the bytes of a file, and back.

nic[:MODEL][@R] is this codec, cai:NAME a network of CompressAI's zoo; each other one is a row of the table below.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import io
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from neurocodec import model as model_files
from neurocodec.bench.provenance import version
from neurocodec.errors import ConfigError, ImageError, MissingPackageError, NeurocodecError
from neurocodec.metrics import psnr
from neurocodec.model import Model
from neurocodec.packages import require

if TYPE_CHECKING:
    from numpy.typing import NDArray


_NIC = re.compile(r"nic(?::(?P<model>[^@]+))?(?:@(?P<realism>\d+(?:\.\d+)?))?")


class Codec(Protocol):
    """A codec and its settings. Instances are pickled for other processes."""

    @property
    def name(self) -> str:
        """Its name in tables and figures."""

    def settings(self) -> tuple[float, ...]:
        """The default settings, from the smallest file to the largest."""

    def describe(self) -> dict[str, str]:
        """Whatever decides the bytes besides the setting: options and versions."""

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        """uint8 (H, W, 3) -> a whole file. Raises ConfigError for a setting out of range."""

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """A whole file -> uint8 (H, W, 3)."""


@dataclass(frozen=True)
class Nic:
    """This project's codec; the setting is the quality. model: a name, a model file, or a loaded model; realism: of
    decoding, 0 to 1."""

    model: str | Path | Model = "base"
    name: str = "nic"
    realism: float = 0.0

    def settings(self) -> tuple[float, ...]:
        return (1, *range(5, 101, 5))

    def describe(self) -> dict[str, str]:
        model = Path(self.model).name if isinstance(self.model, (str, Path)) else "given"
        realism = f", decoded with realism {self.realism:g}" if self.realism else ""
        about = {"settings": f"neurocodec, model {model}, quality=q{realism}", "model_id": self.load().model_id.hex()}
        if self.realism:
            about["generator"] = model_files.find_generator(self.load()).fingerprint
        return about

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        import neurocodec

        if not 1 <= setting <= 100:
            raise ConfigError(f"found nic quality {setting:g}, expected a number from 1 to 100")
        return neurocodec.encode(rgb, quality=setting, model=self.load())

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        import neurocodec

        return np.asarray(neurocodec.decode(data, model=self.load(), realism=self.realism).convert("RGB"))

    def load(self) -> Model:
        """The model, loaded once a process. Raises ModelNotFoundError."""
        return self.model if isinstance(self.model, Model) else model_files.load(self.model)


@dataclass(frozen=True)
class CompressAI:
    """A network of CompressAI's zoo with its published weights, as .nic files; the setting is the zoo's quality."""

    architecture: str
    name: str
    device: str = "auto"

    def settings(self) -> tuple[float, ...]:
        from neurocodec.interop import compressai

        return tuple(compressai.qualities(self.architecture))

    def describe(self) -> dict[str, str]:
        """Versions, without model ids: those would need every weight file."""
        settings = f"CompressAI {self.architecture} (mse), quality=q, in .nic files by neurocodec's coder"
        return {"settings": settings, "compressai": version("compressai"), "torch": version("torch")}

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        from neurocodec.interop import compressai

        return compressai.encode(rgb, self.load(setting))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        from neurocodec.interop import compressai

        return np.asarray(compressai.decode(data, device=self.device).convert("RGB"))

    def load(self, setting: float) -> Any:
        """The network of a setting. Raises ConfigError if there is none, and what `interop.compressai.load` raises."""
        from neurocodec.interop import compressai

        if setting not in self.settings():
            known = ", ".join(f"{known:g}" for known in self.settings())
            raise ConfigError(f"found {self.name} quality {setting:g}, expected one of {known}")
        return compressai.load(self.architecture, int(setting), device=self.device)


def _saved(save: Callable[..., object], **options: Any) -> bytes:
    out = io.BytesIO()
    save(out, **options)
    return out.getvalue()


def _opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as im:
        return im.convert("RGB")


def _mozjpeg_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    picture: Any = require("pyvips", "pyvips", "mozjpeg").Image.new_from_array(rgb)
    flags = ("trellis_quant", "overshoot_deringing", "optimize_scans", "optimize_coding", "interlace")
    options = dict.fromkeys(flags, True) | {"quant_table": 3, "subsample_mode": "on", "keep": "none"}
    return bytes(picture.jpegsave_buffer(Q=int(setting), **options))


_HEIC_OPTIONS = {"preset": "slow", "tune": "psnr", "x265:psy-rd": "0", "x265:psy-rdoq": "0"}
"""For PSNR, without psycho-visual terms: BPG's coding by the same encoder, within 2 % of bpgenc's bits."""
_heif = partial(require, "pillow_heif", "pillow-heif", "HEIC")


def _heic_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    picture: Any = _heif().from_pillow(Image.fromarray(rgb))
    return _saved(picture.save, quality=int(setting), chroma="444", enc_params=dict(_HEIC_OPTIONS))  # it adds to them


def _heic_decode(data: bytes) -> Any:
    return _heif().open_heif(io.BytesIO(data)).to_pillow().convert("RGB")


_imagecodecs = partial(require, "imagecodecs", "imagecodecs", "JPEG XL")


def _jxl_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    return bytes(_imagecodecs().jpegxl_encode(rgb, distance=setting, effort=7, numthreads=1))


def _jxl_decode(data: bytes) -> Any:
    return _imagecodecs().jpegxl_decode(data, numthreads=1)


def _bpg_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    options = ("-e", "x265", "-m", "8", "-f", "444", "-c", "ycbcr", "-b", "8", "-q", str(int(setting)))
    return _bpg("bpgenc", _saved(Image.fromarray(rgb).save, format="PNG", compress_level=1), *options)


def _bpg_decode(data: bytes) -> Image.Image:
    return _opened(_bpg("bpgdec", data))


def _bpg(name: str, data: bytes, *options: str) -> bytes:
    """The file that a tool makes of another. Raises MissingPackageError, and ImageError with the tool's last line if it
    fails or takes ten minutes."""
    variable = f"NEUROCODEC_{name.upper()}"
    tool = shutil.which(os.environ.get(variable) or name)
    if tool is None:
        where = f"where {variable} says" if os.environ.get(variable) else f"on PATH: set {variable} to its path"
        raise MissingPackageError(f"BPG needs {name}, which is not {where}; heic is its stand-in")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / "out.png"  # the decoder's format; the encoder writes BPG
        source.write_bytes(data)
        command = [tool, *options, "-o", str(target), str(source)]
        try:
            subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, check=True)
        except subprocess.CalledProcessError as error:
            lines = (error.stdout + error.stderr).strip().splitlines() or ["it printed nothing"]
            raise ImageError(f"{name} ended with status {error.returncode}: {lines[-1]}") from error
        except subprocess.TimeoutExpired as error:
            raise ImageError(f"{name} cannot be run: {error}") from error
        return target.read_bytes()


@dataclass(frozen=True)
class Rival:
    """A row of the table below. about: the settings, as results hold them; write: contiguous uint8 (H, W, 3) and a
    setting in range -> a file; read: a file -> the picture; package: what has to be installed, if any; limits, unit and
    whole: the range of the setting, what it counts, and whether it is an integer."""

    name: str
    about: str
    write: Callable[[NDArray[np.uint8], float], bytes]
    read: Callable[[bytes], Any] = _opened
    package: str = "pillow"
    limits: tuple[float, float] = (0, 100)
    unit: str = "quality"
    whole: bool = True

    def settings(self) -> tuple[float, ...]:
        return _SETTINGS[self.name]

    def describe(self) -> dict[str, str]:
        return {"settings": self.about} | ({self.package: version(self.package)} if self.package else {})

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        low, high = self.limits
        if not low <= setting <= high or (self.whole and setting != int(setting)):
            kind = "an integer" if self.whole else "a number"
            raise ConfigError(f"found {self.name} {self.unit} {setting:g}, expected {kind} from {low:g} to {high:g}")
        try:
            return self.write(np.ascontiguousarray(rgb), setting)
        except NeurocodecError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ImageError(f"{self.name} cannot encode a picture of shape {rgb.shape}: {error}") from error

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return np.asarray(self.read(data))

    def check(self) -> None:
        """Raises MissingPackageError where the codec is not installed."""
        try:
            if self.package and not version(self.package):
                raise ImportError(f"it needs {self.package}")
            self.decode(self.encode(np.zeros((16, 16, 3), np.uint8), self.settings()[0]))
        except MissingPackageError:
            raise
        except (ImportError, ImageError) as error:
            raise MissingPackageError(f"{self.name}: {error}: pip install 'neurocodec[bench]'") from error


def _pillow(name: str, kind: str, about: str, options: dict[str, Any], limits: tuple[int, int] = (0, 100)) -> Rival:
    """A row for a format of Pillow's with a quality."""
    return Rival(name, f"Pillow {about}", partial(_pillow_encode, kind, options), limits=limits)


def _pillow_encode(kind: str, options: dict[str, Any], rgb: NDArray[np.uint8], setting: float) -> bytes:
    return _saved(Image.fromarray(rgb).save, format=kind, quality=int(setting), **options)


def _jpeg2000_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    options = {"irreversible": True, "mct": 1, "quality_mode": "rates", "quality_layers": [24 / setting]}
    return _saved(Image.fromarray(rgb).save, format="JPEG2000", **options)


_JPEG = "JPEG, quality=q, optimize=True, subsampling="
_MOZJPEG = (
    "mozjpeg through pyvips, Q=q, 4:2:0, trellis_quant, overshoot_deringing, optimize_scans, optimize_coding, "
    "interlace, quant_table=3"
)
_AVIF = "AVIF, quality=q, Pillow's defaults (4:2:0, speed 6, tuned for the eye), max_threads=1"
_AVIF_PSNR = "AVIF, quality=q, 4:4:4, speed=6, tune=psnr, max_threads=1"
_AVIF_PSNR_OPTIONS = {"max_threads": 1, "subsampling": "4:4:4", "speed": 6, "advanced": {"tune": "psnr"}}
_HEIC = "HEVC intra (x265 through pillow-heif), a stand-in for BPG: quality=q, chroma 444, " + ", ".join(
    f"{key}={value}" for key, value in _HEIC_OPTIONS.items()
)
_BPG = "bpgenc -e x265 -m 8 -f 444 -c ycbcr -b 8 -q q"
_JXL = "JPEG XL (libjxl through imagecodecs), VarDCT, distance=q, effort=7, numthreads=1"
_JPEG2000 = "Pillow JPEG 2000, irreversible, mct=1, one layer, rate 24/q (q: bits per pixel)"
_ROWS = (
    _pillow("jpeg", "JPEG", _JPEG + "4:2:0", {"optimize": True, "subsampling": "4:2:0"}, (1, 100)),
    _pillow("jpeg-444", "JPEG", _JPEG + "4:4:4", {"optimize": True, "subsampling": "4:4:4"}, (1, 100)),
    Rival("mozjpeg", _MOZJPEG, _mozjpeg_encode, package="pyvips-binary", limits=(1, 100)),
    _pillow("webp", "WEBP", "WebP, quality=q, method=6", {"method": 6}),
    _pillow("avif", "AVIF", _AVIF, {"max_threads": 1}),  # one thread: the bytes are the same on every machine
    _pillow("avif-psnr", "AVIF", _AVIF_PSNR, _AVIF_PSNR_OPTIONS),
    Rival("heic", _HEIC, _heic_encode, _heic_decode, "pillow-heif"),
    Rival("bpg", _BPG, _bpg_encode, _bpg_decode, "", (0, 51), "quantiser"),
    Rival("jxl", _JXL, _jxl_encode, _jxl_decode, "imagecodecs", (0.1, 25), "distance", whole=False),
    Rival("jpeg2000", _JPEG2000, _jpeg2000_encode, limits=(0.001, 24), unit="rate", whole=False),
)
RIVALS = {row.name: row for row in _ROWS}
NAMES = ("nic", *RIVALS)
"""What `installed` knows, besides nic:MODEL, nic@REALISM and cai:NAME."""
_SETTINGS: dict[str, tuple[float, ...]] = {
    "jpeg": (5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 65, 70, 75, 80, 85, 90, 95),
    "jpeg-444": (5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 65, 70, 75, 80, 85, 90, 95),
    "mozjpeg": (5, 10, 20, 35, 50, 65, 75, 85, 90, 95),
    "webp": (0, 4, 10, 15, 20, 28, 35, 42, 50, 58, 65, 72, 78, 82, 86, 90, 93),
    "avif": (10, 20, 30, 40, 50, 60, 70, 80),
    "avif-psnr": (12, 20, 28, 36, 44, 52, 60, 70, 80),
    "heic": (6, 14, 20, 26, 32, 38, 44, 50, 58, 66, 74),
    "bpg": (47, 44, 42, 39, 37, 34, 32, 29, 27, 24, 22),
    "jxl": (20, 14, 9, 6, 4.2, 3, 2.1, 1.5, 1, 0.7, 0.45),
    "jpeg2000": (0.1, 0.17, 0.26, 0.38, 0.55, 0.75, 1, 1.35, 1.75, 2.2),
}


def installed(names: Sequence[str], *, model: str | Path | Model = "base") -> tuple[list[Codec], dict[str, str]]:
    """The codecs with these names that are installed, and why each other one is not, by name. nic uses `model`,
    nic:MODEL another one, a name or a file.

    Raises ConfigError for a name that is unknown or given twice or if none is installed, ModelNotFoundError for a model
    that does not exist.
    """
    codecs: list[Codec] = []
    missing: dict[str, str] = {}
    for name, label in _labels(names).items():
        try:
            codecs.append(_create(name, label, model))
        except MissingPackageError as error:
            missing[name] = str(error)
    if not codecs:
        raise ConfigError("none of these codecs is installed: " + "; ".join(missing.values()))
    return codecs, missing


def has_common_quality(codec: Codec) -> bool:
    """Whether the setting is a quality up to 100, larger for larger files, so that one list fits them all."""
    return isinstance(codec, Nic) or (isinstance(codec, Rival) and codec.unit == "quality")


def is_ours(name: str) -> bool:
    """Whether a codec of this name is this project's."""
    return _NIC.fullmatch(name) is not None


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Each codec's name in tables. A model file's is that of the file, with its folder if two files share a name."""
    parsed = {name: _NIC.fullmatch(name) for name in names}
    stems = Counter(Path(model).stem for model in {match["model"] for match in parsed.values() if match} if model)
    labels = {name: name for name in names}
    for name, match in parsed.items():
        if match and match["model"]:
            path = Path(match["model"])
            label = path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
            label = f"nic:{label}" + (f"@{match['realism']}" if match["realism"] else "")
            labels[name] = label.encode(errors="backslashreplace").decode()
    if len(set(labels.values())) < len(names) or not names:
        raise ConfigError(
            f"found the codecs {', '.join(names) or '(none)'}, expected at least one, each name only once"
        )
    return labels


def _create(name: str, label: str, model: str | Path | Model) -> Codec:
    if match := _NIC.fullmatch(name):
        nic = Nic(match["model"] or model, label, float(match["realism"] or 0))
        if not 0 <= nic.realism <= 1:
            raise ConfigError(f"found the realism {match['realism']} in {name}, expected a number from 0 to 1")
        nic.load()  # a model that does not exist is an error now, not after hours
        return nic
    if name.startswith("cai:"):
        require("torch", "torch", name, "torch")
        zoo = CompressAI(name.removeprefix("cai:"), name)
        zoo.load(zoo.settings()[0])
        return zoo
    if name not in RIVALS:
        known = ", ".join(NAMES)
        raise ConfigError(f"found the codec {name!r}, expected one of {known}, nic:MODEL, nic@REALISM or cai:NAME")
    RIVALS[name].check()
    return RIVALS[name]


def configuration(codec: Codec) -> dict[str, str]:
    """`codec.describe()` and a fingerprint of what the codec makes of a fixed picture.

    Rows may stand in one table only if their configurations are equal. The fingerprint, over the bytes of three files
    and their PSNR to 0.01 dB, shows an encoder that changed without changing its version.
    """
    rgb = synthetic_picture(64, 96)
    settings = codec.settings()
    digest = hashlib.sha256()
    for setting in (settings[0], settings[len(settings) // 2], settings[-1]):
        data = codec.encode(rgb, setting)
        digest.update(data)
        digest.update(f"{psnr(rgb, codec.decode(data)):.2f}".encode())
    return codec.describe() | {"fingerprint": digest.hexdigest()[:16]}


def bits_per_pixel(data: bytes, rgb: NDArray[np.uint8]) -> float:
    """Bits of a whole file over the pixels of its picture."""
    return 8.0 * len(data) / float(rgb.shape[0] * rgb.shape[1])


def nearest(candidates: Sequence[float], size: Callable[[float], float], target: float) -> float:
    """The candidate whose size is nearest to `target` as a ratio, by bisection. size: rises along the candidates."""
    size = functools.cache(size)
    at = bisect.bisect_left(candidates, target, key=size)
    return min(candidates[max(0, at - 1) : at + 1], key=lambda candidate: abs(math.log(size(candidate) / target)))


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
