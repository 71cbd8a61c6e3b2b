"""CompressAI networks in .nic files. Needs compressai: skipped where it cannot be imported."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from paths import ROOT
from PIL import Image
from safetensors.torch import save_file

import neurocodec
from neurocodec import codec, container, image
from neurocodec.cli.main import main
from neurocodec.errors import (
    ChecksumError,
    ConfigError,
    ImageError,
    MissingPackageError,
    ModelMismatchError,
    ModelNotFoundError,
    NicFormatError,
    UnsupportedVersionError,
)
from neurocodec.interop import compressai as interop
from neurocodec.models.pixels import from_tensor, to_tensor

try:
    models = interop.package("models")
    zoo = interop.package("zoo.image")
except MissingPackageError as error:
    pytest.skip(f"CompressAI is not tested here: {error}", allow_module_level=True)

SMALL = {
    "bmshj2018-factorized": (8, 12),
    "bmshj2018-factorized-relu": (8, 12),
    "bmshj2018-hyperprior": (8, 12),
    "mbt2018-mean": (8, 12),
    "mbt2018": (8, 12),
    "cheng2020-anchor": (12,),
    "cheng2020-attn": (12,),
}


def last_convolution(module: torch.nn.Module) -> Any:
    return [m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))][-1]


def network(architecture: str, *sizes: int, seed: int = 0, spread: float = 1.5) -> Any:
    """A network of few channels and random weights, whose symbols have some spread and escape now and then."""
    torch.manual_seed(seed)
    made = getattr(models, interop.ARCHITECTURES[architecture])(*(sizes or SMALL[architecture])).eval()
    with torch.no_grad():
        last = last_convolution(made.g_a)
        y = made.g_a(torch.rand(1, 3, 64, 64))
        last.weight.mul_(spread / y.std())
        if hasattr(made, "gaussian_conditional"):
            head = last_convolution(getattr(made, "entropy_parameters", made.h_s))
            head.weight.mul_(20)
            head.bias[: y.shape[1]] += 0.7
    made.update()
    return made


@pytest.fixture(scope="module")
def rgb(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """70 x 101 pixels of the photograph: no multiple of 16 or 64."""
    return np.ascontiguousarray(photo[100:170, 150:251])


@pytest.mark.parametrize("architecture", interop.ARCHITECTURES)
def test_the_same_picture_and_size_as_compressai_itself(architecture: str, rgb: NDArray[np.uint8]) -> None:
    made = network(architecture)
    model = interop.freeze(made, device="cpu")
    data = interop.encode(rgb, model)
    ours = np.asarray(interop.decode(data, model))
    assert ours.shape == rgb.shape
    assert interop.encode(rgb, model) == data

    with torch.no_grad():
        out = made.compress(to_tensor(image.pad_to_multiple(rgb, made.downsampling_factor)))
        theirs = from_tensor(made.decompress(**out)["x_hat"])[:70, :101]
    # Theirs computes in single precision: a symbol in thousands may round the other way.
    assert (ours == theirs).mean() > 0.9
    assert np.abs(ours.astype(int) - theirs).mean() < 0.2
    stream = container.read(data, any_architecture=True).tiles[0].stream
    assert len(stream) == pytest.approx(sum(len(part[0]) for part in out["strings"]), rel=0.05, abs=12)


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean"])
def test_tables_are_compressais_own(architecture: str) -> None:
    made = network(architecture)
    (tables,) = interop.freeze(made, device="cpu").tables
    parts = [made.entropy_bottleneck, *([made.gaussian_conditional] if hasattr(made, "gaussian_conditional") else [])]
    cdfs = [(cdf, int(n), int(o)) for p in parts for cdf, n, o in zip(p.quantized_cdf, p.cdf_length, p.offset)]  # noqa: B905
    assert tables.rows == len(cdfs)
    for row, (cdf, length, offset) in enumerate(cdfs):
        assert tables.offsets[row] == offset
        assert np.concatenate([[0], np.cumsum(tables.row(row), dtype=np.int64)]).tolist() == cdf[:length].tolist()


def test_more_channels_than_a_table_index_counts(rgb: NDArray[np.uint8]) -> None:
    made = network("bmshj2018-factorized", 8, 600)
    model = interop.freeze(made, device="cpu")
    assert [tables.rows for tables in model.tables] == [256, 256, 88]
    data = interop.encode(rgb, model)
    with torch.no_grad():
        out = made.compress(to_tensor(image.pad_to_multiple(rgb, 16)))
        theirs = from_tensor(made.decompress(**out)["x_hat"])[:70, :101]
    assert (np.asarray(interop.decode(data, model)) == theirs).all()
    nic = container.read(data, any_architecture=True)
    for stream in (b"", b"\xff\xff\xff\xff", nic.tiles[0].stream[:20]):
        cut = dataclasses.replace(nic, tiles=(container.Tile(stream, nic.tiles[0].symbols_crc),))
        with pytest.raises(NicFormatError):
            interop.decode(container.write(cut), model)


def test_escapes_and_wild_latents_survive(rgb: NDArray[np.uint8]) -> None:
    made = network("mbt2018-mean", spread=3000.0)
    model = interop.freeze(made, device="cpu")
    crc = container.read(interop.encode(rgb, model), any_architecture=True).tiles[0].symbols_crc
    interop.decode(interop.encode(rgb, model), model)
    with torch.no_grad():
        last_convolution(model.g_a).weight.mul_(float("nan"))
    data = interop.encode(rgb, model)
    assert container.read(data, any_architecture=True).tiles[0].symbols_crc != crc
    interop.decode(data, model)


@pytest.fixture(scope="module")
def mean_model() -> interop.Model:
    return interop.freeze(network("mbt2018-mean"), device="cpu")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "RGB"])
def test_modes_and_metadata_stay(mode: str, mean_model: interop.Model, photo: NDArray[np.uint8]) -> None:
    im = Image.fromarray(photo[:9, :1] if mode == "L" else photo[:33, :17]).convert(mode)
    if "A" in mode:
        im.putalpha(Image.linear_gradient("L").resize(im.size))
    im.info["xmp"] = b"<xmp/>"
    again = interop.decode(interop.encode(im, mean_model), mean_model)
    assert (again.mode, again.size, again.info["xmp"]) == (mode, im.size, b"<xmp/>")
    if "A" in mode:
        assert again.getchannel("A").tobytes() == im.getchannel("A").tobytes()


def test_the_file_says_what_it_needs(
    mean_model: interop.Model, rgb: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = interop.encode(rgb, mean_model)
    about = neurocodec.info(data)
    assert about.architecture == "compressai/mbt2018-mean"
    assert about.model_id == mean_model.model_id.hex()
    assert "floating point" in about.note
    expected = (
        f"CompressAI network mbt2018-mean with the weights {about.model_id}: install compressai and decode it with"
    )
    with pytest.raises(UnsupportedVersionError, match=expected):
        neurocodec.decode(data)
    with pytest.raises(NicFormatError, match=expected):
        Image.open(io.BytesIO(data))
    path = tmp_path / "a.nic"
    path.write_bytes(data)
    assert np.asarray(interop.decode(path, mean_model)).shape == rgb.shape
    assert main(["decode", str(path)]) == 1
    assert expected in capsys.readouterr().err
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"compressai/mbt2018-mean, weights {about.model_id}" in out
    assert "quality" not in out
    assert main(["info", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "compressai/mbt2018-mean"


def test_other_weights_and_other_files_are_refused(
    mean_model: interop.Model, rgb: NDArray[np.uint8], small_model: Any
) -> None:
    data = interop.encode(rgb, mean_model)
    other = interop.freeze(network("mbt2018-mean", seed=1), device="cpu")
    with pytest.raises(ModelMismatchError, match=f"{mean_model.model_id.hex()}, found .* with {other.model_id.hex()}"):
        interop.decode(data, other)
    with pytest.raises(ModelNotFoundError, match="not published: give the network"):
        interop.decode(data)
    with pytest.raises(NicFormatError, match="no CompressAI network"):
        interop.decode(codec.encode(rgb, model=small_model), mean_model)
    nic = container.read(data, any_architecture=True)
    elsewhere = dataclasses.replace(nic, chunks={"Arch": b"otherlibrary/model"})
    with pytest.raises(NicFormatError, match="no CompressAI network"):
        interop.decode(container.write(elsewhere), mean_model)
    with pytest.raises(UnsupportedVersionError, match="network model of otherlibrary"):
        neurocodec.decode(container.write(elsewhere))


def test_the_id_covers_what_decoding_reads_and_nothing_else() -> None:
    def model_id(change: Any) -> bytes:
        made = network("mbt2018-mean")
        with torch.no_grad():
            change(made)
        return interop.freeze(made, device="cpu").model_id

    same = model_id(lambda made: None)
    assert model_id(lambda made: last_convolution(made.g_a).weight.mul_(2)) == same
    assert model_id(lambda made: last_convolution(made.h_a).weight.mul_(2)) == same
    assert model_id(lambda made: last_convolution(made.g_s).bias.add_(1e-6)) != same
    assert model_id(lambda made: last_convolution(made.h_s).weight.mul_(1.001)) != same
    assert model_id(lambda made: made.entropy_bottleneck.quantiles[:, 0, 1].add_(1e-3)) != same
    assert model_id(lambda made: made.gaussian_conditional.scale_table.mul_(1.001)) != same


def test_another_machines_arithmetic_is_an_error_not_a_wrong_picture(
    mean_model: interop.Model, rgb: NDArray[np.uint8]
) -> None:
    data = interop.encode(rgb, mean_model)

    class Otherwise(torch.nn.Module):
        def forward(self, z_hat: torch.Tensor) -> torch.Tensor:
            assert mean_model.h_s is not None
            out: torch.Tensor = mean_model.h_s(z_hat) * 1.02
            return out

    with pytest.raises(NicFormatError, match=r"exact decoding is not promised") as caught:
        interop.decode(data, dataclasses.replace(mean_model, h_s=Otherwise()))
    assert not isinstance(caught.value, UnsupportedVersionError)
    nic = container.read(data, any_architecture=True)
    wrong = dataclasses.replace(nic, tiles=(container.Tile(nic.tiles[0].stream, nic.tiles[0].symbols_crc ^ 1),))
    with pytest.raises(ChecksumError, match="do not match"):
        interop.decode(container.write(wrong), mean_model)


def test_rows_are_computed_in_doubles(mean_model: interop.Model) -> None:
    assert mean_model.h_s is not None
    assert {p.dtype for p in mean_model.h_s.parameters()} == {torch.float64}
    assert {p.dtype for p in mean_model.g_s.parameters()} == {torch.float32}


def test_forged_streams_are_typed_errors(mean_model: interop.Model, rgb: NDArray[np.uint8]) -> None:
    nic = container.read(interop.encode(rgb, mean_model), any_architecture=True)
    stream = nic.tiles[0].stream
    rng = np.random.default_rng(0)
    for forged in [b"", stream[:-2], stream + b"\0\0", *(rng.bytes(len(stream)) for _ in range(20))]:
        tile = container.Tile(forged, nic.tiles[0].symbols_crc)
        with pytest.raises(NicFormatError):
            interop.decode(container.write(dataclasses.replace(nic, tiles=(tile,))), mean_model)
    huge = dataclasses.replace(nic.header, width=2**15, height=2**15)
    with pytest.raises(NicFormatError, match="more than the limit"):
        interop.decode(container.write(dataclasses.replace(nic, header=huge)), mean_model)
    tiled = dataclasses.replace(nic.header, width=300, height=10, tile_edge=256)
    with pytest.raises(NicFormatError, match="several tiles"):
        interop.decode(container.write(container.NicFile(tiled, nic.chunks, 2 * nic.tiles)), mean_model)


def test_freezing_leaves_the_network_alone(rgb: NDArray[np.uint8]) -> None:
    made = models.MeanScaleHyperprior(8, 12).train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    interop.decode(interop.encode(rgb, model := interop.freeze(made, device="cpu")), model)
    assert made.training
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert made.state_dict().keys() == before.keys()
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_networks_that_cannot_be_frozen() -> None:
    with pytest.raises(ConfigError, match=r"found a Linear, expected one of .*MeanScaleHyperprior"):
        interop.freeze(torch.nn.Linear(1, 1))

    class Mine(models.FactorizedPrior):  # type: ignore[misc, name-defined]
        """A subclass may decode otherwise."""

    with pytest.raises(ConfigError, match="found a Mine"):
        interop.freeze(Mine(8, 12))
    made = network("bmshj2018-factorized")
    made.entropy_bottleneck.quantized_cdf[0, 1] = 0
    with pytest.raises(ConfigError, match="tables cannot be used"):
        interop.freeze(made)


def test_pictures_too_large_are_refused(mean_model: interop.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interop, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="100 pixels; these networks code at most 99"):
        interop.encode(np.zeros((10, 10, 3), np.uint8), mean_model)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CompressAI's downloads give a small random network; the list of the URLs that it downloads."""
    urls: list[str] = []

    def download(url: str, **_: Any) -> dict[str, torch.Tensor]:
        urls.append(url)
        state: dict[str, torch.Tensor] = network("mbt2018-mean").state_dict()
        return state

    monkeypatch.setattr(zoo, "load_state_dict_from_url", download)
    return urls


