"""Arguments of the public functions: numbers of every library, wrong ones, open files, and the tree of errors."""

from __future__ import annotations

import fractions
import functools
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import GOLDEN, PHOTO
from PIL import Image

import neurocodec
from neurocodec import arguments, codec, errors
from neurocodec.cli.main import main
from neurocodec.entropy import coder
from neurocodec.integer.native import NativeNetwork
from neurocodec.model import Model

NIC = (GOLDEN / "valid" / "photo-70x65-q960.nic").read_bytes()  # 70 x 65 pixels
PIXELS = np.zeros((2, 3, 3), np.uint8)
Region = tuple[int, int, int, int]


def arrays(values: Region) -> list[Any]:
    """The numbers as every library has them."""
    types: list[Any] = [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint64, np.int64, torch.tensor, np.array]
    return [
        *([kind(value) for value in values] for kind in types),
        *(np.array(values, dtype) for dtype in ("u1", "<u2", ">i4", "i8")),
        torch.tensor(values),
        list(values),
    ]


@pytest.mark.parametrize("index", range(len(arrays((37, 27, 13, 22)))))
def test_a_region_of_numpy_integers_shows_the_pixels_of_python_integers(small_model: Model, index: int) -> None:
    """uint16 numbers once overflowed in the arithmetic of windows: a gray picture of the right size."""
    whole = np.asarray(codec.decode(NIC, model=small_model))
    region = arrays((37, 27, 13, 22))[index]
    part = np.asarray(codec.decode(NIC, region=region, model=small_model))
    np.testing.assert_array_equal(part, whole[27:49, 37:50])


@pytest.mark.parametrize(
    "convert", [np.float32, np.float64, np.int8, np.uint16, np.array, torch.tensor, fractions.Fraction]
)
def test_numbers_of_other_libraries_mean_what_python_numbers_mean(small_model: Model, convert: Any) -> None:
    photo = np.asarray(Image.open(PHOTO))[:64, :80]
    for name, value in {"quality": 20, "target_psnr": 9, "target_bpp": 1, "max_pixels": 64 * 80}.items():
        if name == "max_pixels" and convert in (np.float32, np.float64, np.int8, fractions.Fraction):
            continue
        expected = codec.encode(photo, model=small_model, **{name: value})
        assert codec.encode(photo, model=small_model, **{name: convert(value)}) == expected
    data = codec.encode(photo, quality=60, model=small_model)
    assert codec.decode(data, realism=convert(0), model=small_model) == codec.decode(data, model=small_model)


def test_exact_numbers() -> None:
    assert type(arguments.integer("n", np.uint8(200), 0)) is int
    assert type(arguments.number("x", np.float32(0.1), 0, 1)) is float
    assert arguments.number("x", np.float32(0.1), 0, 1) == float(np.float32(0.1))
    assert arguments.integer("n", 10**400, 1) == 10**400
    assert arguments.region(None, 7, 5) == (0, 0, 7, 5)


