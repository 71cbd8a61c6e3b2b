"""encode and decode: round trips of every size and mode, determinism, targets, regions, tiles, damage, golden files."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden.make import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import GOLDEN, PHOTO, SMALL_MODEL
from PIL import Image

import neurocodec
from neurocodec import codec, container, image, tiles, tiling
from neurocodec.errors import (
    ArgumentError,
    ImageError,
    ModelMismatchError,
    ModelNotFoundError,
    NeurocodecError,
    NicFormatError,
    TruncatedError,
)
from neurocodec.model import Model
from neurocodec.training.measured_tables import measured_tables


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.square(np.asarray(a, float) - np.asarray(b, float)).mean(), 1e-9))


def jpeg_of_size(im, limit):
    """The best JPEG (4:2:0, optimised) with at most `limit` bytes."""
    best = None
    for quality in range(1, 96):
        buffer = io.BytesIO()
        im.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
        if buffer.tell() <= limit:
            best = buffer
    return Image.open(best)


@pytest.mark.parametrize("case", sorted(CASES))
def test_encoding_gives_the_golden_bytes(case, small_model):
    assert CASES[case].encode(small_model) == (GOLDEN / "valid" / f"{case}.nic").read_bytes()


def test_every_size_from_1_to_70_round_trips(small_model, photo):
    for side in range(1, 71):
        for height, width in ((side, 71 - side), (side, side)):
            source = photo[100 : 100 + height, 200 : 200 + width]
            decoded = codec.decode(codec.encode(source, model=small_model), model=small_model)
            assert decoded.size == (width, height)
            assert decoded.mode == "RGB"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    quality=st.floats(1, 100),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["noise", "flat", "stripes"]),
)
def test_any_content_round_trips_exactly_in_symbols(small_model, height, width, quality, seed, kind):
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "flat":
        source[:] = source[0, 0]
    if kind == "stripes":
        source[:] = np.where(np.arange(width)[None, :, None] % 2, 255, 0)
    data = codec.encode(source, quality=quality, model=small_model)
    assert codec.decode(data, model=small_model).size == (width, height)  # decode verifies the symbols' checksum


def test_threads_may_decode_at_once(base_model, photo):
    files = [
        codec.encode(photo[64 * i : 64 * i + 64, :200], quality=q, model=base_model) for i, q in enumerate((5, 50, 95))
    ] * 4
    expected = [np.asarray(codec.decode(data, model=base_model)).astype(int) for data in files]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: np.asarray(codec.decode(data, model=base_model)), files))
    assert all((a - b == 0).all() for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "HSV"])
def test_modes(mode, small_model, photo):
    source = Image.fromarray(photo[100:140, 200:250])
    im = (
        Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else source.convert(mode)
    )
    data = codec.encode(im, model=small_model)
    decoded = codec.decode(data, model=small_model)
    expected = {"1": "L", "L": "L", "I;16": "L", "LA": "LA", "RGBA": "RGBA"}.get(mode, "RGB")
    assert (decoded.mode, decoded.size) == (expected, im.size)
    about = neurocodec.info(data)
    assert about.mode == expected
    assert about.source_depth == (16 if mode == "I;16" else 8)
    assert bool(about.note) == (mode == "I;16")


def test_alpha_is_lossless(small_model, photo):
    rng = np.random.default_rng(0)
    rgba = np.dstack([photo[:50, :60], rng.integers(0, 256, (50, 60), dtype=np.uint8)])
    decoded = np.asarray(codec.decode(codec.encode(rgba, model=small_model), model=small_model))
    assert (decoded[..., 3] == rgba[..., 3]).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_go_through(channels, base_model, photo):
    rng = np.random.default_rng(0)
    fine = (photo[200:290, 100:233].astype(np.uint16) * 257 + rng.integers(0, 200, (90, 133, 3))).clip(0, 65535)
    alpha = rng.integers(0, 65536, (90, 133, 1))
    parts = [fine[..., :1] if channels <= 2 else fine, *([alpha] if channels in (2, 4) else [])]
    source = np.concatenate(parts, axis=2).astype(np.uint16)
    data = codec.encode(source, quality=100, model=base_model)
    decoded, coarse = codec.decode_array(data, model=base_model), codec.decode(data, model=base_model)
    assert (decoded.dtype, decoded.shape) == (np.uint16, source.shape)
    if channels in (2, 4):
        assert (decoded[..., -1] == source[..., -1]).all()
    colours = slice(None, -1 if channels in (2, 4) else None)
    levels = np.atleast_3d(np.asarray(coarse))[..., colours]
    assert coarse.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    assert np.abs(decoded[..., colours] / 257 - levels).max() < (1 if channels <= 2 else 0.51)
    assert psnr(decoded[..., colours] / 257, source[..., colours] / 257) > psnr(levels, source[..., colours] / 257)
    part = codec.decode_array(data, model=base_model, region=(17, 5, 60, 33))
    assert (part == decoded[5:38, 17:77]).all()
    about = neurocodec.info(data)
    assert (about.source_depth, about.has_alpha, about.mode) == (16, channels in (2, 4), coarse.mode)


def test_eight_bits_in_sixteen_are_coded_as_eight(small_model, photo):
    rgba = np.dstack([photo[:50, :60], photo[100:150, :60, :1]])
    plain = container.read(codec.encode(rgba, model=small_model))
    wide = container.read(codec.encode(rgba.astype(np.uint16) * 257, model=small_model))
    assert wide.tiles == plain.tiles
    assert wide.chunks == {**plain.chunks, container.DEPTH: b"\x10"}
    assert container.ALPHA in wide.chunks  # nothing of it needs 16 bits
    assert codec.decode_array(container.write(plain), model=small_model).dtype == np.uint8


@pytest.mark.parametrize("region", [None, (3, 1000, 30, 1100), (0, 2047, 40, 1)])
@pytest.mark.parametrize("depth", [8, 16])
def test_bands_are_the_picture(depth, region, small_model):
    rng = np.random.default_rng(0)
    source = rng.integers(0, 65536, (2100, 40, 4), dtype=np.uint16)
    nic = container.read(codec.encode(source, model=small_model))
    bands = list(codec.decode_bands(nic, small_model, region=region, depth=depth))
    whole = image.samples(codec.decode_picture(nic, small_model, region=region, depth=depth))
    assert whole.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert [len(band) for band in bands] == {None: [1024, 1024, 52], 1000: [24, 1024, 52], 2047: [1]}[
        region and region[1]
    ]
    assert (np.concatenate(bands) == whole).all()


def test_a_malformed_alpha_plane_is_found_before_a_stream_is_decoded(small_model, photo):
    nic = container.read(codec.encode(photo[:20, :20], model=small_model))
    wrong = container.NicFile(nic.header, {container.ALPHA: b"no PNG"}, (container.Tile(b"no stream", 0),))
    with pytest.raises(NicFormatError, match="alpha plane"):
        codec.decode_picture(wrong, small_model)
    with pytest.raises(NicFormatError, match="alpha plane"):
        next(codec.decode_bands(wrong, small_model))


def test_metadata_survives_and_orientation_is_applied(small_model, photo):
    im = Image.fromarray(photo[:40, :64])
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    buffer = io.BytesIO()
    im.save(buffer, "PNG", exif=exif.tobytes(), icc_profile=_srgb())
    buffer.seek(0)
    decoded = codec.decode(codec.encode(Image.open(buffer), model=small_model), model=small_model)
    assert decoded.size == (40, 64)  # turned upright
    assert decoded.info["icc_profile"] == _srgb()
    assert decoded.getexif()[271] == "maker"
    assert decoded.getexif()[274] == 1


@functools.lru_cache
def _srgb() -> bytes:  # once: it holds the second in which it was made
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_overhead_of_a_plain_file_is_at_most_40_bytes(small_model, photo):
    data = codec.encode(photo[:64, :64], model=small_model)
    nic = container.read(data)
    plain = container.write(replace(nic, chunks={}))
    assert len(plain) - len(nic.tiles[0].stream) <= 40
    assert len(data) - len(plain) in (0, container.FILTER_BYTES + 2 * container.RECORD_BYTES)


def test_regions_equal_the_whole_picture(base_model, photo):
    data = codec.encode(photo, quality=60, model=base_model)
    whole = np.asarray(codec.decode(data, model=base_model)).astype(int)
    for region in ((0, 0, 512, 512), (100, 37, 1, 1), (500, 500, 12, 12), (3, 250, 130, 77)):
        x, y, width, height = region
        part = np.asarray(codec.decode(data, region=region, model=base_model)).astype(int)
        assert part.shape == (height, width, 3)
        assert (part - whole[y : y + height, x : x + width] == 0).all()
    for region in ((0, 0, 513, 1), (-1, 0, 5, 5), (0, 0, 0, 5), (512, 0, 1, 1)):
        with pytest.raises(ValueError, match="not inside"):
            codec.decode(data, region=region, model=base_model)


def test_tiles_have_no_seams(base_model, photo, monkeypatch):
    picture = image.load(photo[:400, :450])
    whole = codec.decode_picture(container.read(codec.encode_picture(picture, base_model, 500)), base_model)
    monkeypatch.setattr(tiling, "tile_edge", lambda height, width: 256)
    data = codec.encode_picture(picture, base_model, 500)
    nic = container.read(data)
    assert len(nic.tiles) == 4
    tiled = codec.decode_picture(nic, base_model)
    assert abs(psnr(tiled.rgb, picture.rgb) - psnr(whole.rgb, picture.rgb)) < 0.1
    error = np.square(tiled.rgb.astype(float) - picture.rgb).mean(2)
    assert error[:, 248:264].mean() < 1.5 * error[:, 200:312].mean()  # no worse along the seam
    part = codec.decode_picture(nic, base_model, region=(240, 240, 40, 40))
    assert (part.rgb.astype(int) - tiled.rgb[240:280, 240:280] == 0).all()


def test_bytes_and_psnr_rise_with_quality(base_model, photo):
    sizes, psnrs = [], []
    for quality in (1, *range(5, 101, 5)):
        data = codec.encode(photo, quality=quality, model=base_model)
        sizes.append(len(data))
        psnrs.append(psnr(codec.decode(data, model=base_model), photo))
    assert sizes == sorted(set(sizes))
    assert psnrs == sorted(set(psnrs))


def test_the_shipped_model_beats_jpeg_on_the_bundled_photo(base_model, photo):
    # The model never saw this photograph in training.
    for quality in (20, 40, 60, 80):
        data = codec.encode(photo, quality=quality, model=base_model)
        jpeg = jpeg_of_size(Image.fromarray(photo), len(data))
        assert psnr(codec.decode(data, model=base_model), photo) > psnr(jpeg, photo) + 0.8


def test_targets(base_model, photo):
    crop = photo[:192, :256]
    data = codec.encode(crop, target_bytes=4000, model=base_model)
    assert 3800 < len(data) <= 4000
    data = codec.encode(crop, target_bpp=0.8, model=base_model)
    assert 0.76 < 8 * len(data) / (192 * 256) <= 0.8
    assert len(codec.encode(crop[:16, :16], target_bpp=1e308, model=base_model)) > 100  # no limit
    data = codec.encode(crop, target_psnr=33.0, model=base_model)
    assert 33.0 <= psnr(codec.decode(data, model=base_model), crop) < 33.2
    with pytest.raises(ImageError, match="cannot be reached"):
        codec.encode(crop, target_bytes=60, model=base_model)
    with pytest.raises(ImageError, match="cannot be reached"):
        codec.encode(crop, target_psnr=90, model=base_model)
    with pytest.raises(ValueError, match="only one"):
        codec.encode(crop, target_psnr=30, target_bytes=1000, model=base_model)


def test_effort_1_is_the_default_and_others_are_refused(small_model, photo):
    crop = photo[:40, :50]
    assert codec.encode(crop, effort=1, model=small_model) == codec.encode(crop, model=small_model)
    assert codec.encode(crop, effort=2, model=small_model) != codec.encode(crop, model=small_model)
    for effort in (0, 11, -1, 2.5, "3", None):
        with pytest.raises(ArgumentError, match="effort"):
            codec.encode(crop, effort=effort, model=small_model)


def test_targets_hold_with_effort_and_use_what_the_search_wins(base_model, photo):
    crop = photo[80:176, 180:276]
    plain, searched = (codec.encode(crop, target_bytes=1200, effort=e, model=base_model) for e in (1, 2))
    assert 1140 < len(searched) <= 1200
    assert psnr(codec.decode(searched, model=base_model), crop) > psnr(codec.decode(plain, model=base_model), crop)
    plain, searched = (codec.encode(crop, target_psnr=32.0, effort=e, model=base_model) for e in (1, 2))
    assert 32.0 <= psnr(codec.decode(searched, model=base_model), crop) < 32.2
    assert len(searched) < len(plain)
    with pytest.raises(ImageError, match="cannot be reached"):
        codec.encode(crop, target_bytes=60, effort=2, model=base_model)


def test_measured_tables_make_smaller_files(small_model, photo):
    tables = measured_tables(small_model, [photo[:256, :256]])
    arrays = {f"tables.{name}": getattr(tables, name) for name in ("frequencies", "offsets", "lengths")}
    measured = Model(small_model.config, {**small_model.arrays, **arrays})
    sizes = [len(codec.encode(photo[256:], model=model, quality=60)) for model in (small_model, measured)]
    assert sizes[1] < sizes[0]
    assert codec.decode(codec.encode(photo[256:], model=measured), model=measured).size == (512, 256)


@pytest.mark.parametrize("quality", [0, 101, float("nan"), -5])
def test_quality_out_of_range(quality, photo, small_model):
    with pytest.raises(ValueError, match="1 to 100"):
        codec.encode(photo, quality=quality, model=small_model)


def test_same_bytes_in_other_processes_and_with_1_or_2_threads(base_model, photo):
    program = (
        "import sys, hashlib, torch; torch.set_num_threads(int(sys.argv[1]));"
        "import neurocodec;"
        "print(hashlib.sha256(b''.join(neurocodec.encode(sys.argv[2], quality=q) for q in (10, 50, 90))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, threads, str(PHOTO)], capture_output=True, text=True, check=True
        ).stdout
        for threads in ("1", "2", "2")
    }
    here = hashlib.sha256(b"".join(codec.encode(photo, quality=q, model=base_model) for q in (10, 50, 90))).hexdigest()
    assert digests == {here + "\n"}


def test_autocast_of_the_caller_does_not_change_the_picture(base_model, photo):
    data = codec.encode(photo[:128, :128], model=base_model)
    plain = np.asarray(codec.decode(data, model=base_model)).astype(int)
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.encode(photo[:128, :128], model=base_model) == data
        assert (np.asarray(codec.decode(data, model=base_model)).astype(int) - plain == 0).all()


def outcome(data, model):
    """The decoded picture's bytes, or the type of a typed error; anything else is a failure."""
    try:
        return np.asarray(codec.decode(data, model=model)).tobytes()
    except NeurocodecError as error:
        return type(error)


