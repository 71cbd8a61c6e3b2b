"""Crops, sheets and borders."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from neurocodec.synthesis import pictures
from neurocodec.training.run import State


def test_a_grid_goes_row_by_row():
    x = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 3, 2, 2) / 10
    tiles = pictures.grid(x, 3)
    assert tiles.shape == (1, 3, 4, 6)
    torch.testing.assert_close(tiles[0, 0, ::2, ::2], torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]))


def test_a_sheet_has_a_row_a_picture_and_enlarges_small_ones():
    large, small = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)
    small[1] = 0.5
    sheet = pictures.sheet({"large": large, "small": small})
    assert sheet.shape == (pictures.LABEL + 16, 16, 3)
    body = sheet[pictures.LABEL :]
    assert (body[:, :8] == 255).all()
    assert (body[:8, 8:] == 0).all()
    assert (body[8:, 8:] == 128).all()


def test_the_middle_of_pictures_that_are_large_enough():
    rgb = np.zeros((6, 9, 3), np.uint8)
    rgb[1:5, 2:6] = 255
    assert pictures.centre_crops([rgb, rgb[:3]], 4).tolist() == torch.ones(1, 3, 4, 4).tolist()


def test_borders_are_repeated_and_cut_off():
    seen = []

    def network(x):
        seen.append(x)
        return 2 * x

    x = torch.rand(1, 3, 5, 8)
    assert torch.equal(pictures.padded(network, x, 4), 2 * x)
    assert seen[0].shape == (1, 3, 8, 8)
    assert torch.equal(seen[0][:, :, 7], x[:, :, 4])


def test_the_average_has_the_statistics_of_the_network():
    """Its weights are averaged, the running statistics of batch normalisation copied."""
    main, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    main(torch.randn(4, 2, 3, 3) + 5)
    nn.init.constant_(main.weight, 2.0)
    state = State({"main": main}, average, {}, step=10_000)
    state.average_weights(0.75)
    assert average.weight.tolist() == [1.25, 1.25]
    assert torch.equal(average.running_mean, main.running_mean)
    assert int(average.num_batches_tracked) == 1
