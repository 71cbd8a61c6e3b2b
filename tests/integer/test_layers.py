"""The integer layers: torch and C++ equal the int64 definition, also at the largest sums that the proof admits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer.lively import REFERENCE

from neurocodec.entropy.grid import HIDDEN_MAX, LIMIT, MAX_LATENT, OUTPUT_LIMIT, SUM_LIMIT
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.native import kernels
from neurocodec.integer.reference import Arrays, IntegerLayer, interpolate_rows
from neurocodec.integer.transforms import Gain, add, exp2_table_of, gated, leaky_relu, q15

TORCH = TorchArithmetic()
EXP2 = np.minimum(np.rint(2.0 ** (14 + np.arange(4096) / 4096)), 32767).astype(np.int16)
int16s = st.integers(-LIMIT, LIMIT - 1)


def both(operation, *values):
    """The result of NumPy, after a check that torch has the same."""
    expected = operation(REFERENCE, *(REFERENCE.load(np.asarray(v).reshape(1, 1, -1)) for v in values))
    actual = operation(TORCH, *(TORCH.load(np.asarray(v).reshape(1, 1, -1)) for v in values))
    assert (TORCH.store(actual) == expected).all()
    return expected.ravel().tolist()


def layers(rng, inputs, outputs, extreme):
    """A pointwise and a depthwise layer with a shift for each output; extreme: weights that use up all of 2^31."""

    def layer(*shape):
        shift = rng.integers(0, 31, shape[0])
        largest = min(LIMIT - 1, (SUM_LIMIT - 2**20 - 2**30) // (LIMIT * int(np.prod(shape[1:]))))
        weight = rng.choice([-largest, largest], shape) if extreme else rng.integers(-largest, largest + 1, shape)
        return IntegerLayer(weight.astype(np.int16), rng.integers(-(2**18), 2**18, shape[0]), shift)

    return layer(outputs, inputs), layer(inputs, 3, 3)


@settings(max_examples=60)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
    wide=st.booleans(),
)
def test_products_equal_the_definition(height, width, inputs, outputs, seed, extreme, wide):
    rng = np.random.default_rng(seed)
    values = [-LIMIT, LIMIT - 1] if extreme else np.arange(-LIMIT, LIMIT)
    x = rng.choice(values, (height, width, inputs)).astype(np.int64)
    pointwise, depthwise = layers(rng, inputs, 4 * outputs, extreme)
    low, high = (-OUTPUT_LIMIT, OUTPUT_LIMIT - 1) if wide else (-LIMIT, HIDDEN_MAX)
    extra = rng.integers(-(2**18), 2**18, (2, 2, 4 * outputs) if wide else 4 * outputs)
    for bias in (extra, np.zeros(4 * outputs, np.int64)):
        expected = REFERENCE.pointwise(x, pointwise, bias, low, high)
        actual = TORCH.pointwise(TORCH.load(x), pointwise, bias, low, high)
        assert (TORCH.store(actual) == expected).all()
    assert (TORCH.store(TORCH.shuffle(actual)) == REFERENCE.shuffle(expected)).all()
    expected_depthwise = REFERENCE.depthwise(x, depthwise)
    assert (TORCH.store(TORCH.depthwise(TORCH.load(x), depthwise)) == expected_depthwise).all()

    native = pytest.importorskip("neurocodec._native")
    run = native.pointwise_wide if wide else native.pointwise
    arrays = [(lay.weight, lay.bias.astype(np.int32), lay.shift.astype(np.int8)) for lay in (pointwise, depthwise)]
    for kernel in kernels():
        assert (run(x.astype(np.int16), *arrays[0], low, high, kernel) == expected).all(), kernel
        assert (native.depthwise(x.astype(np.int16), *arrays[1], kernel) == expected_depthwise).all(), kernel


def test_the_native_layers_refuse_what_does_not_fit():
    native = pytest.importorskip("neurocodec._native")
    x, weight = np.zeros((2, 2, 3), np.int16), np.zeros((4, 3), np.int16)
    bias, shift = np.zeros(4, np.int32), np.zeros(4, np.int8)
    for change in (
        {"x": x[:, :, :2].copy()},
        {"x": x[0].copy()},
        {"bias": bias[:3].copy()},
        {"shift": shift[:3].copy()},
        {"kernel": "mmx"},
    ):
        arguments = {"x": x, "weight": weight, "bias": bias, "shift": shift, "low": 0, "high": 9, "kernel": "generic"}
        with pytest.raises(ValueError, match=r"(?i)shape|kernel"):
            native.pointwise(**(arguments | change))
    with pytest.raises(TypeError):
        native.pointwise(x.astype(np.int32), weight, bias, shift, 0, 9, "generic")
    with pytest.raises(ValueError, match="shape"):
        native.depthwise(x, np.zeros((3, 3, 2), np.int16), np.zeros(3, np.int32), np.zeros(3, np.int8), "generic")


def test_rounding_takes_halves_up_also_below_zero():
    layer = IntegerLayer(np.array([[1]], np.int16), np.zeros(1, np.int64), np.ones(1, np.int64))
    for do in (REFERENCE, TORCH):
        x = do.load(np.array([[[-3], [-2], [-1], [0], [1], [2], [3]]]))
        result = do.pointwise(x, layer, np.zeros(1, np.int64), -9, 9)
        assert do.store(result).ravel().tolist() == [-1, -1, 0, 0, 1, 1, 2]
        assert do.store(do.shift(x, 1)).ravel().tolist() == [-1, -1, 0, 0, 1, 1, 2]
        assert do.store(do.shift(x, 0)).ravel().tolist() == [-3, -2, -1, 0, 1, 2, 3]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.sampled_from([2, 8]), st.integers(0, 99))
def test_unshuffling_undoes_shuffling(height, width, channels, factor, seed):
    x = np.random.default_rng(seed).integers(-9, 9, (height, width, channels * factor**2))
    shuffled = REFERENCE.shuffle(x, factor)
    assert (REFERENCE.unshuffle(shuffled, factor) == x).all()
    for c, i, j in np.ndindex(channels, factor, factor):
        assert (shuffled[i::factor, j::factor, c] == x[:, :, factor**2 * c + factor * i + j]).all()
    assert (TORCH.store(TORCH.shuffle(TORCH.load(x), factor)) == shuffled).all()
    assert (TORCH.store(TORCH.unshuffle(TORCH.load(shuffled), factor)) == x).all()


@given(int16s, int16s, int16s)
def test_elementwise_operations(a, b, factor):
    if (a, factor) != (-LIMIT, -LIMIT):
        (product,) = both(lambda do, x, y: q15(do, x, y), [a], [factor])
        assert product == (a * factor + 2**14) // 2**15
        assert -LIMIT <= product < LIMIT
    assert both(leaky_relu, [a]) == [max(a, (a * 328 + 2**14) // 2**15)]
    assert both(add, [a], [b]) == [min(max(a + b, -LIMIT), LIMIT - 1)]
    gate = min(max(b, -1536), 1536)
    sigmoid = min(2**14 + (16 * gate * 21845 + 2**14) // 2**15, LIMIT - 1)
    assert both(gated, [a], [b]) == [(a * sigmoid + 2**14) // 2**15]
    assert abs(sigmoid / 2**15 - min(max(b / 512 / 6 + 0.5, 0.0), 1.0)) < 2**-14


def test_leaky_relu_by_hand():
    # -512 is -1. -512 · 328 = -167936, plus 16384 is -151552, over 32768 is -4.6..., so -5: about -0.01.
    assert both(leaky_relu, [-512, 512, 0, -1, -LIMIT, LIMIT - 1]) == [-5, 512, 0, 0, -328, LIMIT - 1]


def test_gate_by_hand():
    # A gate of 1 is 512: 16 · 512 · 21845 = 178954240, plus 16384, over 32768: 5461. 16384 + 5461 = 21845, which is 2/3
    # of 32768; 300 · 21845 + 16384 over 32768 is 200. At ±3 and beyond a gate is closed (0) or open (32767).
    assert both(gated, [300, 300, 300], [512, 1536, 20000]) == [200, 300, 300]
    assert both(gated, [300, 300, -301], [-1536, -20000, 0]) == [0, 0, -150]


def gain_of(rows, more, exp2=EXP2):
    return Gain(Arrays({"g": rows}), "g", 16, rows.shape[1], exp2_table_of(Arrays({"exp2_table": exp2})), more)


def test_gain_by_hand():
    """Row 0 has log2 1 and 0 (channels 0 and 1), row 1 has 2 and -1.5: half way they are 1.5 and -0.75."""
    rows = np.zeros((16, 2), np.int32)
    rows[0], rows[1] = [1 << 16, 0], [2 << 16, -3 << 15]
    for do in (REFERENCE, TORCH):

        def result(quality_index, more=0, do=do):
            values = gain_of(rows, more)(do, do.load(np.array([[[100, 100]]])), quality_index)
            return do.store(values).ravel().tolist()

        assert result(0) == [200, 100]
        assert result(64) == [400, 35]  # 100 · 2^-1.5 = 35.36
        assert result(32) == [283, 59]  # 100 · 2^1.5 = 282.84 and 100 · 2^-0.75 = 59.46
        assert result(0, more=3) == [1600, 800]
        assert result(0, more=-3) == [25, 13]  # 12.5, halves up
        assert result(0, more=12) == [LIMIT - 1, LIMIT - 1]


@given(int16s, st.integers(-6 << 16, 6 << 16), st.integers(0, 960), st.sampled_from([-3, 0, 3]))
def test_gains_are_exact_in_torch_and_close_to_the_real_ones(x, logarithm, quality_index, more):
    gain = gain_of(np.full((16, 1), logarithm, np.int32), more)
    expected = x * 2.0 ** (logarithm / 2**16 + more)
    (y,) = both(lambda do, x: gain(do, x, quality_index), [x])
    assert abs(y - np.clip(expected, -LIMIT, LIMIT - 1)) <= 0.51 + abs(expected) * 2**-12
    (latent,) = both(lambda do, x: gain.latents(do, x, quality_index), [x])
    expected = np.clip(expected, -MAX_LATENT, MAX_LATENT)
    assert -1.01 - abs(expected) * 2**-12 <= latent - expected <= abs(expected) * 2**-12


def test_latents_are_rounded_down():
    gain = gain_of(np.zeros((16, 6), np.int32), -3)
    assert both(lambda do, x: gain.latents(do, x, 0), [15, 8, 7, 0, -1, -9]) == [1, 1, 0, 0, -1, -2]


def test_gains_out_of_range_are_refused():
    for logarithm in (15 << 16, -17 << 16):
        with pytest.raises(ModelMismatchError, match="a gain of g is out of range"):
            gain_of(np.full((16, 1), logarithm, np.int32), 0)
    with pytest.raises(ModelMismatchError, match="malformed exp2_table"):
        gain_of(np.zeros((16, 1), np.int32), 0, EXP2 - 1)


def test_rows_between_two_rows():
    rows = np.array([[0, -64], [64, 64], [128, 0]])
    assert interpolate_rows(rows, 0).tolist() == [0, -64]
    assert interpolate_rows(rows, 32).tolist() == [32, 0]
    assert interpolate_rows(rows, 128).tolist() == [128, 0]


def layer_arrays(weight, bias=0, shift=0):
    arrays = {"l.weight": np.array(weight, np.int16), "l.bias": np.full(len(weight), bias, np.int32)}
    return arrays | {"l.shift": np.full(len(weight), shift, np.int8), "rows": np.zeros((16, len(weight)), np.int32)}


def test_the_proof_admits_the_largest_sums_and_no_larger_ones():
    full = layer_arrays([[32767, -32767], [1, 1]])  # 65534 · 32768 = 2^31 - 65536
    Arrays(full | {"l.bias": np.array([65534, 0], np.int32)}).layer("l", 2, 2)
    broken = {
        "a bias": full | {"l.bias": np.array([-65535, 0], np.int32)},
        "a row of extra biases": full | {"l.bias": np.array([65534, 0], np.int32), "rows": np.ones((16, 2), np.int32)},
        "the rounding": layer_arrays([[32767, -32767]], 0, 16),
        "the largest shift": layer_arrays([[1, 1]], 0, 31),
        "a negative shift": layer_arrays([[1, 1]], 0, -1),
        "a weight that has no negative": layer_arrays([[-32768, 0]]),
        "the smallest bias": layer_arrays([[1, 1]], -(2**31)),
    }
    for arrays in broken.values():
        with pytest.raises(ModelMismatchError, match="the sums of layer l could leave the range"):
            Arrays(arrays).layer("l", len(arrays["l.weight"]), 2, extra=("rows",))
    Arrays(layer_arrays([[32767] * 500])).layer("l", 1, 500, largest_input=128)


@pytest.mark.parametrize(
    ("change", "stored"),
    [
        ({"l.weight": np.zeros((2, 2), np.int32)}, r"int32 \(2, 2\) as l.weight, expected int16"),
        ({"l.weight": np.zeros((2, 3), np.int16)}, r"int16 \(2, 3\) as l.weight"),
        ({"l.shift": np.zeros(1, np.int8)}, r"int8 \(1,\) as l.shift"),
        ({"l.bias": np.zeros(2, np.int64)}, "int64"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(change, stored):
    with pytest.raises(ModelMismatchError, match=stored):
        Arrays(layer_arrays([[1, 2], [3, 4]]) | change).layer("l", 2, 2)
    with pytest.raises(ModelMismatchError, match=r"holds nothing as m\.weight"):
        Arrays({}).layer("m", 2, 2)