ENCODE: list[tuple[dict[str, Any], type[errors.ArgumentError], str]] = [
    ({"quality": 0}, errors.ArgumentValueError, "quality is 0; it must be a number from 1 to 100"),
    ({"quality": 101}, errors.ArgumentValueError, "1 to 100"),
    ({"quality": float("nan")}, errors.ArgumentValueError, "quality is nan"),
    ({"quality": 10**400}, errors.ArgumentValueError, "1 to 100"),
    ({"quality": "high"}, errors.ArgumentTypeError, "quality is 'high' of type str; it must be a number"),
    ({"quality": True}, errors.ArgumentTypeError, "bool"),
    ({"quality": np.bool_(True)}, errors.ArgumentTypeError, "bool"),
    ({"quality": 1j}, errors.ArgumentTypeError, "complex"),
    ({"quality": np.array([20])}, errors.ArgumentTypeError, "ndarray"),
    ({"quality": [20]}, errors.ArgumentTypeError, "list"),
    ({"target_bpp": 0}, errors.ArgumentValueError, "target_bpp is 0; it must be a number above 0"),
    ({"target_bpp": float("inf")}, errors.ArgumentValueError, "target_bpp is inf"),
    ({"target_bpp": "1"}, errors.ArgumentTypeError, "target_bpp"),
    ({"target_bytes": 0}, errors.ArgumentValueError, "target_bytes is 0; it must be at least 1"),
    ({"target_bytes": 1000.5}, errors.ArgumentTypeError, "it must be an integer"),
    ({"target_psnr": -1}, errors.ArgumentValueError, "target_psnr is -1"),
    ({"target_psnr": b"30"}, errors.ArgumentTypeError, "target_psnr"),
    ({"target_psnr": 30, "target_bytes": 1000}, errors.ArgumentValueError, "only one of target_bytes and target_psnr"),
    ({"quality": 20, "target_bpp": 0.3}, errors.ArgumentValueError, "only one of quality and target_bpp"),
    ({"max_pixels": 0}, errors.ArgumentValueError, "max_pixels is 0"),
    ({"max_pixels": 2**30 + 1}, errors.ArgumentValueError, "max_pixels"),
    ({"max_pixels": 1e6}, errors.ArgumentTypeError, "max_pixels"),
    ({"device": "tpu"}, errors.ArgumentValueError, "device is 'tpu'; known are auto, cpu and cuda"),
    ({"device": "cuda:x"}, errors.ArgumentValueError, "device"),
    ({"device": None}, errors.ArgumentTypeError, "device is None"),
    ({"model": None}, errors.ArgumentTypeError, "the model is a NoneType"),
    ({"model": 3}, errors.ArgumentTypeError, "the model is a int"),
]
DECODE: list[tuple[dict[str, Any], type[errors.ArgumentError], str]] = [
    ({"realism": 1.5}, errors.ArgumentValueError, "realism is 1.5; it must be a number from 0 to 1"),
    ({"realism": float("nan")}, errors.ArgumentValueError, "realism is nan"),
    ({"realism": "most"}, errors.ArgumentTypeError, "realism is 'most'"),
    ({"realism": None}, errors.ArgumentTypeError, "realism"),
    ({"region": (0, 0, 71, 1)}, errors.ArgumentValueError, r"\(0, 0, 71, 1\) is not inside .* 70×65"),
    ({"region": (-1, 0, 5, 5)}, errors.ArgumentValueError, "not inside"),
    ({"region": (np.uint8(255), 0, 1, 1)}, errors.ArgumentValueError, "not inside"),
    ({"region": (0, 0, 2**64, 2**64)}, errors.ArgumentValueError, "not inside"),
    ({"region": (0, 0, 0, 5)}, errors.ArgumentValueError, "not inside"),
    ({"region": ()}, errors.ArgumentValueError, "region has 0 values"),
    ({"region": (1, 2, 3)}, errors.ArgumentValueError, "region has 3 values; it must have four"),
    ({"region": (0.0, 0, 5, 5)}, errors.ArgumentTypeError, "an integer"),
    ({"region": (0, 0, "5", 5)}, errors.ArgumentTypeError, "an integer"),
    ({"region": np.zeros((4, 4), int)}, errors.ArgumentTypeError, "an integer"),
    ({"region": "0 0 5 5"}, errors.ArgumentTypeError, "four integers"),
    ({"region": 5}, errors.ArgumentTypeError, "four integers"),
    ({"model": "base"}, errors.ArgumentTypeError, "model is a str; it must be a loaded model"),
    ({"device": 0}, errors.ArgumentTypeError, "device is 0"),
    ({"max_pixels": None}, errors.ArgumentTypeError, "max_pixels"),
]


@pytest.mark.parametrize(
    ("function", "keywords", "error", "words"),
    [*(("encode", *case) for case in ENCODE), *(("decode", *case) for case in DECODE)],
)
def test_wrong_arguments_are_errors_of_neurocodec_and_of_python(
    small_model: Model, function: str, keywords: dict[str, Any], error: type[errors.ArgumentError], words: str
) -> None:
    python = TypeError if error is errors.ArgumentTypeError else ValueError
    assert issubclass(error, python)
    call = (
        functools.partial(neurocodec.encode, PIXELS)
        if function == "encode"
        else functools.partial(neurocodec.decode, NIC)
    )
    with pytest.raises(error, match=words) as caught:
        call(**{"model": small_model} | keywords)
    assert isinstance(caught.value, neurocodec.NeurocodecError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("data", [None, 3, ["a"], io.StringIO("text"), object()])
def test_data_of_another_type(data: Any) -> None:
    for function in (neurocodec.decode, neurocodec.info, neurocodec.encode):
        with pytest.raises(TypeError) as caught:
            function(data)
        assert isinstance(caught.value, neurocodec.NeurocodecError)


def test_threads_and_calls_are_exact(small_model: Model) -> None:
    symbols, indexes = np.zeros(4, np.int32), np.zeros(4, np.uint8)
    data = coder.encode(symbols, indexes, small_model.tables, calls=np.array([1, 3], "u1"), threads=np.int64(2))
    assert data == coder.encode(symbols, indexes, small_model.tables, calls=[1, 3])
    for keywords in ({"calls": [1.5, 2.5]}, {"threads": 1.0}, {"threads": 0}):
        with pytest.raises(errors.ArgumentError):
            coder.encode(symbols, indexes, small_model.tables, **keywords)  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError, match="threads is -1"):
        NativeNetwork(small_model, threads=-1)
    for index in (961, -1, 0.5):
        with pytest.raises(errors.ArgumentError, match="quality index"):
            codec.encode_picture(neurocodec.image.load(PIXELS), small_model, index)  # type: ignore[arg-type]


