"""This codec and its rivals behind one small interface: a picture and a setting to the bytes of a file, and back.

nic[:MODEL][@R]   this codec, with an installed model or a model file     quality 1 to 100
jpeg              libjpeg-turbo through Pillow, 4:2:0; jpeg-444 is 4:4:4   quality 1 to 100
mozjpeg           mozjpeg through pyvips, 4:2:0, progressive, trellis      quality 1 to 100
webp              libwebp through Pillow, method 6                         quality 0 to 100
avif, avif-psnr   libaom through Pillow: its defaults; tuned for PSNR      quality 0 to 100
heic              HEVC intra by x265 through pillow-heif, for BPG's sake   quality 0 to 100
bpg               bpgenc and bpgdec, HEVC intra by x265, 4:4:4             QP 51 to 0
jxl               libjxl through imagecodecs, effort 7                     Butteraugli distance 25 to 0.1
jpeg2000          OpenJPEG through Pillow, irreversible                    bits per pixel
cai:NAME          a CompressAI network through `neurocodec.interop.compressai`
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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL
from PIL import Image, features

from neurocodec import model as model_files
from neurocodec.bench.provenance import version
from neurocodec.errors import ConfigError, ImageError, MissingPackageError
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
    decoding, 0 to 1; device: of a model that is not loaded yet."""

    model: str | Path | Model = "base"
    name: str = "nic"
    realism: float = field(default=0.0, kw_only=True)
    device: str = field(default="auto", kw_only=True)

    def settings(self) -> tuple[float, ...]:
        return (1, *range(5, 101, 5))

    def describe(self) -> dict[str, str]:
        model = Path(self.model).name if isinstance(self.model, (str, Path)) else "given"
        realism = f", decoded with realism {self.realism:g}" if self.realism else ""
        about = {"settings": f"neurocodec, model {model}, quality=q{realism}"}
        about["model_id"] = self.load().model_id.hex()
        return about | ({"generator": self._generator_id()} if self.realism else {})

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        import neurocodec

        if not 1 <= setting <= 100:
            raise ConfigError(f"found nic quality {setting:g}, expected a number from 1 to 100")
        return neurocodec.encode(rgb, quality=setting, model=self.load(), device=self.device)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        import neurocodec

        return np.asarray(
            neurocodec.decode(data, model=self.load(), realism=self.realism, device=self.device).convert("RGB")
        )

    def load(self, setting: float = 0) -> Model:
        """The model, the same for every setting, loaded once a process. Raises ModelNotFoundError."""
        return self.model if isinstance(self.model, Model) else model_files.load(self.model)

    def _generator_id(self) -> str:
        """The first 16 digits of a SHA-256 over the generative decoder's weights."""
        digest = hashlib.sha256()
        for name, value in sorted(model_files.find_generator(self.load()).arrays.items()):
            digest.update(name.encode() + value.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class CompressAI:
    """A network of CompressAI's zoo, as .nic files; the setting is the zoo's quality. weights: other files than the
    published ones, as (setting, file for `interop.compressai.load_file`)."""

    architecture: str
    name: str
    weights: tuple[tuple[float, str], ...] = ()
    device: str = "auto"

    def settings(self) -> tuple[float, ...]:
        from neurocodec.interop import compressai

        return tuple(setting for setting, _ in self.weights) or tuple(compressai.qualities(self.architecture))

    def describe(self) -> dict[str, str]:
        """Versions, without model ids: those would need every weight file."""
        import torch

        from neurocodec.interop import compressai

        weights = ", ".join(os.path.basename(file) for _, file in self.weights) or "mse"
        return {
            "settings": f"CompressAI {self.architecture} ({weights}), quality=q, in .nic files by neurocodec's coder",
            "compressai": str(compressai.package().__version__),
            "torch": torch.__version__,
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        from neurocodec.interop import compressai

        return compressai.encode(rgb, self.load(setting))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        from neurocodec import container
        from neurocodec.interop import compressai

        model_id = container.read_header(data).model_id
        model = next((m for setting, _ in self.weights if (m := self.load(setting)).model_id == model_id), None)
        return np.asarray(compressai.decode(data, model, device=self.device).convert("RGB"))

    def load(self, setting: float) -> Any:
        """The network of a setting. Raises ConfigError if there is none, and what `interop.compressai.load` raises."""
        from neurocodec.interop import compressai

        if setting not in self.settings():
            known = ", ".join(f"{known:g}" for known in self.settings())
            raise ConfigError(f"found {self.name} quality {setting:g}, expected one of {known}")
        if self.weights:
            return compressai.load_file(self.architecture, dict(self.weights)[setting], device=self.device)
        return compressai.load(self.architecture, int(setting), device=self.device)


def _pillow_encode(kind: str, rgb: NDArray[np.uint8], setting: float, *, rate: bool = False, **options: Any) -> bytes:
    """rate: whether the setting is in bits per pixel, as for JPEG 2000."""
    options |= {"quality_layers": [24 / setting]} if rate else {"quality": int(setting)}
    out = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(rgb)).save(out, format=kind, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"Pillow cannot write a picture of shape {rgb.shape} as {kind}: {error}") from error
    return out.getvalue()


def _pillow_decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as im:
        return np.asarray(im.convert("RGB"))


def _pillow_versions(feature: str, **library: str) -> dict[str, str]:
    if not features.check(feature):
        raise MissingPackageError(f"this Pillow was built without {feature}: pip install 'pillow>=11.3'")
    return {"pillow": PIL.__version__} | {name: str(features.version(key)) for name, key in library.items()}


_vips = partial(require, "pyvips", "pyvips", "mozjpeg")
_heif = partial(require, "pillow_heif", "pillow-heif", "HEIC")
_imagecodecs = partial(require, "imagecodecs", "imagecodecs", "JPEG XL")


def _mozjpeg_encode(rgb: NDArray[np.uint8], setting: float, *, trellis: bool = True) -> bytes:
    picture = _vips().Image.new_from_array(np.ascontiguousarray(rgb))
    options: dict[str, Any] = {"quant_table": 3, "subsample_mode": "on", "keep": "none", "trellis_quant": trellis}
    options |= dict.fromkeys(("overshoot_deringing", "optimize_scans", "optimize_coding", "interlace"), True)
    return bytes(picture.jpegsave_buffer(Q=int(setting), **options))


def _mozjpeg_versions() -> dict[str, str]:
    rgb = synthetic_picture(64, 64)
    if _mozjpeg_encode(rgb, 50) == _mozjpeg_encode(rgb, 50, trellis=False):  # other libjpegs have no trellis
        raise MissingPackageError("the libvips that pyvips uses has no mozjpeg: pip install pyvips-binary")
    libvips = ".".join(str(_vips().version(part)) for part in range(3))
    return {"libvips": libvips, "pyvips-binary": version("pyvips-binary") or "unknown"}


_HEIC_OPTIONS = {"preset": "slow", "tune": "psnr", "x265:psy-rd": "0", "x265:psy-rdoq": "0"}


def _heic_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    out, picture = io.BytesIO(), _heif().from_pillow(Image.fromarray(np.ascontiguousarray(rgb)))
    picture.save(out, quality=int(setting), chroma="444", enc_params=dict(_HEIC_OPTIONS))  # it adds to them
    return out.getvalue()


def _heic_decode(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(_heif().open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))


def _heic_versions() -> dict[str, str]:
    info = _heif().libheif_info()
    if "x265" not in info["HEIF"]:
        raise MissingPackageError("the libheif of this pillow-heif has no x265: install pillow-heif's own wheel")
    return {"pillow-heif": version("pillow-heif"), "libheif": str(info["libheif"]), "x265": str(info["HEIF"])}


def _jxl_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    data = _imagecodecs().jpegxl_encode(np.ascontiguousarray(rgb), distance=setting, effort=7, numthreads=1)
    return bytes(data)


def _jxl_decode(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(_imagecodecs().jpegxl_decode(data, numthreads=1))


def _jxl_versions() -> dict[str, str]:
    if not _imagecodecs().JPEGXL.available:
        raise MissingPackageError("this imagecodecs was built without libjxl: install its own wheel")
    return {"imagecodecs": version("imagecodecs"), "libjxl": str(_imagecodecs().jpegxl_version())}


_BPG_OPTIONS = ("-e", "x265", "-m", "8", "-f", "444", "-c", "ycbcr", "-b", "8", "-q")


def _bpg_encode(rgb: NDArray[np.uint8], setting: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.png", Path(folder) / "out.bpg"
        Image.fromarray(np.ascontiguousarray(rgb)).save(source, compress_level=1)
        _call([_bpg_tool("bpgenc"), *_BPG_OPTIONS, str(int(setting)), "-o", str(target), str(source)])
        return target.read_bytes()


def _bpg_decode(data: bytes) -> NDArray[np.uint8]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.bpg", Path(folder) / "out.png"
        source.write_bytes(data)
        _call([_bpg_tool("bpgdec"), "-o", str(target), str(source)])
        return _pillow_decode(target.read_bytes())


def _bpg_versions() -> dict[str, str]:
    encoder, _ = _bpg_tool("bpgenc"), _bpg_tool("bpgdec")
    printed = _call([encoder, "-h"], may_fail=True).splitlines()
    return {"version": printed[0] if printed else "?"}


def _bpg_tool(name: str) -> str:
    variable = f"NEUROCODEC_{name.upper()}"
    path = shutil.which(os.environ.get(variable) or name)
    if path is None:
        where = f"where {variable} says" if os.environ.get(variable) else f"on PATH: set {variable} to its path"
        raise MissingPackageError(f"BPG needs {name}, which is not {where}; heic is its stand-in")
    return path


def _call(command: Sequence[str], *, may_fail: bool = False) -> str:
    """What a command prints. Raises ImageError with its last line if it fails or takes ten minutes."""
    name, pipe, stdout = Path(command[0]).name, subprocess.PIPE, subprocess.STDOUT
    try:
        done = subprocess.run(command, stdout=pipe, stderr=stdout, text=True, errors="replace", timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{name} cannot be run: {error}") from error
    if done.returncode and not may_fail:
        lines = done.stdout.strip().splitlines() or ["it printed nothing"]
        raise ImageError(f"{name} ended with status {done.returncode}: {lines[-1]}")
    return done.stdout


@dataclass(frozen=True)
class Rival:
    """A row of the table below. about: the settings, as results hold them; versions: raises MissingPackageError where
    the codec is not installed; unit: what the setting counts; limits: its range; whole: whether it is an integer."""

    name: str
    about: str
    defaults: tuple[float, ...]
    run_encode: Callable[[NDArray[np.uint8], float], bytes]
    versions: Callable[[], dict[str, str]]
    run_decode: Callable[[bytes], NDArray[np.uint8]] = _pillow_decode
    limits: tuple[float, float] = (0, 100)
    unit: str = "quality"
    whole: bool = True

    def settings(self) -> tuple[float, ...]:
        return self.defaults

    def describe(self) -> dict[str, str]:
        return {"settings": self.about} | self.versions()

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        low, high = self.limits
        if not low <= setting <= high or (self.whole and setting != int(setting)):
            kind = "an integer" if self.whole else "a number"
            raise ConfigError(f"found {self.name} {self.unit} {setting:g}, expected {kind} from {low:g} to {high:g}")
        return self.run_encode(rgb, setting)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return self.run_decode(data)


_JPEG_QUALITIES = (5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 65, 70, 75, 80, 85, 90, 95)
_ROWS = (
    Rival("jpeg", "Pillow JPEG, quality=q, optimize=True, subsampling=4:2:0", _JPEG_QUALITIES,
          partial(_pillow_encode, "JPEG", optimize=True, subsampling="4:2:0"),
          partial(_pillow_versions, "jpg", libjpeg_turbo="libjpeg_turbo"), limits=(1, 100)),
    Rival("jpeg-444", "Pillow JPEG, quality=q, optimize=True, subsampling=4:4:4", _JPEG_QUALITIES,
          partial(_pillow_encode, "JPEG", optimize=True, subsampling="4:4:4"),
          partial(_pillow_versions, "jpg", libjpeg_turbo="libjpeg_turbo"), limits=(1, 100)),
    Rival("mozjpeg", "mozjpeg through pyvips, Q=q, 4:2:0, trellis_quant, overshoot_deringing, optimize_scans, "
          "optimize_coding, interlace, quant_table=3", (5, 10, 20, 35, 50, 65, 75, 85, 90, 95),
          _mozjpeg_encode, _mozjpeg_versions, limits=(1, 100)),
    Rival("webp", "Pillow WebP, quality=q, method=6",
          (0, 4, 10, 15, 20, 28, 35, 42, 50, 58, 65, 72, 78, 82, 86, 90, 93),
          partial(_pillow_encode, "WEBP", method=6), partial(_pillow_versions, "webp", libwebp="webp")),
    Rival("avif", "Pillow AVIF, quality=q, Pillow's defaults (4:2:0, speed 6, tuned for the eye), max_threads=1",
          (10, 20, 30, 40, 50, 60, 70, 80),  # one thread, so that the bytes are the same on every machine
          partial(_pillow_encode, "AVIF", max_threads=1), partial(_pillow_versions, "avif", libavif="avif")),
    Rival("avif-psnr", "Pillow AVIF, quality=q, 4:4:4, speed=6, tune=psnr, max_threads=1",
          (12, 20, 28, 36, 44, 52, 60, 70, 80),
          partial(_pillow_encode, "AVIF", max_threads=1, subsampling="4:4:4", speed=6, advanced={"tune": "psnr"}),
          partial(_pillow_versions, "avif", libavif="avif")),
    # for PSNR, without psycho-visual terms: BPG's coding by the same encoder, within 2 % of bpgenc's bits
    Rival("heic", "HEVC intra (x265 through pillow-heif), a stand-in for BPG: quality=q, chroma 444, "
          + ", ".join(f"{key}={value}" for key, value in _HEIC_OPTIONS.items()),
          (6, 14, 20, 26, 32, 38, 44, 50, 58, 66, 74), _heic_encode, _heic_versions, _heic_decode),
    Rival("bpg", "bpgenc -e x265 -m 8 -f 444 -c ycbcr -b 8 -q q", (47, 44, 42, 39, 37, 34, 32, 29, 27, 24, 22),
          _bpg_encode, _bpg_versions, _bpg_decode, (0, 51), "quantiser"),
    Rival("jxl", "JPEG XL (libjxl through imagecodecs), VarDCT, distance=q, effort=7, numthreads=1",
          (20, 14, 9, 6, 4.2, 3, 2.1, 1.5, 1, 0.7, 0.45),
          _jxl_encode, _jxl_versions, _jxl_decode, (0.1, 25), "distance", whole=False),
    Rival("jpeg2000", "Pillow JPEG 2000, irreversible, mct=1, one layer, rate 24/q (q: bits per pixel)",
          (0.1, 0.17, 0.26, 0.38, 0.55, 0.75, 1, 1.35, 1.75, 2.2),
          partial(_pillow_encode, "JPEG2000", rate=True, irreversible=True, mct=1, quality_mode="rates"),
          partial(_pillow_versions, "jpg_2000", openjpeg="jpg_2000"), limits=(0.001, 24), unit="rate", whole=False),
)  # fmt: skip
RIVALS = {row.name: row for row in _ROWS}
NAMES = ("nic", *RIVALS)
"""What `create` knows, besides nic:MODEL, nic@REALISM and cai:NAME."""


def create(names: Sequence[str], *, model: str | Path | Model = "base") -> list[Codec]:
    """The codecs with these names, in this order; nic uses `model`, nic:MODEL another one, a name or a file.

    Raises ConfigError for a name that is unknown or given twice, ModelNotFoundError for a model that does not exist,
    MissingPackageError for a codec that is not installed.
    """
    return [_create(name, label, model) for name, label in _labels(names).items()]


def installed(names: Sequence[str], *, model: str | Path | Model = "base") -> tuple[list[Codec], dict[str, str]]:
    """Those of `create`'s codecs that are installed, and why each other one is not, by name. Raises as `create` does,
    and ConfigError if none is installed."""
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
    for name in names:
        if name not in NAMES and not is_ours(name) and not name.startswith("cai:"):
            known = ", ".join(NAMES)
            raise ConfigError(f"found the codec {name!r}, expected one of {known}, nic:MODEL, nic@REALISM or cai:NAME")
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"found the codecs {', '.join(names) or '(none)'}, expected at least one, and each only once")
    parsed = {name: _NIC.fullmatch(name) for name in names}
    stems = Counter(Path(model).stem for model in {match["model"] for match in parsed.values() if match} if model)
    labels = {name: name for name in names}
    for name, match in parsed.items():
        if match and match["model"]:
            path = Path(match["model"])
            label = path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
            labels[name] = f"nic:{label}" + (f"@{match['realism']}" if match["realism"] else "")
    if len(set(labels.values())) < len(labels):
        raise ConfigError(f"two of the models in {', '.join(names)} have one name: rename a file or its folder")
    return labels


def _create(name: str, label: str, model: str | Path | Model) -> Codec:
    if match := _NIC.fullmatch(name):
        nic = Nic(match["model"] or model, label, realism=float(match["realism"] or 0))
        if not 0 <= nic.realism <= 1:
            raise ConfigError(f"found the realism {match['realism']} in {name}, expected a number from 0 to 1")
        nic.load()  # a model that does not exist is an error now, not after hours
        return nic
    if name.startswith("cai:"):
        zoo = CompressAI(name.removeprefix("cai:"), name)
        zoo.load(zoo.settings()[0])
        return zoo
    RIVALS[name].versions()
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
