"""The compiled core: equal to the definition in every byte, and polite to callers that err, in Python and in C."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from neurocodec.errors import ChecksumError, ModelMismatchError, NicFormatError, TruncatedError
from neurocodec.integer import lossless
from neurocodec.integer.native import SHAPE, NativeNetwork, kernels
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.integer.pixel_filter import PixelFilter
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.model import Model

native: Any = pytest.importorskip("neurocodec._native")
HEIGHT, WIDTH, QUALITY = 7, 6, 480


@pytest.fixture(scope="module")
def core(small_model: Model) -> Any:
    """The extension's own class, without the wrapper that makes arrays contiguous."""
    return native.Model({name: getattr(small_model.config, name) for name in SHAPE}, small_model.arrays)


@pytest.fixture(scope="module")
def tile(small_model: Model, photo: np.ndarray) -> SimpleNamespace:
    """A tile as the definition codes it."""
    network = LayerwiseNetwork(small_model, NumpyArithmetic())
    rgb = np.ascontiguousarray(photo[: 16 * HEIGHT, : 16 * WIDTH])
    y = network.analyse(rgb, QUALITY)
    stream, latents = network.encode(y, QUALITY)
    return SimpleNamespace(
        rgb=rgb, y=y, stream=stream, latents=latents, decoded=network.synthesise(latents.y_hat, QUALITY)
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kernel", ["", *kernels()])
def test_every_kernel_equals_the_definition(core: Any, tile: SimpleNamespace, kernel: str, threads: int) -> None:
    assert (core.analyse(tile.rgb, QUALITY, kernel, threads) == tile.y).all()
    stream, *encoded = core.encode(tile.y, None, QUALITY, kernel, threads)
    assert stream == tile.stream
    for z_hat, symbols, y_hat, checksum in (encoded, core.decode(stream, HEIGHT, WIDTH, QUALITY, kernel, threads)):
        assert (z_hat == tile.latents.z_hat).all()
        assert (symbols == np.stack(tile.latents.symbols)).all()
        assert (y_hat == tile.latents.y_hat).all()
        assert checksum == tile.latents.checksum()
    assert (core.synthesise(tile.latents.y_hat, QUALITY, kernel, threads) == tile.decoded).all()


def unaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    result = memory[1:].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def test_arrays_that_do_not_fit_are_refused(core: Any, tile: SimpleNamespace) -> None:
    y, rgb, how = tile.y, tile.rgb, (QUALITY, "", 1)
    calls = [(core.analyse, rgb), (lambda array, *how: core.encode(array, None, *how), y), (core.synthesise, y)]
    for call, array in calls:
        for wrong in (None, 3, "text", array.astype(np.float32), array.astype(np.int64), array[:, ::2], array[::-1]):
            with pytest.raises(TypeError):
                call(wrong, *how)
        for wrong in (array[0], array[..., :-1].copy(), array[:0]):
            with pytest.raises(ValueError, match=r"shape|tile"):
                call(wrong, *how)
    with pytest.raises(ValueError, match="shape"):
        core.analyse(rgb[:-1], *how)
    for call, array in calls[1:]:
        with pytest.raises(TypeError):
            call(array.astype(array.dtype.newbyteorder()), *how)
        with pytest.raises(ValueError, match="aligned"):
            call(unaligned(array), *how)
    for value in (1 << 22, -(1 << 22), 2**31 - 1, -(2**31)):
        with pytest.raises(ValueError, match=r"2\^22"):
            core.encode(np.full_like(y, value), None, *how)
    core.synthesise(np.full_like(y, -(2**31)), *how)


def test_numbers_out_of_range_are_refused(core: Any, tile: SimpleNamespace) -> None:
    for how in ((-1, "", 1), (961, "", 1), (QUALITY, "mmx", 1)):
        for call in (
            lambda how=how: core.analyse(tile.rgb, *how),
            lambda how=how: core.encode(tile.y, None, *how),
            lambda how=how: core.decode(tile.stream, HEIGHT, WIDTH, *how),
            lambda how=how: core.synthesise(tile.y, *how),
        ):
            with pytest.raises(ValueError, match=r"quality|kernel"):
                call()
    for height, width in ((0, 1), (1, 0), (4097, 1), (1, 2**63)):
        with pytest.raises(ValueError, match="tile"):
            core.decode(tile.stream, height, width, QUALITY, "", 1)
    with pytest.raises(TypeError):
        core.decode(tile.stream, -1, 1, QUALITY, "", 1)


def test_damaged_streams_are_typed_errors(core: Any, tile: SimpleNamespace) -> None:
    def decode(stream: Any) -> None:
        core.decode(stream, HEIGHT, WIDTH, QUALITY, "", 1)

    for stream, error in (
        (b"", TruncatedError),
        (tile.stream[: len(tile.stream) // 2], TruncatedError),
        (b"\xff" + tile.stream[1:], NicFormatError),
        (tile.stream + b"\0\0", ChecksumError),
    ):
        with pytest.raises(error, match=r"\.$"):
            decode(stream)
    for wrong in (None, "text", bytearray(tile.stream)):
        with pytest.raises(TypeError):
            decode(wrong)


def test_models_that_do_not_fit_are_refused(small_model: Model) -> None:
    shape = {name: getattr(small_model.config, name) for name in SHAPE}
    arrays = small_model.arrays
    name = "g_s.head.weight"
    for wrong in ({name: None}, {name: "text"}, {3: arrays[name]}):
        with pytest.raises(TypeError):
            native.Model(shape, arrays | wrong)
    for array in (
        arrays[name].astype(np.int64),
        arrays[name].astype(">i2"),
        arrays[name].reshape(1, 1, 1, *arrays[name].shape),
        arrays[name][:, ::-1],
        unaligned(arrays[name]),
    ):
        with pytest.raises(ValueError, match=r"head.weight"):
            native.Model(shape, arrays | {name: array})
    for wrong in ({"channels": 0}, {"latent_channels": 10}, {"decoder_blocks": 17}, {"hidden_channels": 2**40}):
        with pytest.raises(ValueError, match=r"channels|shape"):
            native.Model(shape | wrong, arrays)
    with pytest.raises(ValueError, match="lacks channels"):
        native.Model({}, arrays)


def test_a_missing_constructor_is_an_error() -> None:
    model, decoder = native.Model.__new__(native.Model), native.Decoder.__new__(native.Decoder)
    pixels, latents = np.zeros((16, 16, 3), np.uint8), np.zeros((1, 1, 16), np.int32)
    for call in (
        lambda: model.analyse(pixels, 0, "", 1),
        lambda: model.encode(latents, None, 0, "", 1),
        lambda: model.decode(b"", 1, 1, 0, "", 1),
        lambda: model.synthesise(latents, 0, "", 1),
        lambda: decoder.decode(np.zeros(1, np.uint8)),
        decoder.finish,
    ):
        with pytest.raises(TypeError, match="__init__"):
            call()


def test_none_is_a_type_error_everywhere(small_model: Model, core: Any, tile: SimpleNamespace) -> None:
    """None once ended the process."""
    tables = small_model.tables
    three = [tables.frequencies, tables.offsets, tables.lengths]
    symbols, indexes, coded = np.zeros(3, np.int32), np.zeros(3, np.uint8), native.Tables(*three)
    y, shape = np.zeros((2, 2, 16), np.int32), {name: getattr(small_model.config, name) for name in SHAPE}
    plane, kernel = np.zeros((16, 16, 3), np.uint8), kernels()[0]
    calls: list[tuple[Any, list[Any]]] = [
        (native.Tables, three),
        (native.encode, [coded, symbols, indexes, [3], 0, 0, 1]),
        (native.Decoder, [tile.stream, coded, 1]),
        (native.Decoder(tile.stream, coded, 1).decode, [indexes]),
        (native.Model, [shape, dict(small_model.arrays)]),
        (core.analyse, [plane, 0, kernel, 1]),
        (lambda y, *how: core.encode(y, None, *how), [y, 0, kernel, 1]),
        (core.decode, [tile.stream, 1, 1, 0, kernel, 1]),
        (core.synthesise, [y, 0, kernel, 1]),
        (
            native.pointwise,
            [np.zeros((1, 1, 2), np.int16), np.zeros((3, 2), np.int16), *[np.zeros(3)] * 2, 0, 1, kernel],
        ),
        (native.depthwise, [np.zeros((1, 1, 2), np.int16), np.zeros((2, 3, 3), np.int16), *[np.zeros(2)] * 2, kernel]),
    ]
    for function, arguments in calls:
        for i in range(len(arguments)):
            with pytest.raises(TypeError):
                function(*arguments[:i], None, *arguments[i + 1 :])
    bare = native.Tables.__new__(native.Tables)
    with pytest.raises((TypeError, RuntimeError)):
        native.encode(bare, symbols, indexes, [3], 0, 0, 1)


def test_misaligned_arrays_are_refused(small_model: Model, core: Any) -> None:
    def shifted(array: Any) -> Any:
        return np.frombuffer(bytes(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)

    tables, y = small_model.tables, np.zeros((2, 2, 16), np.int32)
    shape = {name: getattr(small_model.config, name) for name in SHAPE}
    coded = native.Tables(tables.frequencies, tables.offsets, tables.lengths)
    for call in (
        lambda: native.Tables(shifted(tables.frequencies), tables.offsets, tables.lengths),
        lambda: native.encode(coded, shifted(np.zeros(3, np.int32)), np.zeros(3, np.uint8), [3], 0, 0, 1),
        lambda: core.encode(shifted(y), None, 0, "", 1),
        lambda: core.synthesise(shifted(y), 0, "", 1),
        lambda: native.Model(shape, {n: shifted(a) if a.itemsize > 1 else a for n, a in small_model.arrays.items()}),
    ):
        with pytest.raises(ValueError, match="aligned"):
            call()


def test_a_model_without_its_encoder_decodes(small_model: Model, tile: SimpleNamespace) -> None:
    model = dataclasses.replace(
        small_model, arrays={k: v for k, v in small_model.arrays.items() if not k.startswith(("g_a.", "h_a."))}
    )
    network = NativeNetwork(model)
    latents = network.decode(tile.stream, HEIGHT, WIDTH, QUALITY)
    assert (network.synthesise(latents.y_hat, QUALITY) == tile.decoded).all()
    with pytest.raises(ModelMismatchError, match="decoding alone"):
        network.analyse(tile.rgb, QUALITY)
    core = native.Model({name: getattr(model.config, name) for name in SHAPE}, model.arrays)
    for call in (
        lambda: core.analyse(tile.rgb, QUALITY, "", 1),
        lambda: core.encode(tile.y, None, QUALITY, "", 1),
    ):
        with pytest.raises(ValueError, match="decoding alone"):
            call()


def test_python_threads_share_a_model(core: Any, tile: SimpleNamespace) -> None:
    results: list[bool] = []

    def work() -> None:
        for _ in range(3):
            y_hat = core.decode(tile.stream, HEIGHT, WIDTH, QUALITY, "", 2)[2]
            results.append(bool((core.synthesise(y_hat, QUALITY, "", 2) == tile.decoded).all()))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [True] * 12


class CArray(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("type", ctypes.c_int), ("data", ctypes.c_void_p), ("dimensions", ctypes.c_size_t),
        ("shape", ctypes.c_size_t * 4),
    )  # fmt: skip


class CRun(ctypes.Structure):
    _fields_ = (("quality_index", ctypes.c_int), ("kernel", ctypes.c_char_p), ("threads", ctypes.c_size_t))


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The interface for C, compiled alone."""
    if shutil.which("c++") is None or shutil.which("cc") is None:
        pytest.skip("no compiler is installed")
    header = ROOT / "csrc" / "c_api.h"
    subprocess.run(["cc", "-std=c99", "-pedantic-errors", "-Wall", "-Werror", "-fsyntax-only", header], check=True)
    library = tmp_path_factory.mktemp("c") / "libneurocodec.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["c++", *flags, ROOT / "csrc" / "c_api.cpp", "-o", library], check=True)
    return ctypes.CDLL(str(library))


def test_the_interface_for_c(small_model: Model, tile: SimpleNamespace, c: ctypes.CDLL) -> None:
    c.nc_kernel.restype = ctypes.c_char_p
    c.nc_kernel.argtypes = [ctypes.c_size_t]
    assert [c.nc_kernel(i) for i in range(len(kernels()) + 1)] == [*(name.encode() for name in kernels()), None]

    types = {"int8": 0, "int16": 1, "int32": 2, "uint16": 3}
    size, null, pointer = ctypes.c_size_t, None, ctypes.c_void_p
    arrays = (CArray * len(small_model.arrays))(
        *(
            CArray(name.encode(), types[a.dtype.name], a.ctypes.data, a.ndim, (size * 4)(*a.shape))
            for name, a in small_model.arrays.items()
        )
    )
    shape = (size * 7)(*(getattr(small_model.config, name) for name in SHAPE))
    message = ctypes.create_string_buffer(10)
    model = pointer()

    def refused(code: int, expected: int) -> None:
        assert code == expected
        assert len(message.value) == 9, "a sentence, cut to the size of its buffer"

    refused(c.nc_model_new(null, arrays, size(len(arrays)), ctypes.byref(model), message, size(10)), 1)
    refused(c.nc_model_new(shape, arrays, size(3), ctypes.byref(model), message, size(10)), 2)
    assert not model
    assert c.nc_model_new(shape, arrays, size(3), ctypes.byref(model), null, size(0)) == 2
    assert c.nc_model_new(shape, arrays, size(len(arrays)), ctypes.byref(model), message, size(10)) == 0

    def data(array: np.ndarray) -> ctypes.c_void_p:
        return pointer(array.ctypes.data)

    run = CRun(QUALITY, null, 1)
    place = (size(HEIGHT), size(WIDTH))
    end = (message, size(10))
    y, y_hat, decoded = np.empty_like(tile.y), np.empty_like(tile.y), np.empty_like(tile.rgb)
    stream, length, checksum = pointer(), size(), ctypes.c_uint32()
    assert c.nc_analyse(model, ctypes.byref(run), data(tile.rgb), *place, data(y), *end) == 0
    assert (y == tile.y).all()
    code = c.nc_encode(
        *(model, ctypes.byref(run), data(y), null, *place, 0, ctypes.byref(stream), ctypes.byref(length)),
        *(null, null, null, null, null, ctypes.byref(checksum), *end),
    )
    assert code == 0
    assert ctypes.string_at(stream, length.value) == tile.stream
    assert checksum.value == tile.latents.checksum()

    def decode(stream: Any, length: int, h: int = HEIGHT, y_hat: Any = y_hat.ctypes.data, run: Any = run) -> int:
        how = null if run is null else ctypes.byref(run)
        tail = (null, null, pointer(y_hat), ctypes.byref(checksum), *end)
        result: int = c.nc_decode(model, how, stream, size(length), null, size(0), size(h), size(WIDTH), *tail)
        return result

    assert decode(stream, length.value) == 0
    assert c.nc_synthesise(model, ctypes.byref(run), data(y_hat), *place, data(decoded), *end) == 0
    assert (decoded == tile.decoded).all()
    refused(decode(null, 9), 1)
    refused(decode(stream, length.value, run=null), 1)
    refused(decode(stream, length.value, h=0), 1)
    refused(decode(stream, length.value, run=CRun(QUALITY, b"mmx", 1)), 1)
    refused(decode(stream, length.value, y_hat=y_hat.ctypes.data + 1), 1)
    refused(decode(stream, length.value // 2), 4)
    refused(c.nc_synthesise(null, ctypes.byref(run), data(y_hat), *place, data(decoded), *end), 1)
    refused(c.nc_synthesise(model, ctypes.byref(run), null, *place, data(decoded), *end), 1)
    c.nc_free.argtypes = c.nc_model_free.argtypes = [pointer]
    c.nc_free(stream)
    c.nc_model_free(model)
    c.nc_model_free(null)


def test_filters_in_c(c: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    rgb, message = rng.integers(0, 65536, (20, 30, 3)).astype(np.uint16), ctypes.create_string_buffer(100)
    weights, filtered, fine = rng.integers(-128, 128, 54).astype(np.int8), np.empty(rgb.shape, np.uint8), rgb * 0
    end, size = (message, ctypes.c_size_t(100)), ctypes.c_size_t

    def data(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def run(height: int = 20, shift: int = 7, by: np.ndarray = weights) -> int:
        how = (size(height), size(30), shift, data(by), size(2))
        codes = {c.nc_filter(data(rgb), *how, data(filtered), *end), c.nc_filter16(data(rgb), *how, data(fine), *end)}
        assert len(codes) == 1
        return int(codes.pop())

    expected = PixelFilter(7, weights.reshape(3, 3, 6))
    assert run() == 0
    assert (filtered == expected(rgb, 8)).all()
    assert (fine == expected(rgb, 16)).all()
    for wrong in ({"height": 0}, {"height": 65537}, {"shift": 5}, {"shift": 11}):
        assert run(**wrong) == 1
        assert message.value.endswith(b".")


@pytest.mark.parametrize("channels", [1, 3])
def test_residuals_in_c(photo: np.ndarray, c: ctypes.CDLL, channels: int) -> None:
    exact = np.ascontiguousarray(photo[100:140, 200:251, :channels])
    noise = np.random.default_rng(0).integers(-6, 7, exact.shape)
    x_hat = np.clip(exact + noise, 0, 255).astype(np.uint8)
    stream, message = lossless.encode(exact, x_hat), ctypes.create_string_buffer(100)

    def decode(data: bytes | None, size: int, height: int = 40, count: int = channels) -> int:
        sides = (ctypes.c_size_t(height), ctypes.c_size_t(51), ctypes.c_size_t(count))
        arrays = (ctypes.c_void_p(x_hat.ctypes.data), *sides, ctypes.c_void_p(decoded.ctypes.data))
        result: int = c.nc_residual_decode(data, ctypes.c_size_t(size), *arrays, message, ctypes.c_size_t(100))
        return result

    decoded = np.zeros_like(exact)
    assert decode(stream, len(stream)) == 0
    assert (decoded == exact).all()
    for code, expected in (
        (decode(stream, len(stream), height=0), 1),
        (decode(None, len(stream)), 1),
        (decode(stream, len(stream), count=2), 1),
        (decode(stream, len(stream) - 2), 4),
        (decode(stream, 3), 4),
        (decode(bytes(len(stream)), len(stream)), 5),
        (decode(stream + bytes(2), len(stream) + 2), 6),
    ):
        assert code == expected
        assert message.value.endswith(b".")
    for place in range(0, len(stream), 50):
        mutated = bytearray(stream)
        mutated[place] ^= 0x10
        assert decode(bytes(mutated), len(stream)) in (4, 5, 6)
