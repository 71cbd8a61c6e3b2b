"""The encoder that searches: what it promises about cost, windows, determinism and the caller's state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurocodec import codec, container, image, tiling
from neurocodec.models import search


def cost(data, source, networks, index):
    """Bits of the file + λ · squared error of the decoded picture, by the channel."""
    decoded = codec.decode_picture(container.read(data), networks).rgb.astype(float)
    error = np.square(decoded - image.load(source).rgb).sum() / 3
    return 8 * len(data) + networks.config.lmbda(index / 64) * error


def costs(source, networks, index, effort=2):
    """Of effort 1 and of a search."""
    picture = image.load(source)
    return [cost(codec.encode_picture(picture, networks, index, e), source, networks, index) for e in (1, effort)]


def pictures(photo):
    rng = np.random.default_rng(0)
    return {
        "photo": photo[100:150, 200:270],
        "pixel": photo[:1, :1],
        "flat": np.full((40, 33, 3), 77, np.uint8),
        "noise": rng.integers(0, 256, (48, 32, 3), dtype=np.uint8),
        "gray": photo[100:150, 200:270, 0],
        "alpha": np.dstack([photo[:40, :60], rng.integers(0, 256, (40, 60), dtype=np.uint8)]),
    }


@pytest.mark.parametrize("kind", ["photo", "pixel", "flat", "noise", "gray", "alpha"])
@pytest.mark.parametrize("index", [100, 600])
def test_a_search_never_raises_the_cost(kind, index, small_model, photo):
    before, after = costs(pictures(photo)[kind], small_model, index)
    assert after <= before


@pytest.mark.parametrize("index", [200, 700])
def test_a_search_with_the_shipped_model_lowers_the_cost(index, base_model, photo):
    before, after = costs(photo[80:176, 180:276], base_model, index)
    assert after < 0.998 * before


def test_the_file_is_an_ordinary_one(small_model, photo):
    picture = image.load(pictures(photo)["alpha"])
    nic = container.read(codec.encode_picture(picture, small_model, 500, 2))
    assert nic.header == container.read(codec.encode_picture(picture, small_model, 500)).header
    decoded = codec.decode_picture(nic, small_model)  # verifies the checksum of the latents
    assert (decoded.alpha == picture.alpha).all()
    part = codec.decode_picture(nic, small_model, region=(5, 7, 20, 16))
    assert np.abs(part.rgb.astype(int) - decoded.rgb[7:23, 5:25]).max() <= 1


def test_tiles_and_windows_within_them_are_searched_too(base_model, photo, monkeypatch):
    source, index = photo[60:110, 100:400], 400
    _, whole = costs(source, base_model, index)
    monkeypatch.setattr(search, "EDGE", 64)
    before, windows = costs(source, base_model, index)
    assert windows < 0.998 * before
    assert windows == pytest.approx(whole, rel=0.01)
    monkeypatch.setattr(tiling, "tile_edge", lambda height, width: 256)
    before, tiles = costs(source, base_model, index)
    assert tiles < 0.998 * before


def test_the_same_bytes_each_time_and_random_states_stay(small_model, photo):
    picture = image.load(photo[:64, :64])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = codec.encode_picture(picture, small_model, 500, 2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert codec.encode_picture(picture, small_model, 500, 2) == first
    with torch.inference_mode():
        assert codec.encode_picture(picture, small_model, 500, 2) == first


def test_progress_rises_to_one(small_model, photo, monkeypatch):
    monkeypatch.setattr(tiling, "tile_edge", lambda height, width: 256)
    shares: list[float] = []
    codec.encode_picture(image.load(photo[:40, :300]), small_model, 500, 2, progress=shares.append)
    assert shares == sorted(set(shares))
    assert shares[0] > 0
    assert shares[-1] == pytest.approx(1)


def test_more_effort_takes_more_steps():
    assert list(search.STEPS) == list(range(2, 11))
    assert list(search.STEPS.values()) == sorted(set(search.STEPS.values()))


@pytest.mark.parametrize("row", [0, 7, 40, 63])
def test_costs_are_those_of_the_tables(row, base_model):
    tables = base_model.tables
    table = search.costs_of(tables)
    reach = table.shape[1] // 2
    for symbol in (0, 1, -1, 5, -40, 70, -200, reach, -reach):
        bits = tables.bits(np.array([symbol], np.int32), np.array([row], np.uint8))
        assert table[row, symbol + reach] == pytest.approx(bits, abs=0.01)
