"""Tiles partition the picture; halos stop at its border."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neurocodec.tiling import EDGE, Window, region_window, tile_edge, windows


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([None, 256, 512, 1024]))
def test_windows_cover_each_latent_once(height, width, edge):
    seen = np.zeros((height, width), int)
    for w in windows(height, width, edge):
        seen[w.top : w.bottom, w.left : w.right] += 1
    assert (seen == 1).all()


def test_pictures_up_to_2048_are_one_tile():
    assert tile_edge(2048, 2048) is None
    assert tile_edge(2049, 1) == EDGE


def test_grow_and_intersect():
    window = Window(0, 4, 4, 8)
    assert window.grow(2, 5, 9) == Window(0, 2, 5, 9)
    assert window.intersect(Window(3, 0, 9, 5)) == Window(3, 4, 4, 5)
    assert window.intersect(Window(4, 4, 8, 8)) is None


def test_region_window():
    assert region_window((0, 0, 1, 1)) == Window(0, 0, 1, 1)
    assert region_window((15, 16, 2, 17)) == Window(1, 0, 3, 2)