def test_every_truncation_is_a_typed_error(small_model):
    data = (GOLDEN / "valid" / "photo-37x23-q500.nic").read_bytes()
    for length in range(len(data)):
        assert isinstance(outcome(data[:length], small_model), type)


def test_every_changed_byte_is_a_typed_error_or_the_same_picture(small_model):
    data = (GOLDEN / "valid" / "photo-37x23-q500.nic").read_bytes()
    same = outcome(data, small_model)
    for offset in range(len(data)):
        for value in set(range(256)) - {data[offset]}:
            changed = outcome(data[:offset] + bytes([value]) + data[offset + 1 :], small_model)
            assert isinstance(changed, type) or changed == same


def test_forged_streams_with_valid_checksums_are_typed_errors(small_model):
    """Past the container's checksums: any stream of bytes must end in an error, or be the right one."""
    nic = container.read((GOLDEN / "valid" / "photo-37x23-q500.nic").read_bytes())
    rng = np.random.default_rng(0)
    stream = nic.tiles[0].stream
    for trial in range(200):
        forged = bytearray(stream)
        for _ in range(1 + trial % 4):
            forged[rng.integers(len(forged))] = rng.integers(256)
        if trial % 5 == 0:
            forged = bytearray(rng.bytes(int(rng.integers(0, 200))))
        tile = container.Tile(bytes(forged), nic.tiles[0].symbols_crc)
        data = container.write(container.NicFile(nic.header, nic.chunks, (tile,)))
        assert isinstance(outcome(data, small_model), type) or bytes(forged) == stream


