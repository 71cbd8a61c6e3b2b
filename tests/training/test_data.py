"""Training pictures: the cache, crops, batches that depend on nothing but seed and step."""

from __future__ import annotations

import dataclasses
import resource

import numpy as np
import pytest
import torch
from PIL import Image

from neurocodec.errors import ConfigError, OutputError
from neurocodec.training import data, synthetic
from neurocodec.training.config import Config, DataConfig, TrainingConfig
from neurocodec.training.data import (
    Batches,
    Crops,
    Pictures,
    decoded,
    find_images,
    open_pictures,
    recolour,
)
from neurocodec.training.distributed import Processes
from neurocodec.training.schedule import stages

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    """Six pictures of 100 × 120 and two of 200 × 150 whose blue says which they are, a broken one and a small one."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub").mkdir()
    for i in range(8):
        picture = photo[i * 40 : i * 40 + (100 if i < 6 else 200), i * 40 : i * 40 + (120 if i < 6 else 150)].copy()
        picture[..., 2] = i
        Image.fromarray(picture).save(folder / ("sub" if i % 2 else ".") / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    Image.fromarray(photo[:10, :10]).save(folder / "small.png")
    return folder


@pytest.fixture
def photographs(folder, tmp_path):
    return decoded(find_images(folder), tmp_path / "cache", min_side=64, source="the folder")


CONFIG = Config(
    data=DataConfig(
        crop=64, final_crop=128, final_crop_share=0.5, drawn_share=0.0, magnified_share=0.0, recoloured_share=0.0
    ),
    training=TrainingConfig(steps=8, batch=8, seed=5),
)


def batches(photographs, config=CONFIG, processes=None, *, step=0, count=None):
    source = Batches(Pictures({"": photographs}, photographs), config, processes or Processes(CPU), step)
    steps = range(step, config.training.steps if count is None else step + count)
    return [source.next(step / config.training.steps) for step in steps]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_photographs_are_decoded_once_and_again_when_they_change(folder, tmp_path):
    paths = find_images(folder)

    def decode(paths, min_side=64):
        return decoded(paths, tmp_path, min_side=min_side, source="the folder")

    first = decode(paths)
    assert len(first) == 8
    stamp = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert (decode(paths)[3] == first[3]).all()
    assert stamp == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(decode(paths[:3])) < 8
    next(tmp_path.glob("*.u8")).unlink()
    assert (decode(paths)[3] == first[3]).all()
    files = set(tmp_path.iterdir())
    with pytest.raises(
        ConfigError, match="the folder: of its 10 pictures, 0 can be decoded and have sides of at least 500"
    ):
        decode(paths, min_side=500)
    assert set(tmp_path.iterdir()) == files


@pytest.mark.parametrize("name", ["", "nosuch"])
def test_folders_that_are_none(name, tmp_path):
    """The empty name is not the folder that the command happens to run in."""
    with pytest.raises(ConfigError, match=f"data.folder is '{name}', which is not a folder"):
        open_pictures(DataConfig(folder=name), tmp_path)


@pytest.mark.parametrize("count", [0, 1])
def test_one_picture_is_too_few(photo, tmp_path, count):
    for i in range(count):
        Image.fromarray(photo[:100, :100]).save(tmp_path / f"{i}.png")
    with pytest.raises(
        ConfigError, match=rf"data.folder is .*: of its {count} pictures, {count} can .*, and training needs two"
    ):
        open_pictures(DataConfig(folder=str(tmp_path), crop=64), tmp_path / "run")


@pytest.mark.parametrize("good", [2, 5, 39])
@pytest.mark.parametrize("first", [True, False])
def test_one_unusable_picture_does_not_refuse_a_good_folder(photo, tmp_path, good, first):
    """Held-out pictures are chosen among those that can be decoded and are large enough: every 40th, the first too."""
    for i in range(good):
        Image.fromarray(photo[: 70 + i, :80]).save(tmp_path / f"m{i:02}.png")
    (tmp_path / f"{'a' if first else 'z'}.jpg").write_bytes(b"not a picture")
    Image.fromarray(photo[:10, :10]).save(tmp_path / ("b.png" if first else "y.png"))
    pictures = open_pictures(DataConfig(folder=str(tmp_path), crop=64), tmp_path / "cache")
    assert (len(pictures.held_out), len(pictures.photographs)) == (1, good - 1)


def test_every_format_that_encode_reads_is_trained_on(photo, tmp_path):
    for suffix in ("png", "JPG", "webp", "jp2", "gif", "jfif"):
        Image.fromarray(photo[:80, :80]).save(tmp_path / f"a.{suffix}")
    assert len(find_images(tmp_path)) == 6


@pytest.mark.parametrize("mixed", ["photographs/grain", "photographs/../photographs", "."])
def test_folders_that_share_held_out_pictures_are_refused(photo, tmp_path, monkeypatch, mixed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs" / "grain").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(photo[:80, : 80 + i]).save(tmp_path / "photographs" / "grain" / f"{i}.png")
    settings = DataConfig(folder="photographs", crop=64, mix={mixed: 0.5})
    with pytest.raises(ConfigError, match=r"data\.mix is .*, which shares pictures with 'photographs'"):
        open_pictures(settings, tmp_path / "cache")


def test_an_interrupted_decoding_leaves_nothing(folder, tmp_path, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decoded(find_images(folder), tmp_path, min_side=64, source="the folder")
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written(folder, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"\.u8 cannot be written: File too large"):
            decoded(find_images(folder), tmp_path, min_side=64, source="the folder")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_held_out_pictures_are_not_trained_on(folder, tmp_path):
    settings = DataConfig(folder=str(folder), crop=64, validation_every=3)
    pictures = open_pictures(settings, tmp_path)
    photographs, held_out = pictures.photographs, pictures.held_out
    blue = [{int(picture[0, 0, 2]) for picture in source} for source in (photographs, held_out)]
    assert blue[0] | blue[1] == set(range(8))
    assert not blue[0] & blue[1]


def test_crops_are_cut_from_the_pictures_in_proportion_to_their_area(photographs):
    crops = Crops(photographs, 64)
    drawn = [crops.draw(np.random.default_rng(k)) for k in range(400)]
    assert {crop.shape for crop in drawn} == {(64, 64, 3)}
    large = sum(crop[0, 0, 2] >= 6 for crop in drawn) / 400
    assert large == pytest.approx(60_000 / 132_000, abs=0.08)
    for crop in drawn[:20]:
        picture = photographs[[photographs[i][0, 0, 2] for i in range(8)].index(crop[0, 0, 2])]
        turned = [c for u in (crop, crop.transpose(1, 0, 2)) for c in (u, u[:, ::-1], u[::-1])]
        rows = {window.tobytes() for row in picture for window in np.lib.stride_tricks.sliding_window_view(row, 64, 0)}
        assert any(np.moveaxis(c[0], 0, 1).tobytes() in rows for c in turned)


def test_batches_are_channels_last_and_span_the_qualities(photographs):
    x, quality_index = batches(photographs)[0]
    assert (x.shape, x.dtype) == ((8, 3, 64, 64), torch.uint8)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (quality_index / 15 * 8).floor().tolist() == list(range(8))


def test_batches_depend_on_seed_and_step_alone(photographs):
    whole = batches(photographs)
    assert not same(whole[:1], whole[1:2])
    assert same(whole, batches(photographs))
    many = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, workers=5))
    assert same(whole, batches(photographs, many))
    for step in (2, 4, 6):
        assert same(whole[step:], batches(photographs, step=step))
    other = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, seed=6))
    assert not same(whole[:1], batches(photographs, other, count=1))


def test_processes_share_the_batch_of_one(photographs):
    whole = batches(photographs)
    halves = [batches(photographs, processes=Processes(CPU, rank, 2)) for rank in range(2)]
    for step, (x, quality_index) in enumerate(whole):
        for rank in range(2):
            assert torch.equal(halves[rank][step][0], x[rank::2])
            assert torch.equal(halves[rank][step][1], quality_index[rank::2])


def test_the_last_stage_has_larger_crops_of_large_pictures_and_as_many_pixels(photographs):
    shapes = [tuple(x.shape) for x, _ in batches(photographs)]
    assert shapes == [(8, 3, 64, 64)] * 4 + [(2, 3, 128, 128)] * 4
    drawn = {int(level) for x, _ in batches(photographs)[4:] for level in x[:, 2].unique()}
    assert drawn <= {6, 7}
    by_the_clock = Batches(Pictures({"": photographs}, photographs), CONFIG, Processes(CPU))
    assert [by_the_clock.next(f)[0].shape[2] for f in (0.0, 0.6, 0.6, 0.6, 0.6)] == [64, 64, 64, 64, 128]


def test_stages_of_several_processes():
    data = DataConfig(crop=256, final_crop=384, final_crop_share=0.2)
    config = Config(data=data, training=TrainingConfig(batch=8))
    assert [[stage.images for stage in stages(config, world)] for world in (1, 2, 4, 8)] == [
        [8, 4],
        [8, 4],
        [8, 4],
        [8, 8],
    ]
    with pytest.raises(ConfigError, match="3 processes cannot share"):
        stages(config, 3)
    assert [stage.crop for stage in stages(Config(), 1)] == [256]


def test_pictures_too_small_for_the_last_stage_are_an_error_only_if_all_are(photographs):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, final_crop=256))
    with pytest.raises(ConfigError, match="none of the 8 training pictures has sides of at least 256"):
        Batches(Pictures({"": photographs}, photographs), config, Processes(CPU))
    unused = dataclasses.replace(config, data=dataclasses.replace(config.data, final_crop_share=0.0))
    assert {x.shape[2] for x, _ in batches(photographs, unused)} == {64}


def detail(crop):
    """Mean absolute difference of neighbours: what magnifying takes away."""
    return float(np.abs(np.diff(crop.astype(int), axis=0)).mean() + np.abs(np.diff(crop.astype(int), axis=1)).mean())


def test_magnified_crops_are_smoother(photographs):
    plain = [Crops(photographs, 64).draw(np.random.default_rng(i)) for i in range(30)]
    magnified = [Crops(photographs, 64, magnified=1.0).draw(np.random.default_rng(i)) for i in range(30)]
    assert {crop.shape for crop in magnified} == {(64, 64, 3)}
    assert np.mean([detail(c) for c in magnified]) < 0.8 * np.mean([detail(c) for c in plain])


def test_shares_of_magnified_and_drawn_crops(photographs, monkeypatch):
    monkeypatch.setattr(synthetic, "draw", lambda rng, size, photograph: np.full_like(photograph, 77))
    crops = Crops(photographs, 64, magnified=0.3, drawn=0.4)
    drawn = [(crops.draw(np.random.default_rng(i)) == 77).all() for i in range(600)]
    assert 0.3 < np.mean(drawn) < 0.5
    assert not any((Crops(photographs, 64).draw(np.random.default_rng(i)) == 77).all() for i in range(50))


def test_recoloured_crops_are_of_stronger_and_weaker_colours(photo):
    crop = photo[100:164, 100:164]
    luma = crop @ np.array([0.299, 0.587, 0.114])

    def spread(rgb):
        return np.abs(rgb - rgb.mean(2, keepdims=True)).mean()

    recoloured = [recolour(np.random.default_rng(i), crop) for i in range(60)]
    assert {(c.shape, c.dtype.name) for c in recoloured} == {((64, 64, 3), "uint8")}
    ratios = [spread(c) / spread(crop) for c in recoloured]
    assert min(ratios) < 0.7
    assert max(ratios) > 1.6
    kept = [np.abs(c @ np.array([0.299, 0.587, 0.114]) - luma).mean() < 3 for c in recoloured]
    assert 30 <= sum(kept) < 60  # the others have channels exchanged, or left the range
    assert (recoloured[5] == recolour(np.random.default_rng(5), crop)).all()


def test_a_share_of_the_crops_is_recoloured(photographs, monkeypatch):
    monkeypatch.setattr(data, "recolour", lambda rng, rgb: np.full_like(rgb, 77))
    crops = Crops(photographs, 64, drawn=0.3, recoloured=0.4)
    share = np.mean([(crops.draw(np.random.default_rng(i)) == 77).all() for i in range(400)])
    assert share == pytest.approx(0.7 * 0.4, abs=0.07)


# Several folders


@pytest.fixture
def mixed(tmp_path):
    """Folders of eight pictures each: red ones, and green and blue ones of columns that alternate by one level."""
    columns = np.arange(90, dtype=np.uint8) % 2
    for name, level in {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}.items():
        (tmp_path / name).mkdir()
        for i in range(8):
            picture = np.broadcast_to(np.array(level, np.uint8), (80, 90, 3)) + columns[:, None]
            Image.fromarray(picture + np.uint8(2 * i)).save(tmp_path / name / f"{i}.png")
    mix = {str(tmp_path / "green"): 0.3, str(tmp_path / "blue"): 0.1}
    shares = {"magnified_share": 0.5, "drawn_share": 0.0, "recoloured_share": 0.0}
    return DataConfig(folder=str(tmp_path / "red"), mix=mix, crop=64, validation_every=4, validation_images=2, **shares)


def colour(rgb):
    return int(np.asarray(rgb).reshape(-1, 3).mean(0).argmax())


def crops_of(settings, cache, count=600):
    """Crops of a run's first step, uint8 (64, 64, 3) each."""
    config = Config(data=dataclasses.replace(settings, final_crop=64), training=TrainingConfig(batch=count))
    x, _ = Batches(open_pictures(settings, cache), config, Processes(CPU)).next(0.0)
    return list(x.permute(0, 2, 3, 1).numpy())