def test_decoding_loads_published_weights_once(published: list[str], rgb: NDArray[np.uint8]) -> None:
    same = interop.freeze(network("mbt2018-mean"), label="mse/3", device="cpu")
    data = interop.encode(rgb, same)
    assert neurocodec.info(data).architecture == "compressai/mbt2018-mean/mse/3"
    for _ in range(2):
        assert np.array_equal(interop.decode(data, device="cpu"), interop.decode(data, same))
    assert interop.load("mbt2018-mean", 3, device="cpu").model_id == same.model_id
    (url,) = published
    assert "mbt2018-mean-3-" in url


def test_weights_from_files(tmp_path: Path) -> None:
    save_file(network("mbt2018-mean").state_dict(), tmp_path / "mine.safetensors")
    model = interop.load_file("mbt2018-mean", tmp_path / "mine.safetensors", device="cpu")
    assert model is interop.load_file("mbt2018-mean", tmp_path / "mine.safetensors", device="cpu")
    assert model.model_id == interop.freeze(network("mbt2018-mean"), device="cpu").model_id

    save_file(network("bmshj2018-factorized").state_dict(), tmp_path / "other.safetensors")
    for name in ("other.safetensors", "missing.safetensors"):
        with pytest.raises(ConfigError, match=rf"{name} cannot be read as weights of mbt2018-mean"):
            interop.load_file("mbt2018-mean", tmp_path / name, device="cpu")
    with pytest.raises(ConfigError, match="expected one of bmshj2018-factorized"):
        interop.load_file("mbt", tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    "content", [b"no weights", b"", b"\x80\x02r\xff\xff\xff\x7f.", b"\x80\x02(" + b"\x85" * 200_000 + b"."]
)
def test_weights_that_are_a_pickle_are_refused_unread(tmp_path: Path, content: bytes) -> None:
    """torch.load(weights_only=True) took gigabytes for a few dozen bytes, or crashed the interpreter."""
    (tmp_path / "mine.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.pth is not a safetensors file: write one with"):
        interop.load_file("mbt2018-mean", tmp_path / "mine.pth", device="cpu")
    torch.save(network("mbt2018-mean").state_dict(), tmp_path / "mine.pth")
    with pytest.raises(ConfigError, match=r"mine\.pth is not a safetensors file"):
        interop.load_file("mbt2018-mean", tmp_path / "mine.pth", device="cpu")