@pytest.mark.parametrize(("width", "height", "edge"), [(4097, 1, None), (3, 60000, None), (9000, 9000, 8192)])
def test_giant_tiles_are_refused_before_memory_is_taken(small_model, width, height, edge):
    header = container.Header(width, height, 480, small_model.model_id, tile_edge=edge)
    rows, columns = container.tile_grid(header)
    data = container.write(container.NicFile(header, {}, (container.Tile(b"", 0),) * (rows * columns)))
    with pytest.raises(NicFormatError, match="4096"):
        codec.decode(data, model=small_model)


def test_a_forged_file_of_268_megapixels_is_refused_from_its_header(base_model):
    """It once ran for minutes: the streams of its tiles are sound, and the same."""
    one = container.read(codec.encode(np.full((1024, 1024, 3), 128, np.uint8), quality=1, model=base_model))
    header = container.Header(2**14, 2**14, one.header.quality_index, base_model.model_id, tile_edge=1024)
    z_streams = container.tile_records(one, container.Z_STREAMS) * 256
    chunks = {container.Z_STREAMS: container.join_records(z_streams)} if any(z_streams) else {}
    data = container.write(container.NicFile(header, chunks, one.tiles * 256))
    assert len(data) < 2**18
    codec.network_of(base_model)
    tracemalloc.start()
    with pytest.raises(NicFormatError, match="16384 x 16384 pixels, more than the limit of 134217728: decode regions"):
        codec.decode(data, model=base_model)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    for region, limit in (((5000, 7000, 30, 20), 600), ((0, 16383, 16384, 1), 16384)):
        with pytest.raises(NicFormatError, match=f"more than the limit of {limit - 1}"):
            codec.decode(data, model=base_model, region=region, max_pixels=limit - 1)
    assert codec.decode(data, model=base_model, region=(5000, 7000, 30, 20), max_pixels=600).size == (30, 20)


