"""Clips, vectors traced through a chain of frames, and networks that learn from them. Needs PyAV for real videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from paths import PHOTO
from PIL import Image
from synthesis.systems import COMMON, interrupted_at, rows

from neurocodec.cli.main import main
from neurocodec.errors import ImageError
from neurocodec.synthesis import clips
from neurocodec.synthesis.action import Action, Networks, Settings, columns, fused
from neurocodec.synthesis.clips import CLASSES, Decoded
from neurocodec.synthesis.system import load_config, resumed_config
from neurocodec.training.loop import train

LIST = np.dtype([(n, np.int32) for n in ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y")])


@pytest.fixture(scope="module")
def photos():
    """Two crops, uint8 (144, 144, 3)."""
    photo = np.asarray(Image.open(PHOTO).convert("RGB"))
    return photo[100:244, 100:244], photo[300:444, 300:444]


def test_blocks_fill_their_pixels_even_beyond_the_border():
    """FFmpeg gives the centre of each block in the frame, and where that came from."""
    moves = np.array([(-1, 16, 16, 11, 6, 8, 8), (-1, 8, 8, 30, 2, 30, 4)], LIST)
    vectors = clips.field_of(moves, 16, 32)
    assert vectors[:16, :16].reshape(-1, 2).tolist() == [[-2, 3]] * 256
    assert vectors[:8, 26:32].reshape(-1, 2).tolist() == [[-2, 0]] * 48
    assert not vectors[8:, 16:].any()


def test_vectors_are_traced_to_the_first_frame():
    """CoViAR, eq. 2, by hand: pixel 5 comes from 3, which came from 4 in the frame before that, less the border."""
    vectors = np.zeros((4, 1, 8, 2), np.int16)
    vectors[1, 0, 3], vectors[2, 0, 5], vectors[3, 0, 7] = (0, 1), (0, -2), (0, 5)
    total = clips.accumulate(vectors)
    assert total[1, 0, :, 1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert total[2, 0, :, 1].tolist() == [0, 0, 0, 1, 0, -2 + 1, 0, 0]
    assert total[3, 0, 7, 1] == 0  # beyond the border, so from the last pixel
    assert not total[..., 0].any()


def test_inputs_of_a_pan_have_no_residual_where_it_shows_what_was_there(photos):
    photo = photos[0]
    frames = np.stack([photo[:96, 2 * t : 2 * t + 96] for t in range(12)])
    vectors = np.zeros((12, 96, 96, 2), np.int16)
    vectors[1:, ..., 1] = 2
    inputs = clips.inputs_of(Decoded(frames, vectors))
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {
        "intra": (1, 3, 96, 96),
        "motion": (3, 2, 24, 24),
        "residual": (3, 3, 96, 96),
        "rgb": (1, 12, 96, 96),
    }
    assert torch.equal(inputs["motion"][2, 1, :, :18], torch.full((24, 18), 22 / 16))
    assert torch.equal(inputs["motion"][:, 0], torch.zeros(3, 24, 24))
    assert not inputs["residual"][2, :, :, :-22].any()
    assert inputs["residual"][2, :, :, -20:].abs().max() > 0.1
    assert torch.equal(inputs["rgb"][0, :3], inputs["intra"][0])


@pytest.mark.parametrize("action", CLASSES)
def test_clips_show_their_action(photos, action):
    """Centres of objects move by their sign; the still camera's background stays."""
    clip = clips.make_clip(*photos, action, np.random.default_rng(3)).astype(float)
    assert clip.shape == (12, 96, 96, 3)
    change = np.abs(clip[11] - clip[0]).mean(2)
    kind, way = action.split()
    if kind in ("disc", "square"):
        assert np.median(change) < 5 < change.max()
        still = np.median(clip, axis=0)
        centre = [np.average(np.arange(96), weights=(np.abs(f - still).mean((0, 2)) > 8) + 1e-9) for f in clip]
        assert (centre[11] > centre[0]) == (way == "right")
    else:
        assert np.median(change) > 5 or change.mean() > 8