def test_folders_provide_their_shares_of_the_crops(mixed, tmp_path):
    colours = [colour(crop) for crop in crops_of(mixed, tmp_path / "run")]
    assert np.bincount(colours) / 600 == pytest.approx([0.6, 0.3, 0.1], abs=0.05)
    training = open_pictures(mixed, tmp_path / "run").training
    assert {folder: len(pictures) for folder, pictures in training.items()} == {
        mixed.folder: 6,
        **dict.fromkeys(mixed.mix, 6),
    }


def test_folders_take_turns(mixed, tmp_path):
    """Green, blue, red, in every process, so that a batch of any number of processes is the same."""
    settings = dataclasses.replace(mixed, in_turn=True, magnified_share=0.0)
    assert [colour(crop) for crop in crops_of(settings, tmp_path / "run", 6)] == [1, 2, 0, 1, 2, 0]
    config = Config(data=dataclasses.replace(settings, final_crop=64), training=TrainingConfig(batch=6))
    pictures = open_pictures(settings, tmp_path / "run")
    for rank in range(2):
        x, _ = Batches(pictures, config, Processes(CPU, rank, 2)).next(0.0)
        assert [colour(crop) for crop in x.permute(0, 2, 3, 1).numpy()] == [1, 2, 0]


def test_large_pictures_are_scaled_down_and_small_ones_stay(folder, tmp_path):
    paths = find_images(folder)
    whole = decoded(paths, tmp_path, min_side=64, source="the folder")
    small = decoded(paths, tmp_path, min_side=64, source="the folder", shorter_side=100)
    assert len(whole) == len(small)
    assert {min(rgb.shape[:2]) for rgb in small} <= {100, *(min(rgb.shape[:2]) for rgb in whole)}
    for before, after in zip(whole, small, strict=True):
        if min(before.shape[:2]) <= 100:
            assert np.array_equal(before, after)
        else:
            assert min(after.shape[:2]) == 100
            expected = Image.fromarray(before).resize(after.shape[1::-1], Image.Resampling.LANCZOS)
            assert np.array_equal(after, expected)