def test_giant_pictures_are_refused_before_memory_is_taken(small_model):
    header = container.Header(2**15, 2**14, 480, small_model.model_id, tile_edge=1024)
    data = container.write(container.NicFile(header, {}, (container.Tile(b"", 0),) * (32 * 16)))
    with pytest.raises(NicFormatError, match="regions"):
        codec.decode(data, model=small_model)
    with pytest.raises(TruncatedError):  # the empty stream of the first tile
        codec.decode(data, model=small_model, max_pixels=2**29)
    with pytest.raises(TruncatedError):  # the empty stream of the one tile that is needed
        codec.decode(data, model=small_model, region=(0, 0, 10, 10))


@pytest.mark.parametrize("gray", [False, True])
def test_pixels_do_not_depend_on_which_tiles_are_in_memory(small_model, photo, monkeypatch, gray):
    """Of a picture of 4 x 2 tiles, each region is a part of the whole, and the whole is that of all latents at once."""
    monkeypatch.setattr(tiling, "tile_edge", lambda height, width: 256)
    source = np.concatenate([photo, photo[::-1, :, ::-1]])[:900, :400]
    picture = image.load(source[:, :, 0] if gray else source)
    nic = container.read(codec.encode_picture(picture, small_model, 700))
    assert len(nic.tiles) == 8
    whole = codec.decode_picture(nic, small_model).rgb
    latents = codec.decode_latents(nic, small_model)
    y_hat = np.concatenate([np.concatenate([latents[2 * r].y_hat, latents[2 * r + 1].y_hat], 1) for r in range(4)])
    correct = tiles.filter_of(nic)
    assert correct
    at_once = correct(codec.network_of(small_model).synthesise(y_hat, 700, 16), 8)[:900, :400]
    expected = codec.picture_of(nic, at_once.copy(), None).rgb
    np.testing.assert_array_equal(whole, expected)
    for region in ((0, 0, 400, 900), (250, 500, 20, 30), (0, 767, 300, 2), (255, 0, 1, 900), (399, 899, 1, 1)):
        x, y, width, height = region
        part = codec.decode_picture(nic, small_model, region=region).rgb
        np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])