def test_networks_have_the_parameters_of_their_layers():
    """3×3 kernels and biases, two for each channel's norm, and the linear layer."""

    def count(inputs: int, widths: list[int]) -> int:
        pairs = zip([inputs, *widths], widths, strict=False)
        return sum(9 * a * b + 3 * b for a, b in pairs) + (widths[-1] + 1) * len(CLASSES)

    networks = Networks(Settings(channels=16))
    for name, inputs, widths in (
        ("intra", 3, [16, 32, 64, 64]),
        ("residual", 3, [16, 32, 64, 64]),
        ("rgb", 12, [16, 32, 64, 64]),
        ("motion", 2, [16, 32]),
    ):
        assert sum(p.numel() for p in getattr(networks, name).parameters()) == count(inputs, widths)


def test_scores_are_means_over_frames_and_add_up():
    torch.manual_seed(0)
    networks = Networks(Settings(channels=4)).eval()
    motion = torch.randn(6, 2, 24, 24)
    inputs = {"intra": torch.rand(2, 3, 32, 32), "motion": motion, "residual": torch.rand(6, 3, 32, 32)}
    with torch.no_grad():
        scores = networks(inputs)
        alone = networks.motion(motion)
    assert torch.allclose(scores["motion"][1], alone[3:].mean(0), atol=1e-6)
    assert torch.allclose(fused(scores), scores["intra"] + scores["motion"] + scores["residual"])


# ---------------------------------------------------------------------------------------------------- with PyAV


def test_the_decoder_tells_where_a_pan_goes(photos):
    pytest.importorskip("av", reason="pip install 'neurocodec[video]' codes clips")
    clip = clips.make_clip(*photos, "pan right", np.random.default_rng(0))
    decoded = clips.decompress(clips.compress(clip, 400))
    assert decoded.frames.shape == clip.shape
    assert np.abs(decoded.frames.astype(float) - clip).mean() < 6
    assert not decoded.vectors[0].any()
    down, right = np.median(clips.accumulate(decoded.vectors)[11], axis=(0, 1))
    assert abs(down) <= 1
    assert 11 <= right <= 28
    shown = columns([decoded])
    assert {x.shape for x in shown.values()} == {(1, 3, 96, 96)}
    with pytest.raises(ImageError):
        clips.decompress(b"no video")


def test_trains_is_interrupted_goes_on_and_is_applied(tmp_path, photos, pictures, capsys):
    pytest.importorskip("av", reason="pip install 'neurocodec[video]' codes clips")
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(photos[k % 2]).save(folder / f"{k}.png")
    path = tmp_path / "action.toml"
    values = {"folder": folder, "crop": 96, "batch": 2, "data": "", "training": "", "system": "action"}
    path.write_text(COMMON.format(**values, settings="channels = 4"))
    config = load_config(Action, str(path), [])
    model = train(config, tmp_path / "whole", Action)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", interrupted_at("action", 13))
    other = train(resumed_config(Action, str(tmp_path / "parts"), []), tmp_path / "parts", Action, resume=True)
    (network, _), (again, _) = Action.load(model), Action.load(other)
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    figures = rows(tmp_path / "whole", "validation")[0]["validation"]
    assert {"intra", "motion", "residual", "rgb", "all three"} <= set(figures)
    assert Image.open(tmp_path / "whole" / "sheets" / "0000020.png").size == (4 * 64, 14 + 64)

    still = clips.make_clip(*photos, "zoom in", np.random.default_rng(0))
    first, *others = (Image.fromarray(frame) for frame in still)
    first.save(tmp_path / "zoom.webp", save_all=True, append_images=others, lossless=True)
    first.save(tmp_path / "still.png")
    words = ["synth", "apply", "action", str(model)]
    assert main([*words, str(tmp_path / "zoom.webp"), "-o", str(tmp_path / "seen.png")]) == 0
    assert capsys.readouterr().out.split(":")[-1].split(",")[0].strip() in CLASSES
    assert Image.open(tmp_path / "seen.png").size == (4 * 96, 14 + 96)
    assert main([*words, str(tmp_path / "still.png"), "-o", str(tmp_path / "no.png")]) == 1
    assert "holds 1 frames, expected at least 12," in capsys.readouterr().err