def test_a_torch_device_is_a_device(small_model: Model) -> None:
    data = codec.encode(PIXELS, model=small_model, device=torch.device("cpu"))  # type: ignore[arg-type]
    assert data == codec.encode(PIXELS, model=small_model, device="cpu")
    assert codec.decode(data, model=small_model, device=torch.device("cpu")).size == (3, 2)  # type: ignore[arg-type]


class OnlyReads:
    """A file as a network gives it: it can be read, once, in small pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 100) if size >= 0 else 100)


def test_open_files_are_accepted_where_bytes_and_paths_are(small_model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.nic").write_bytes(NIC)
    picture = np.asarray(codec.decode(NIC, model=small_model))
    for source in (OnlyReads(NIC), io.BytesIO(NIC), bytearray(NIC), memoryview(NIC), tmp_path / "a.nic"):
        np.testing.assert_array_equal(np.asarray(codec.decode(source, model=small_model)), picture)
    photo = tmp_path / "photo.png"
    Image.open(PHOTO).crop((0, 0, 60, 50)).save(photo)
    data = codec.encode(photo, model=small_model)
    for opened in (OnlyReads(photo.read_bytes()), io.BytesIO(photo.read_bytes())):
        assert codec.encode(opened, model=small_model) == data
    with open(photo, "rb") as file, open(tmp_path / "a.nic", "rb") as nic:
        assert codec.encode(file, model=small_model) == data
        assert not file.closed
        assert neurocodec.info(nic) == neurocodec.info(NIC)
        assert not nic.closed
    behind = io.BytesIO(b"something else" + photo.read_bytes())
    behind.seek(14)
    assert codec.encode(behind, model=small_model) == data  # read from where it stands
    for wrong, error in (
        (io.BytesIO(b""), neurocodec.TruncatedError),
        (io.BytesIO(b"text"), neurocodec.NicFormatError),
    ):
        with pytest.raises(error):
            neurocodec.info(wrong)
    closed = io.BytesIO(NIC)
    closed.close()
    with pytest.raises(neurocodec.NicFormatError, match="closed file"):
        neurocodec.info(closed)


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    names = re.findall(r"^[│├└─ ]*([A-Z]\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    classes = {name: value for name, value in vars(errors).items() if name.endswith("Error")}
    assert sorted(names) == sorted(classes)
    for kind in classes.values():
        assert issubclass(kind, neurocodec.NeurocodecError)
        assert getattr(neurocodec, kind.__name__) is kind
    assert issubclass(errors.OutOfMemoryError, MemoryError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 1.00 PiB for an array with shape (1125899906842624,)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nSee documentation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_too_little_memory_is_one_sentence(error: Exception) -> None:
    assert errors.sentence(error, "a.png") == f"a.png: {errors.OUT_OF_MEMORY}"
    with pytest.raises(neurocodec.OutOfMemoryError, match="out of memory: close") as caught, errors.memory_errors():
        raise error
    assert isinstance(caught.value, MemoryError)
    with pytest.raises(RuntimeError, match="else"), errors.memory_errors():
        raise RuntimeError("something else")


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800.png", "a\nb.png", "\x1b[31mred.png", "a" * 5000])
def test_a_name_that_no_file_has_is_one_printable_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for read in (neurocodec.encode, neurocodec.decode, neurocodec.info):
        with pytest.raises(neurocodec.NeurocodecError) as caught:
            read(name)
        assert str(caught.value).isprintable()
        assert "damaged" not in str(caught.value)
    for command in ("encode", "decode", "info"):
        assert main([command, name]) == 1
        error = capsys.readouterr().err
        assert error.endswith("\n")
        assert error[:-1].isprintable()


def test_bytes_that_were_released_are_an_argument_error() -> None:
    view = memoryview(b"\x8fNIC")
    view.release()
    for read in (neurocodec.decode, neurocodec.info):
        with pytest.raises(errors.ArgumentValueError, match="released"):
            read(view)


def test_lossless_is_true_or_false(small_model: Model) -> None:
    photo = np.asarray(Image.open(PHOTO))[:32, :48]
    data = codec.encode(photo, lossless=np.bool_(True), model=small_model)  # type: ignore[arg-type]
    assert (np.asarray(codec.decode(data, model=small_model)) == photo).all()
    wrong: list[Any] = [1, "yes", None, np.array([True, False])]
    for value in wrong:
        with pytest.raises(errors.ArgumentTypeError, match=r"^lossless is .* it must be True or False\.$"):
            codec.encode(photo, lossless=value, model=small_model)
        with pytest.raises(errors.ArgumentTypeError, match="lossless"):
            codec.decode(data, lossless=value, model=small_model)
