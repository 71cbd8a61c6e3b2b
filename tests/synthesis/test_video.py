"""Motion in integers, sequences that decode exactly, hostile files, and the training of the model of residuals."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import GOLDEN, PHOTO, SMALL_MODEL
from PIL import Image
from synthesis.systems import COMMON, interrupted_at, rows

from neurocodec import errors
from neurocodec import model as model_files
from neurocodec.cli.main import main
from neurocodec.metrics import psnr
from neurocodec.synthesis import frames as sequences
from neurocodec.synthesis import motion, nicv, sequence
from neurocodec.synthesis.system import load_config, resumed_config
from neurocodec.synthesis.video import Settings, Video, moving, warp
from neurocodec.training import checkpoint
from neurocodec.training.loop import train

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def panned():
    """Four frames of 80 × 56 pixels, over which the camera moves 2 to the right and 1 down; uint8 (4, 56, 80, 3)."""
    photo = Image.open(PHOTO).convert("RGB").crop((180, 60, 300, 150))
    return np.stack([np.asarray(photo.crop((2 * t, t, 2 * t + 80, t + 56))) for t in range(4)])


@pytest.fixture
def small_installed(monkeypatch):
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(SMALL_MODEL.parent))


# ---------------------------------------------------------------------------------------------------- motion


def test_filters_keep_flat_pictures_and_are_those_of_hevc():
    assert (motion.FILTERS.sum(1) == 64).all()
    assert np.array_equal(motion.FILTERS[1][:7], motion.FILTERS[3][:0:-1])
    flat = np.full((20, 20, 3), 77, np.uint8)
    vectors = RNG.integers(-99, 99, (20, 20, 2)).astype(np.int32)
    assert (motion.Reference(flat).shifted(vectors) == 77).all()


def test_whole_vectors_copy_pixels_and_half_vectors_interpolate():
    frame = RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    reference = motion.Reference(frame)
    copied = reference.predict(np.full((2, 3, 2), [-4 * 2, 4 * 3], np.int32))
    assert np.array_equal(copied[2:, :-3], frame[:-2, 3:])
    half = reference.shifted(np.full((32, 48, 2), [0, 2], np.int32))
    taps = np.array([-1, 4, -11, 40, 40, -11, 4, -1])
    expected = (int(frame[10, 17:25, 1].astype(int) @ taps) + 32) >> 6
    assert half[10, 20, 1] == np.clip(expected, 0, 255)


def test_blocks_blend_between_their_centres():
    """Two blocks, one of which moves by 32 pixels: the weight of its vector rises in steps of 2 / 32 from centre to
    centre, in half pixels, from 1 / 32 on."""
    frame = np.zeros((16, 64, 3), np.uint8)
    frame[:, 32:] = 255
    vectors = np.array([[[0, 0], [0, 4 * 32], [0, 4 * 32], [0, 4 * 32]]], np.int32)
    predicted = motion.Reference(frame).predict(vectors)[0, :, 0]
    assert (predicted[:8] == 0).all()
    assert predicted[8:24].tolist() == [(255 * (2 * k + 1) * 32 + 512) >> 10 for k in range(16)]
    assert (predicted[24:] == 255).all()


def test_the_search_finds_the_camera(panned):
    vectors = motion.search(panned[1], motion.Reference(panned[0]), panned[0], 2.0)
    assert vectors.shape == (4, 5, 2)
    assert np.median(vectors.reshape(-1, 2), axis=0).tolist() == [4, 8]
    predicted = motion.Reference(panned[0]).predict(vectors)
    assert psnr(predicted, panned[1]) > psnr(panned[0], panned[1]) + 6


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 1, 30, 2048]), st.integers(0, 99))
def test_vectors_come_back(height, width, largest, seed):
    tables = model_files.load(SMALL_MODEL).tables
    shape = (*motion.blocks_of(height, width), 2)
    vectors = np.random.default_rng(seed).integers(-largest, largest + 1, shape).astype(np.int32)
    data = motion.encode_vectors(vectors, tables)
    assert np.array_equal(motion.decode_vectors(data, height, width, tables), vectors)


def test_still_frames_cost_nearly_nothing(base_model):
    assert len(motion.encode_vectors(np.zeros((30, 40, 2), np.int32), base_model.tables)) <= 6
    assert len(motion.encode_vectors(np.full((30, 40, 2), 37, np.int32), base_model.tables)) <= 13


def test_table_rows_follow_the_differences_above():
    """Sums of 0, 1, 2 or 3, 4 ... start an octave, six rows each."""
    above = np.array([[0, 0], [0, 1], [0, 2], [9, 0]], np.int32)
    assert motion._table_rows(above, 4).T.tolist() == [[4, 4, 4 + 24, 4 + 24], [4 + 6, 4 + 12, 4 + 12, 4 + 12]]
    assert motion._table_rows(np.full((1, 2), 10**9, np.int32), 44).max() == 63


def test_damaged_vectors_are_refused(small_model):
    tables = small_model.tables
    for data in (b"", b"\x03abc", b"\x04"):
        with pytest.raises(errors.NicFormatError):
            motion.decode_vectors(data, 32, 32, tables)
    long = motion.encode_vectors(np.full((2, 2, 2), motion.MAX_VECTOR + 1, np.int32), tables)
    with pytest.raises(errors.NicFormatError, match="longer than 512 pixels"):
        motion.decode_vectors(long, 32, 32, tables)


# ---------------------------------------------------------------------------------------------------- sequences


@pytest.mark.usefixtures("small_installed")
def test_frames_decode_as_the_encoder_saw_them(panned):
    data = sequence.encode(panned, quality=90, gop=3, model=SMALL_MODEL, residual_model=SMALL_MODEL)
    decoded = list(sequence.decode(data))
    assert np.stack(decoded).shape == panned.shape
    header, records = nicv.read(data)
    assert (header.width, header.height, header.frames, header.rate) == (80, 56, 4, (25, 1))
    assert [record.kind for record in records][::3] == [nicv.INTRA, nicv.INTRA]
    again = sequence.encode(panned, quality=90, gop=3, model=SMALL_MODEL, residual_model=SMALL_MODEL)
    assert again == data
    for t, record in enumerate(records):  # each frame by its definition
        if record.kind == nicv.PREDICTED:
            vectors, residual = nicv.unpack_predicted(record.payload)
            field = motion.decode_vectors(vectors, 56, 80, model_files.load(SMALL_MODEL).tables)
            predicted = motion.Reference(decoded[t - 1]).predict(field)
            assert residual is not None or np.array_equal(predicted, decoded[t])


def test_predicted_frames_keep_z_in_their_streams():
    """Alone, a picture as smooth as the residual of these two would have z in a chunk, and a frame has no chunks."""
    y, x = np.mgrid[0:240, 0:320]
    frame = np.stack([120 + 60 * np.sin(x / 90 + c) + 40 * np.cos(y / 70) for c in range(3)], 2).astype(np.uint8)
    frames = [frame, frame + np.uint8(6)]
    decoded = list(sequence.decode(sequence.encode(frames, quality=60, gop=2)))
    assert all(psnr(a, b) > 30 for a, b in zip(frames, decoded, strict=True))


@pytest.mark.usefixtures("small_installed")
def test_the_golden_sequence_decodes_to_the_same_frames():
    data = (GOLDEN / "video" / "moved.nicv").read_bytes()
    expected = json.loads((GOLDEN / "video" / "expected.json").read_text())
    frames = np.stack(list(sequence.decode(data)))
    assert [*frames.shape] == expected["shape"]
    assert hashlib.sha256(frames.tobytes()).hexdigest() == expected["sha256"]
    header, records = nicv.read(data)
    assert nicv.write(header, records) == data
    residuals = [nicv.unpack_predicted(record.payload)[1] for record in records if record.kind == nicv.PREDICTED]
    assert [residual is not None for residual in residuals] == [False, True, False]


def test_prediction_pays_with_the_shipped_model(panned, base_model):
    """On a pan, a sequence is smaller than its frames one by one, at no less quality."""
    data = sequence.encode(panned, quality=40, model=base_model)
    alone = sequence.encode(panned, quality=40, gop=1, model=base_model)
    assert len(data) < 0.6 * len(alone)
    decoded, others = np.stack(list(sequence.decode(data))), np.stack(list(sequence.decode(alone)))
    assert psnr(decoded, panned) > psnr(others, panned) - 0.3
    assert {record.kind for record in nicv.read(alone)[1]} == {nicv.INTRA}


@pytest.mark.usefixtures("small_installed")
def test_hostile_files_end_in_typed_errors(panned):
    data = sequence.encode(panned[:2], quality=60, model=SMALL_MODEL, residual_model=SMALL_MODEL)
    header, (first, _) = nicv.read(data)
    other = nicv.Record(nicv.INTRA, nicv.read(sequence.encode(panned[:1, :40], model=SMALL_MODEL))[1][0].payload)
    for payload in (b"", b"\0\0\0\0", struct.pack("<I", 2) + b"\0\0", struct.pack("<I", 4) + bytes(9)):
        with pytest.raises(errors.NicFormatError):
            list(sequence.decode(nicv.write(header, [first, nicv.Record(nicv.PREDICTED, payload)])))
    with pytest.raises(errors.NicFormatError, match="frame 1 is 80×40"):
        list(sequence.decode(nicv.write(header, [first, other])))
    with pytest.raises(errors.NicFormatError):
        list(sequence.decode(nicv.write(header, [first, nicv.Record(nicv.INTRA, b"no picture")])))
    unknown = dataclasses.replace(header, model_id=bytes(8))
    with pytest.raises(errors.ModelNotFoundError):
        list(sequence.decode(nicv.write(unknown, nicv.read(data)[1])))


def test_frames_that_do_not_fit_are_refused(panned):
    for wrong, words in (
        ([], "no frames"),
        ([panned[0], panned[1, :40]], "frame 1 is of shape"),
        ([panned[0].astype(float)], "expected uint8"),
        ([np.zeros((8, 2049, 3), np.uint8)], "sides up to 2048"),
    ):
        with pytest.raises(errors.ImageError, match=words):
            sequence.encode(wrong, model=SMALL_MODEL, residual_model=SMALL_MODEL)
    with pytest.raises(errors.ArgumentValueError, match="gop"):
        sequence.encode(panned, gop=0)


def test_the_command_codes_animations_and_folders(tmp_path, panned, capsys):
    folder, movie, back = tmp_path / "frames", tmp_path / "pan.nicv", tmp_path / "back.png"
    empty = tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    for t, frame in enumerate(panned[:2]):
        Image.fromarray(frame).save(folder / f"{t}.png")
    assert sequences.write(str(tmp_path / "pan.webp"), iter(panned), Fraction(50)) == 4
    frames, rate = sequences.read(str(tmp_path / "pan.webp"))
    assert np.array_equal(np.stack(list(frames)), panned)
    assert rate == 50

    assert main(["synth", "apply", "video", str(folder), "-o", str(movie), "quality=30"]) == 0
    assert capsys.readouterr().out.startswith(f"{movie}: 2 frames, {movie.stat().st_size} bytes, ")
    assert main(["synth", "apply", "video", str(movie), "-o", str(back)]) == 0
    decoded = np.stack(list(sequences.read(str(back))[0]))
    assert np.array_equal(decoded, np.stack(list(sequence.decode(movie.read_bytes()))))
    for source, output in ((folder, "x.png"), (movie, "x.jpg"), (empty, "x.nicv"), (movie, back), ("no", "x.nicv")):
        assert main(["synth", "apply", "video", str(source), "-o", str(tmp_path / output)]) == 1
        assert not (tmp_path / "x.nicv").exists()


# ---------------------------------------------------------------------------------------------------- training


def test_moving_crops_come_back_where_the_flow_points():
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(4, 3, 12, 12), (96, 96), mode="bicubic").clamp(0, 1)
    first, flow = moving(x, Settings(shift=6.0, zoom=0.02))
    assert flow.shape == (4, 96, 96, 2)
    inside = (slice(None), slice(None), slice(24, -24), slice(24, -24))
    error = (warp(first, flow)[inside] - x[inside]).square().mean((1, 2, 3)).sqrt()
    still = (first[inside] - x[inside]).square().mean((1, 2, 3)).sqrt()
    assert (error < 0.5 * still).all()
    shifted = warp(x, torch.tensor([2.0, -1.0]).expand(4, 96, 96, 2))
    assert torch.allclose(shifted[..., 1:, :-2], x[..., :-1, 2:], atol=1e-5)


def test_trains_is_interrupted_goes_on_and_codes(tmp_path, pictures, panned):
    path = tmp_path / "video.toml"
    values = {"folder": pictures, "crop": 64, "batch": 2, "data": "", "training": "", "system": "video"}
    path.write_text(COMMON.format(**values, settings=f'init_from = "{SMALL_MODEL}"'))
    config = load_config(Video, str(path), [])
    model = train(config, tmp_path / "whole", Video)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", interrupted_at("video", 13))
    again = resumed_config(Video, str(tmp_path / "parts"), [])
    assert again == config
    other = train(again, tmp_path / "parts", Video, resume=True)
    ours, theirs = model_files.load(model).arrays, model_files.load(other).arrays
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    assert checkpoint.read(tmp_path / "parts")["state"]["step"] == 20

    assert [row["step"] for row in rows(tmp_path / "whole", "loss")] == [5, 10, 15, 20]
    figures = [row["validation"] for row in rows(tmp_path / "whole", "validation")]
    assert {"bpp", "start_bpp", "psnr", "start_psnr"} <= set(figures[0])
    assert Image.open(tmp_path / "whole" / "sheets" / "0000020.png").size[0] == 5 * 64

    trained = model_files.load(model)
    assert trained.model_id != model_files.load(SMALL_MODEL).model_id
    data = sequence.encode(panned[:2], model="base", residual_model=model)
    assert nicv.read_header(data).model_id == trained.model_id
    assert len(list(sequence.decode(data, residual_model=trained))) == 2
    with pytest.raises(errors.ModelNotFoundError):
        list(sequence.decode(data))
    with pytest.raises(errors.ModelMismatchError):
        list(sequence.decode(data, residual_model=model_files.load("base")))
    with pytest.raises(errors.ConfigError, match=r"video\.init_from"):
        train(load_config(Video, str(path), ["video.init_from=nosuch"]), tmp_path / "no", Video)
    assert json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[0])["system"] == "video"