FORK = """
import os, sys
import numpy as np
import neurocodec
from neurocodec import codec
from neurocodec.model import load
pixels = np.arange(300 * 300 * 3).reshape(300, 300, 3).astype(np.uint8)
data = neurocodec.encode(pixels, model=load(sys.argv[1]))
child = os.fork()
again = neurocodec.encode(pixels, model=load(sys.argv[1]))
shown = neurocodec.decode(again, model=load(sys.argv[1])).size
if not child:
    os._exit(0 if again == data else 1)
assert os.waitpid(child, 0)[1] == 0 and again == data
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_after_use_with_two_threads_codes_on():
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", FORK, str(SMALL_MODEL)], check=True, env=environment, timeout=60)


def test_a_region_of_a_picture_with_alpha_does_not_decode_the_rows_below(small_model, photo):
    rgba = np.dstack([photo[:64, :64], photo[:64, :64, 0]])
    nic = container.read(codec.encode(rgba, model=small_model))
    damaged = container.NicFile(nic.header, {container.ALPHA: nic.chunks[container.ALPHA][:-40]}, nic.tiles)
    with pytest.raises(NicFormatError, match="alpha plane"):
        codec.decode_picture(damaged, small_model)
    whole = codec.decode_picture(nic, small_model)
    part = codec.decode_picture(nic, small_model, region=(3, 5, 20, 30))
    np.testing.assert_array_equal(part.alpha, whole.alpha[5:35, 3:23])
    np.testing.assert_array_equal(part.alpha, rgba[5:35, 3:23, 3])


def test_a_file_of_an_unknown_model_names_it(photo, small_model):
    data = codec.encode(photo[:20, :20], model=small_model)
    with pytest.raises(ModelNotFoundError, match=small_model.model_id.hex()):
        neurocodec.decode(data)


def test_another_model_than_the_file_s_is_refused(photo, small_model):
    """Also one that decodes the same latents: it would show another picture."""
    arrays = {name: value.copy() for name, value in small_model.arrays.items()}
    arrays["g_s.head.weight"] += 1
    other = Model(small_model.config, arrays)
    data = codec.encode(photo[:20, :20], model=small_model)
    for decode in (codec.decode_picture, codec.decode_latents):
        with pytest.raises(ModelMismatchError, match=f"needs model {small_model.model_id.hex()}"):
            decode(container.read(data), other)
    with pytest.raises(ModelMismatchError):
        codec.decode(data, model=other)


def test_the_models_of_a_folder_are_found(photo, small_model, monkeypatch):
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(GOLDEN / "model"))
    data = neurocodec.encode(photo[:20, :20], model="small")
    assert neurocodec.decode(data).size == (20, 20)


def test_paths_and_errors_of_the_api(tmp_path, photo, base_model):
    source, target = tmp_path / "a.png", tmp_path / "a.nic"
    Image.fromarray(photo[:32, :48]).save(source)
    target.write_bytes(neurocodec.encode(source))
    assert neurocodec.decode(target).size == (48, 32)
    assert neurocodec.info(str(target)).width == 48
    with pytest.raises(NicFormatError, match="cannot read"):
        neurocodec.decode(tmp_path / "none.nic")
    with pytest.raises(NicFormatError, match=r"cannot read 'a\\x00\.nic'"):
        neurocodec.info("a\0.nic")
    with pytest.raises(NicFormatError, match="PNG"):
        neurocodec.decode(source)
    with open(target, "rb") as file, pytest.raises(TypeError):
        neurocodec.decode(file.fileno())
    with pytest.raises(ImageError):
        neurocodec.encode(tmp_path / "none.png")
    assert neurocodec.decode(target, realism=0.5).size == (48, 32)


@pytest.mark.parametrize("kind", ["flat", "noise", "text", "gradient", "saturated"])
def test_unusual_pictures_degrade_gracefully(kind, base_model):
    rng = np.random.default_rng(1)
    source = np.full((128, 128, 3), 77, np.uint8)
    if kind == "noise":
        source = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    if kind == "text":
        source = np.repeat((rng.random((128, 128, 1)) < 0.2).astype(np.uint8) * 255, 3, axis=2)
    if kind == "gradient":
        source = np.repeat(np.tile(np.arange(128, dtype=np.uint8) * 2, (128, 1))[:, :, None], 3, axis=2)
    if kind == "saturated":
        source[:64] = (255, 0, 255)
        source[64:] = (0, 255, 0)
    low, high = (
        np.asarray(codec.decode(codec.encode(source, quality=q, model=base_model), model=base_model)) for q in (5, 95)
    )
    spread = max(psnr(np.broadcast_to(source.mean((0, 1)).round(), source.shape), source), 5.0)
    assert psnr(high, source) >= psnr(low, source) - 0.5
    assert kind == "flat" or psnr(low, source) > min(spread, 40) - 1.0  # never worse than the mean colour
    assert psnr(high, source) > {"flat": 40, "noise": 11, "text": 14, "gradient": 38, "saturated": 30}[kind]
