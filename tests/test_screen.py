"""Screen content: palettes in files; and streams of z, which large smooth pictures have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import neurocodec
from neurocodec import codec, container, image, screen, tiles
from neurocodec.errors import NicFormatError
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.metrics import psnr
from neurocodec.model import Model
from neurocodec.thumbnail import preview

TEXT = "A palette holds text, lines and flat shapes. 0123456789 (it does not hold photographs)"


def page(height: int, width: int) -> NDArray[np.uint8]:
    """A page of text in three colours, with a bar above it."""
    im = Image.new("RGB", (width, height), (250, 250, 252))
    draw = ImageDraw.Draw(im)
    draw.rectangle((0, 0, width, 20), fill=(40, 90, 170))
    for line, top in enumerate(range(28, height - 12, 14)):
        draw.text((8, top), TEXT[line % 9 :] * (width // 400 + 1), fill=((20, 20, 20), (160, 30, 30))[line % 5 == 0])
    return np.array(im)


@pytest.fixture(scope="module")
def text() -> NDArray[np.uint8]:
    return page(200, 330)


@pytest.fixture(scope="module")
def mixed(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A page with a photograph in it."""
    rgb = page(288, 352)
    rgb[100:228, 90:266] = photo[40:168, 150:326]
    return rgb


@pytest.fixture(scope="module")
def smooth() -> NDArray[np.uint8]:
    y, x = np.mgrid[0:768, 0:1024]
    waves = [120 + 60 * np.sin(x / 400 + c) + 50 * np.cos(y / 300 - c) for c in range(3)]
    return np.stack(waves, 2).astype(np.uint8)


def chunks_of(data: bytes) -> set[str]:
    return set(container.read(data).chunks)


def by_networks_alone(rgb: NDArray[np.uint8], model: Model, index: int) -> bytes:
    return container.write(codec.code_picture(image.Picture(rgb), network=codec.network_of(model), index=index))


@pytest.mark.parametrize("quality", [15, 50, 85])
def test_text_gets_smaller_and_better(text: NDArray[np.uint8], base_model: Model, quality: float) -> None:
    index = codec.quality_index(quality)
    data, plain = (
        codec.encode_picture(image.Picture(text), base_model, index),
        by_networks_alone(text, base_model, index),
    )
    assert container.PALETTE in chunks_of(data)
    assert len(data) < 0.8 * len(plain)
    ours, networks = (psnr(text, codec.decode_picture(container.read(d), base_model).rgb) for d in (data, plain))
    assert ours > networks + 2


def test_photographs_have_none(photo: NDArray[np.uint8], base_model: Model) -> None:
    assert screen.blocks_of_few_colours(photo) is None
    picture = image.Picture(photo[:128, :192])
    assert codec.encode_picture(picture, base_model, 300) == by_networks_alone(picture.rgb, base_model, 300)


def test_a_photograph_on_a_page_stays_a_photograph(mixed: NDArray[np.uint8], base_model: Model) -> None:
    nic = container.read(codec.encode_picture(image.Picture(mixed), base_model, 480))
    assert container.PALETTE in nic.chunks
    decoded = codec.decode_picture(nic, base_model).rgb
    inside = slice(112, 212), slice(104, 252)
    plain = codec.decode_picture(container.read(by_networks_alone(mixed, base_model, 480)), base_model).rgb
    assert psnr(mixed[inside], decoded[inside]) > psnr(mixed[inside], plain[inside]) - 0.2
    text = slice(28, 90), slice(0, 352)
    assert psnr(mixed[text], decoded[text]) > psnr(mixed[text], plain[text]) + 3


def test_every_way_of_decoding_draws_it(mixed: NDArray[np.uint8], base_model: Model) -> None:
    data = neurocodec.encode(mixed, quality=40)
    nic = container.read(data)
    whole = np.asarray(neurocodec.decode(data))
    for x, y, width, height in ((0, 0, 352, 30), (33, 65, 201, 77), (340, 280, 12, 8)):
        region = np.asarray(neurocodec.decode(data, region=(x, y, width, height)))
        assert np.array_equal(region, whole[y : y + height, x : x + width])
    assert np.array_equal(np.concatenate(list(codec.decode_bands(nic, base_model))), whole)
    slow = LayerwiseNetwork(base_model, NumpyArithmetic())
    region = (0, 64, 96, 48)
    assert np.array_equal(codec.decode_picture(nic, slow, region=region).rgb, whole[64:112, :96])
    fine = codec.decode_picture(nic, base_model, depth=16).rgb
    ((window, palette),) = screen.palettes_of(nic).values()
    drawn = np.zeros((288, 352, 3), np.uint8)
    palette.draw(drawn, window, window)
    inside = drawn.any(2)
    assert 0.3 < inside.mean() < 0.95
    assert np.array_equal(fine[inside], drawn[inside].astype(np.uint16) * 257)
    realistic = np.asarray(neurocodec.decode(data, realism=1))
    assert np.array_equal(realistic[inside], drawn[inside])
    assert not np.array_equal(realistic, whole)
    small = np.asarray(preview(data, 88)).astype(int)
    assert np.abs(small - np.asarray(Image.fromarray(whole).resize((88, 72), Image.Resampling.LANCZOS))).max() <= 1


def test_gray_and_transparent_pages(text: NDArray[np.uint8]) -> None:
    gray = Image.fromarray(text).convert("L")
    data = neurocodec.encode(gray, quality=60)
    assert container.PALETTE in chunks_of(data)
    decoded = neurocodec.decode(data)
    assert decoded.mode == "L"
    assert psnr(np.asarray(gray), np.asarray(decoded)) > 38
    gray.putalpha(Image.fromarray(text[:, :, 0]))
    data = neurocodec.encode(gray, quality=60)
    assert chunks_of(data) >= {container.PALETTE, container.ALPHA}
    assert np.array_equal(np.asarray(neurocodec.decode(data))[:, :, 1], text[:, :, 0])