@pytest.mark.parametrize("variation", ["magnified_share", "recoloured_share"])
def test_only_crops_of_the_first_folder_are_varied(mixed, tmp_path, variation):
    data = dataclasses.replace(mixed, **{"magnified_share": 0.0, variation: 1.0})

    def unchanged(crop):
        """Whether neighbours differ by one level and colours are those of the pictures."""
        lines = crop if (crop[0] != crop[0, 0]).any() else crop.transpose(1, 0, 2)
        pure = sorted(crop.reshape(-1, 3).max(0) - crop.max() + 200) == [0, 0, 200]
        return pure and bool((np.abs(np.diff(lines, axis=1)) == 1).all())

    drawn = [crop.astype(int) for crop in crops_of(data, tmp_path / "run")]
    assert np.mean([unchanged(crop) for crop in drawn]) == pytest.approx(0.4, abs=0.05)
    assert all(unchanged(crop) for crop in drawn if colour(crop) != 0) or variation == "recoloured_share"


def test_held_out_pictures_come_from_every_folder(mixed, tmp_path):
    held_out = open_pictures(mixed, tmp_path / "run").held_out
    assert [colour(picture) for picture in held_out] == [0, 0, 1, 2]


def test_batches_of_several_folders_depend_on_seed_and_step_alone(mixed, tmp_path):
    config = dataclasses.replace(CONFIG, data=mixed)
    pictures = open_pictures(mixed, tmp_path / "run")

    def source(step):
        return Batches(pictures, config, Processes(CPU), step)

    whole, half = source(0), source(4)
    batches = [whole.next(step / 8) for step in range(8)]
    assert same(batches[4:], [half.next(step / 8) for step in range(4, 8)])
    assert {colour(x.permute(0, 2, 3, 1)[i]) for x, _ in batches for i in range(8)} == {0, 1, 2}


