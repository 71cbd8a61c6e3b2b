"""The modules behind the page in Node: pixels, facts and sentences are those of Python."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import GOLDEN, ROOT
from PIL import Image
from web.pages import text_page

import neurocodec
from neurocodec import container
from neurocodec.errors import NicFormatError
from neurocodec.model import Model

if TYPE_CHECKING:
    from tests.web.conftest import Sample

NODE = shutil.which("node")
pytestmark = [
    pytest.mark.skipif(not NODE, reason="no Node here"),
    pytest.mark.skipif(not (ROOT / "web" / "nic.wasm").is_file(), reason="web/nic.wasm is missing: make web"),
]


def run(
    weights: Path, files: Sequence[tuple[Path, Sequence[int] | None]], *, lossless: bool = True, realism: float = 0.0
) -> list[dict[str, Any]]:
    """What decode.mjs says about each file and region."""
    options = {"lossless": lossless, "realism": realism}
    listing = json.dumps([{"path": str(path), "region": region, **options} for path, region in files])
    command = [NODE or "", str(Path(__file__).with_name("decode.mjs")), str(ROOT / "web"), str(weights)]
    done = subprocess.run(command, input=listing, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def test_pixels_and_facts_are_those_of_python(samples: list[Sample], weights: Path, tmp_path: Path) -> None:
    for sample in samples:
        (tmp_path / f"{sample.name}.nic").write_bytes(sample.data)
    results = run(weights, [(tmp_path / f"{sample.name}.nic", sample.region) for sample in samples])
    for sample, result in zip(samples, results, strict=True):
        assert result.get("sha256") == sample.rgba_sha256, (sample.name, sample.region, result)
        facts = dataclasses.asdict(neurocodec.info(sample.data))
        for name, value in facts.items():
            if name != "note":
                head, *rest = name.split("_")
                assert result["info"][head + "".join(word.capitalize() for word in rest)] == value, (sample.name, name)


def test_damaged_containers_give_the_sentences_of_python(weights: Path) -> None:
    paths = sorted((GOLDEN / "container" / "invalid").glob("*.nic"))
    assert len(paths) > 30
    for path, result in zip(paths, run(weights, [(path, None) for path in paths]), strict=True):
        with pytest.raises(NicFormatError) as raised:
            container.read(path.read_bytes())
        message, expected = result["message"], str(raised.value)
        if path.name == "architecture-foreign.nic":  # a page cannot install packages
            message, expected = message.partition(":")[0], expected.partition(":")[0]
        assert (result["error"], message) == (type(raised.value).__name__, expected), path.name


def test_sixteen_bit_alpha_is_decoded_at_eight(small_model: Model, weights: Path, tmp_path: Path) -> None:
    fine = np.random.default_rng(0).integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    fine[..., 3] = np.arange(600).reshape(20, 30) * 109  # PNG filters it
    data = neurocodec.encode(fine, model=small_model)
    assert container.ALPHA16 in container.read(data).chunks
    (tmp_path / "fine.nic").write_bytes(data)
    (result,) = run(weights, [(tmp_path / "fine.nic", None)])
    pixels = np.asarray(neurocodec.decode(data, model=small_model))
    assert result["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_the_lossy_picture_of_a_lossless_file(
    small_model: Model, weights: Path, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    pixels = np.ascontiguousarray(photo[:70, :90])
    data = neurocodec.encode(pixels, lossless=True, model=small_model)
    (tmp_path / "whole.nic").write_bytes(data)
    (exact,) = run(weights, [(tmp_path / "whole.nic", None)])
    (lossy,) = run(weights, [(tmp_path / "whole.nic", None)], lossless=False)
    for result, picture in (
        (exact, Image.fromarray(pixels)),
        (lossy, neurocodec.decode(data, lossless=False, model=small_model)),
    ):
        assert result["sha256"] == hashlib.sha256(picture.convert("RGBA").tobytes()).hexdigest()
    assert exact["sha256"] != lossy["sha256"]
    assert exact["info"]["lossless"]
    (tmp_path / "cut.nic").write_bytes(data[: neurocodec.info(data).first_bytes + 5])
    assert run(weights, [(tmp_path / "cut.nic", None)], lossless=False) == [lossy]
    assert run(weights, [(tmp_path / "cut.nic", None)])[0]["error"] == "TruncatedError"


def test_damaged_residuals_give_sentences(
    small_model: Model, weights: Path, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    nic = container.read(neurocodec.encode(photo[:40, :50], lossless=True, model=small_model))
    (residual,) = nic.residuals
    stream, crc = residual.stream, residual.symbols_crc
    flipped = bytearray(stream)
    flipped[len(flipped) // 2] ^= 64
    damaged = [(stream[:-2], crc), (stream[:-1], crc), (stream + b"\0\0", crc), (b"", crc), (b"\0" * 9, crc)]
    damaged += [(b"\xff" * 9, crc), (b"\xff" * 20_001, crc), (bytes(flipped), crc), (stream, crc ^ 1)]
    files = [container.write(dataclasses.replace(nic, residuals=(container.Tile(*tile),))) for tile in damaged]
    for i, data in enumerate(files):
        (tmp_path / f"{i}.nic").write_bytes(data)
    results = run(weights, [(tmp_path / f"{i}.nic", None) for i in range(len(files))])
    for data, result in zip(files, results, strict=True):
        with pytest.raises(NicFormatError) as raised:
            neurocodec.decode(data, model=small_model)
        assert result.get("message") == str(raised.value), result


@pytest.mark.parametrize(
    ("size", "mode", "lossless", "chunks"),
    [
        ((130, 70, 128), "RGB", False, {container.PALETTE}),
        ((300, 200, 0), "RGB", False, {container.Z_STREAMS}),
        ((300, 200, 0), "L", True, {container.Z_STREAMS}),
        ((2099, 48, 1000), "RGB", False, {container.PALETTE, container.Z_STREAMS}),
        ((48, 2099, 40), "L", False, {container.PALETTE, container.Z_STREAMS}),
    ],
    ids=["palette", "z", "z-lossless", "tiles", "tiles-gray"],
)
def test_palettes_and_z_apart(
    size: tuple[int, int, int],
    mode: str,
    lossless: bool,
    chunks: set[str],
    small_model: Model,
    weights: Path,
    tmp_path: Path,
) -> None:
    data = neurocodec.encode(text_page(*size).convert(mode), lossless=lossless, model=small_model)
    assert chunks <= container.read(data).chunks.keys()
    compare(data, small_model, weights, tmp_path)


@pytest.mark.parametrize("realism", [0.0, 1.0])
def test_palettes_and_z_apart_of_the_shipped_model(
    realism: float, base_model: Model, weights: Path, tmp_path: Path
) -> None:
    data = neurocodec.encode(text_page(512, 512, 200), model=base_model)
    assert {container.PALETTE, container.Z_STREAMS} <= container.read(data).chunks.keys()
    compare(data, base_model, weights, tmp_path, realism)


def compare(data: bytes, model: Model, weights: Path, folder: Path, realism: float = 0.0) -> None:
    """The whole picture and a region of it, where tiles meet if it has several."""
    width, height = neurocodec.decode(data, model=model).size
    regions = [None, (width // 3, height // 3, width // 5, height // 2)]
    (folder / "file.nic").write_bytes(data)
    results = run(weights, [(folder / "file.nic", region) for region in regions], realism=realism)
    for region, result in zip(regions, results, strict=True):
        picture = neurocodec.decode(data, region=region, realism=realism, model=model)
        assert result.get("sha256") == hashlib.sha256(picture.convert("RGBA").tobytes()).hexdigest(), (region, result)


def test_damaged_palettes_and_z_streams_give_sentences(small_model: Model, weights: Path, tmp_path: Path) -> None:
    nic = container.read(neurocodec.encode(text_page(200, 150, 100), model=small_model))
    files = []
    for name in (container.PALETTE, container.Z_STREAMS):
        (record,) = container.tile_records(nic, name)
        head = 1 + 3 * record[0] if name == container.PALETTE else 0
        colours, stream = record[:head], record[head:]
        streams = [stream[:4], stream[:-2], stream[:-1], stream + b"\0\0", b"\0" * 9, b"\xff" * 9, b"\xff" * 20_001]
        for place in (0, 5, len(stream) // 2, len(stream) - 1):
            flipped = bytearray(stream)
            flipped[place] ^= 64
            streams.append(bytes(flipped))
        records = [colours + damaged for damaged in streams]
        if name == container.PALETTE:
            records.append(bytes([record[0] + 1, 1, 2, 3]) + record[1:])
        chunks = ({**nic.chunks, name: container.join_records([damaged])} for damaged in records)
        files += [container.write(dataclasses.replace(nic, chunks=each)) for each in chunks]
    without = {name: payload for name, payload in nic.chunks.items() if name != container.Z_STREAMS}
    files.append(container.write(dataclasses.replace(nic, chunks=without)))
    for i, data in enumerate(files):
        (tmp_path / f"{i}.nic").write_bytes(data)
    results = run(weights, [(tmp_path / f"{i}.nic", None) for i in range(len(files))])
    for data, result in zip(files, results, strict=True):
        with pytest.raises(NicFormatError) as raised:
            neurocodec.decode(data, model=small_model)
        assert result.get("message") == str(raised.value), result


def _damaged(data: bytes, model: Model) -> list[bytes]:
    """Files whose checksums are right and whose streams, sizes or alpha planes are not."""
    nic = container.read(data)
    (tile,) = nic.tiles
    streams = [tile.stream[:-3], tile.stream + b"\0\0", b"", b"\xff" * 9, tile.stream[:9] + b"\x55" * 40]
    flipped = bytearray(tile.stream)
    flipped[len(flipped) // 2] ^= 64
    files = [
        dataclasses.replace(nic, tiles=(container.Tile(stream, tile.symbols_crc),))
        for stream in (*streams, bytes(flipped))
    ]
    files.append(dataclasses.replace(nic, tiles=(container.Tile(tile.stream, tile.symbols_crc ^ 1),)))
    huge = dataclasses.replace(nic.header, width=30_000, height=30_000)
    files.append(dataclasses.replace(nic, header=huge))
    files.append(dataclasses.replace(nic, header=dataclasses.replace(huge, width=4000, height=4000)))
    files.append(dataclasses.replace(nic, header=dataclasses.replace(nic.header, model_id=b"\1" * 8)))
    png = nic.chunks[container.ALPHA]
    rows = zlib.compress(b"".join(b"\0" + bytes(20) for _ in range(19)))
    for alpha in (png[:40], b"GIF8" + png[4:], png[:16] + b"\0\0\1\0" + png[20:], png[:33] + _chunk(b"IDAT", rows)):
        files.append(dataclasses.replace(nic, chunks={container.ALPHA: alpha}))
    return [container.write(file) for file in files]


def _chunk(name: bytes, payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + name + payload + zlib.crc32(name + payload).to_bytes(4, "big")


def test_damaged_streams_and_alpha_planes_give_sentences(small_model: Model, weights: Path, tmp_path: Path) -> None:
    data = (GOLDEN / "valid" / "alpha-20x20-q480.nic").read_bytes()
    files = _damaged(data, small_model)
    for i, damaged in enumerate(files):
        (tmp_path / f"{i}.nic").write_bytes(damaged)
    (tmp_path / "fine.nic").write_bytes(data)
    (weights / f"{'01' * 8}.safetensors").write_bytes(b"\xff" * 100)
    paths = [tmp_path / f"{i}.nic" for i in range(len(files))]
    *results, fine = run(weights, [(path, None) for path in [*paths, tmp_path / "fine.nic"]])
    assert "sha256" in fine
    for damaged, result in zip(files, results, strict=True):
        assert result["error"].endswith("Error"), result
        if "model" in result["message"]:
            continue  # Python looks for the model elsewhere
        with pytest.raises(NicFormatError) as raised:
            neurocodec.decode(damaged, model=small_model)
        assert result["message"] == str(raised.value).removesuffix(", or raise max_pixels if you trust it")


def test_a_model_file_that_is_damaged_gives_a_sentence(small_model: Model, weights: Path, tmp_path: Path) -> None:
    name = f"{small_model.model_id.hex()}.safetensors"
    whole = bytearray((weights / name).read_bytes())
    whole[-5] ^= 1
    cases = [bytes(whole), bytes(whole[: len(whole) // 2]), b"", b"\0" * 8, bytes(np.zeros(4096, np.uint8))]
    for i, damaged in enumerate(cases):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / name).write_bytes(damaged)
        (result,) = run(folder, [(GOLDEN / "valid" / "gray-33x17-q480.nic", None)])
        assert result["error"] == "ModelMismatchError"
        assert result["message"].startswith("the model file is damaged (")