def test_the_page_on_a_network_of_your_own_runs_where_torchvision_does_not_load(
    tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    """In a fresh process, without what this one has imported before."""
    page = (ROOT / "docs" / "interop.md").read_text()
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "then train it" in text)
    Image.fromarray(photo[:64, :64]).save(tmp_path / "photo.png")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.safetensors").exists()


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, **_: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(zoo, "load_state_dict_from_url", offline)
    for kind in (ModelNotFoundError, MissingPackageError):  # `bench` reports and skips the second
        with pytest.raises(kind, match=r"weights of mbt2018-mean mse 1 .*no route to host.*checkpoints"):
            interop.load("mbt2018-mean", 1)


@pytest.mark.parametrize(
    ("architecture", "quality", "metric", "words"),
    [
        ("mbt2017", 1, "mse", "'mbt2017', expected one of bmshj2018-factorized"),
        ("mbt2018", 9, "mse", "quality 9, expected 1 to 8"),
        ("cheng2020-attn", 7, "mse", "quality 7, expected 1 to 6"),
        ("mbt2018", 1, "psnr", "'psnr', expected mse or ms-ssim"),
        ("bmshj2018-factorized-relu", 1, "mse", "freeze your own"),
    ],
)
def test_networks_that_are_not_in_the_zoo(architecture: str, quality: int, metric: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        interop.load(architecture, quality, metric=metric, pretrained=False, device="cpu")


def test_without_compressai(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "compressai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "compressai", None)
    with pytest.raises(MissingPackageError, match="pip install 'compressai"):
        interop.load("mbt2018-mean", 1)


@pytest.mark.usefixtures("published")
def test_the_documented_code_runs(photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "interop.md").read_text().split("## Ray")[0]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo[:64, :64]).save("photo.png")
    for block in blocks:
        exec(block, {})