def test_tiles_have_palettes_of_their_own(base_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec.tiling, "tile_edge", lambda height, width: 256)
    rgb = page(300, 600)
    rgb[:256, :256] = 0  # a flat tile
    nic = container.read(codec.encode_picture(image.Picture(rgb), base_model, 500))
    assert len(nic.tiles) == 6
    assert 1 < len(screen.palettes_of(nic)) <= 6
    decoded = codec.decode_picture(nic, base_model).rgb
    assert psnr(rgb, decoded) > 35
    for region in ((250, 250, 30, 30), (500, 10, 100, 290)):
        x, y, width, height = region
        assert np.array_equal(
            codec.decode_picture(nic, base_model, region=region).rgb, decoded[y : y + height, x : x + width]
        )


def test_targets_and_lossless_files(text: NDArray[np.uint8]) -> None:
    limit = len(neurocodec.encode(text, quality=50))
    data = neurocodec.encode(text, target_bytes=limit)
    assert 0.97 * limit < len(data) <= limit
    assert psnr(text, np.asarray(neurocodec.decode(neurocodec.encode(text, target_psnr=40)))) >= 40
    exact = neurocodec.encode(text, lossless=True)
    assert container.PALETTE not in chunks_of(exact)
    assert np.array_equal(np.asarray(neurocodec.decode(exact)), text)


def test_a_limit_that_palettes_exceed_is_still_reached() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8).repeat(2, 0).repeat(2, 1)
    assert len(neurocodec.encode(noise, target_bytes=450)) <= 450


def test_sixteen_bits_have_none(text: NDArray[np.uint8]) -> None:
    rgb = text.astype(np.uint16) * 257 + 1
    assert container.PALETTE not in chunks_of(neurocodec.encode(rgb))


def test_progress_reaches_the_end_once(text: NDArray[np.uint8], photo: NDArray[np.uint8]) -> None:
    doubled = photo[200:232, 200:248].repeat(2, 0).repeat(2, 1)  # asks for a palette, and gets none
    for picture in (text, photo[:64, :64], doubled):
        shares: list[float] = []
        neurocodec.encode(picture, progress=shares.append)
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert shares.count(1) == 1


def test_damaged_palettes_are_errors(mixed: NDArray[np.uint8], base_model: Model) -> None:
    nic = container.read(neurocodec.encode(mixed, quality=40))
    (record,) = container.tile_records(nic, container.PALETTE)
    for damaged in (record[:-1], record + b"\0", bytes([record[0] + 1]) + record[1:], record[:1] + record[4:]):
        payload = container.join_records([damaged])
        forged = container.read(container.write(replace(nic, chunks=nic.chunks | {container.PALETTE: payload})))
        with pytest.raises(NicFormatError):
            codec.decode_picture(forged, base_model)


def test_blocks_without_a_palette_keep_their_pixels() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    blocks = rng.random((4, 5)) < 0.5
    rest = screen.filled(rgb, blocks)
    inside = blocks.repeat(16, 0).repeat(16, 1)[:50, :70]
    assert np.array_equal(rest[~inside], rgb[~inside])
    assert (screen.filled(rgb, np.ones_like(blocks)) == 128).all()
    flat = np.full((64, 64, 3), (10, 200, 30), np.uint8)
    flat[:16, :16] = 255
    only_corner = np.zeros((4, 4), bool)
    only_corner[0, 0] = True
    assert (screen.filled(flat, only_corner) == (10, 200, 30)).all()


def test_smooth_pictures_have_z_apart(smooth: NDArray[np.uint8], base_model: Model) -> None:
    picture, network = image.Picture(smooth), codec.network_of(base_model)
    nic = container.read(codec.encode_picture(picture, network, 150))
    assert container.Z_STREAMS in nic.chunks
    (latents,) = codec.decode_latents(nic, network)
    together, _ = network.encode(latents.y_hat, 150, latents.z_hat)
    (z_stream,) = container.tile_records(nic, container.Z_STREAMS)
    assert len(z_stream) + len(nic.tiles[0].stream) + 24 < len(together)
    plain = container.NicFile(nic.header, {}, (container.Tile(together, nic.tiles[0].symbols_crc),))
    decoded = codec.decode_picture(replace(nic, chunks={container.Z_STREAMS: nic.chunks[container.Z_STREAMS]}), network)
    assert np.array_equal(decoded.rgb, codec.decode_picture(plain, network).rgb)
    assert psnr(smooth, decoded.rgb) > 35
    lossless = neurocodec.encode(smooth[:512], lossless=True)
    assert np.array_equal(np.asarray(neurocodec.decode(lossless)), smooth[:512])
    assert preview(container.write(nic), 64).size == (64, 48)


def test_damaged_streams_of_z_are_errors(smooth: NDArray[np.uint8], base_model: Model) -> None:
    nic = container.read(codec.encode_picture(image.Picture(smooth), base_model, 150))
    (record,) = container.tile_records(nic, container.Z_STREAMS)
    middle = len(record) // 2
    for damaged in (record[:-1], record + b"\0", record[:middle] + bytes([record[middle] ^ 64]) + record[middle + 1 :]):
        payload = container.join_records([damaged])
        forged = container.read(container.write(replace(nic, chunks=nic.chunks | {container.Z_STREAMS: payload})))
        with pytest.raises(NicFormatError):
            codec.decode_picture(forged, base_model)
    (window, coded), *_ = tiles.tiles_of(nic)
    with pytest.raises(NicFormatError):
        tiles.decode_tile(replace(coded, z_stream=b""), window, codec.network_of(base_model), 150)