# Drawn pictures


def test_pages_are_dark_upon_light_or_light_upon_dark():
    pages = [synthetic.page(np.random.default_rng(i), 96).astype(int) for i in range(60)]
    assert {page.shape for page in pages} == {(96, 96, 3)}
    light = sum(np.median(page) > 200 for page in pages)
    assert 35 < light < 58
    assert sum(np.ptp(page) > 60 for page in pages) > 50  # with something written on them that can be read


def test_drawn_pictures_are_varied_and_repeatable(photo):
    photograph = photo[100:164, 100:164]
    before = photograph.copy()
    pictures = [synthetic.draw(np.random.default_rng(i), 64, photograph) for i in range(200)]
    assert (photograph == before).all()
    assert {(p.shape, p.dtype.name) for p in pictures} == {((64, 64, 3), "uint8")}
    assert all((p == synthetic.draw(np.random.default_rng(i), 64, photograph)).all() for i, p in enumerate(pictures))
    assert len({p.tobytes() for p in pictures}) > 180
    colours = [len(np.unique(p.reshape(-1, 3), axis=0)) for p in pictures]
    assert sum(n == 1 for n in colours) > 3  # flat
    assert sum(n == 2 for n in colours) > 20  # patterns
    assert sum(n > 500 for n in colours) > 30  # noise, photographs drawn upon


def test_fine_patterns_are_of_low_contrast():
    for i in range(300):
        pattern = synthetic.pattern(np.random.default_rng(i), 64).astype(int)
        rows, columns = (np.abs(np.diff(pattern, axis=axis)).sum((2, 1 - axis)) > 0 for axis in (0, 1))
        if max(rows.sum(), columns.sum()) > 64 // 4 + 1:  # a change at least every third pixel
            assert np.ptp(pattern, axis=(0, 1)).max() <= 64
