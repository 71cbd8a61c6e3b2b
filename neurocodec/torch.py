"""Decodes .nic files to batches of tensors and encodes them back, for training on folders of .nic and for servers.

    loader = DataLoader(folder := NicFolder("photos"), batch_sampler=SameSize(folder, 64), collate_fn=list)
    for files in loader:
        pictures = decode_batch(files, "cuda")  # uint8 (N, 3, H, W)

On a GPU, only the bytes of the files go to the device and only a few words of checksums come back; everything between
stays there. This needs the CUDA coder (docs/gpu.md); without it the range coder runs on the CPU. Pixels and bytes are
exactly those of `neurocodec.decode` and `encode`.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec.errors import MissingPackageError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingPackageError("neurocodec.torch needs torch: pip install 'neurocodec[torch]'") from error
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from neurocodec import arguments, codec, container, image, screen, tiles, tiling
from neurocodec import model as model_files
from neurocodec.entropy import coder, cuda
from neurocodec.errors import ArgumentValueError, ChecksumError, ImageError, NicFormatError, sentence
from neurocodec.integer import hyper
from neurocodec.integer.gpu import BatchArithmetic, resolve_device
from neurocodec.integer.network import LayerwiseNetwork, check_layout
from neurocodec.integer.pixel_filter import HALO as FILTER_HALO
from neurocodec.integer.pixel_filter import PixelFilter, Statistics
from neurocodec.integer.reference import QualityIndex
from neurocodec.model import Model
from neurocodec.tiling import LATENT, Window


def decode_batch(files: Sequence[bytes], device: str = "auto", *, model: Model | None = None) -> Tensor:
    """Decodes files of one size to a tensor, uint8 (N, 3, H, W), on the device, without alpha and metadata.

    files: the bytes of .nic files of one model and size; qualities may differ. device: auto, cpu, cuda or cuda:N; auto
    uses a GPU if there is one. model: a loaded model with the files' model id, used instead of the installed one.

    Raises ArgumentValueError for files of different sizes or models, for lossless files, and for a device that this
    machine lacks; NicFormatError or a subclass for damaged data, with the index of the first such file in its text;
    ModelNotFoundError, ModelMismatchError.
    """
    device = resolve_device(device)
    nics = []
    for place, data in enumerate(files):
        try:
            nics.append(container.read(data))
        except NicFormatError as error:
            raise _in_batch(place, error) from error
        if nics[-1].residuals:
            raise ArgumentValueError(f"file {place} of the batch is lossless: decode it with neurocodec.decode.")
    if not nics:
        return torch.empty((0, 3, 0, 0), dtype=torch.uint8, device=device)
    sizes = {(nic.header.width, nic.header.height, nic.header.model_id) for nic in nics}
    if len(sizes) > 1:
        raise ArgumentValueError("the files of a batch have several sizes or models; SameSize makes batches of one.")
    network = batch_network(model or model_files.find(nics[0].header.model_id), device)
    pictures = torch.empty(
        (len(nics), 3, nics[0].header.height, nics[0].header.width), dtype=torch.uint8, device=device
    )
    kinds = [(nic.header.tile_edge, container.Z_STREAMS in nic.chunks) for nic in nics]
    for kind in set(kinds):
        places = [place for place, other in enumerate(kinds) if other == kind]
        pictures[places] = _decode([nics[place] for place in places], network, places)
    return pictures


def encode_batch(
    pictures: Tensor, *, quality: float = 50, layout: str = "gpu", model: str | Path | Model = "base"
) -> list[bytes]:
    """Encodes each picture of a batch to the bytes of a .nic file, on the pictures' device.

    pictures: uint8 (N, 3, H, W). quality: 1 to 100. layout: gpu, or cpu for the same bytes as `neurocodec.encode` at
    its default effort and layout. model: the name of an installed model, a model file, or a loaded model.

    Pictures of screen content are encoded one by one on the CPU, where their palettes are made.

    Raises ImageError for tensors of another dtype or shape and for too many pixels, ArgumentError for a quality or
    layout out of range, ModelNotFoundError, ModelMismatchError for a model without its encoder.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3 or 0 in pictures.shape[2:]:
        raise ImageError(f"the pictures are {pictures.dtype} {tuple(pictures.shape)}, expected uint8 (N, 3, H, W).")
    quality = arguments.number("quality", quality, 1, 100)
    check_layout(layout)
    count, _, height, width = pictures.shape
    if height * width > tiling.MAX_PIXELS:
        raise ImageError(f"a picture has {height * width} pixels; at most {tiling.MAX_PIXELS} can be encoded.")
    if count == 0:
        return []
    loaded = model if isinstance(model, Model) else model_files.load(model)
    network, index = batch_network(loaded, str(pictures.device)), codec.quality_index(quality)
    edge, host = tiling.tile_edge(height, width), codec.network_of(loaded)
    of_screen: dict[int, bytes] = {}
    for place, picture in enumerate(pictures):
        pixels = picture.permute(1, 2, 0).cpu().numpy()
        if screen.blocks_of_few_colours(pixels) is not None:
            of_screen[place] = codec.encode_picture(image.Picture(np.ascontiguousarray(pixels)), host, index, 1, layout)
    rest = [place for place in range(count) if place not in of_screen]
    if not rest:
        return list(of_screen.values())
    pictures = pictures[rest]
    rgb = network.pad(pictures.permute(0, 2, 3, 1))
    whole = Window(0, 0, rgb.shape[1] // LATENT, rgb.shape[2] // LATENT)
    records: list[list[container.Tile]] = [[] for _ in rest]
    z_hats: list[list[NDArray[np.int32]]] = [[] for _ in rest]
    statistics = [Statistics.none() for _ in rest]
    windows = list(tiling.windows(whole.bottom, whole.right, edge))
    for part, window in enumerate(windows):
        support = window.grow(loaded.config.analysis_halo, whole.bottom, whole.right)
        y = network.analyse(_part(rgb, support, whole, LATENT), index)
        streams, checksums, z_hat, y_hat = network.encode(_part(y, window, support), index, layout)
        for record, stream, checksum in zip(records, streams, checksums, strict=True):
            record.append(container.Tile(stream, checksum))
        for each, z in zip(z_hats, z_hat.cpu().numpy(), strict=True):
            each.append(z)
        if tiles.is_measured(part, len(windows)):
            fine = network.synthesise(y_hat, index, 16).cpu().numpy().astype(np.uint16)
            for sums, x_hat, picture in zip(statistics, fine, pictures, strict=True):
                x = picture.permute(1, 2, 0)[window.within(whole, LATENT)].cpu().numpy()
                sums.add(x_hat[: x.shape[0], : x.shape[1]], image.at_depth(x, 16))
    header = container.Header(width, height, index, loaded.model_id, False, edge)
    for place, sums, record, z in zip(rest, statistics, records, z_hats, strict=True):
        nic = container.NicFile(header, tiles.filter_chunk(sums, loaded, index), tuple(record))
        of_screen[place] = container.write(tiles.with_z_apart(nic, z, host, layout))
    return [of_screen[place] for place in range(count)]


class NicFolder(Dataset[bytes]):
    """The bytes of all .nic files below a folder, sorted by path. Raises ArgumentValueError if there are none."""

    def __init__(self, folder: str | Path) -> None:
        self.paths = sorted(path for path in Path(folder).rglob("*.nic") if path.is_file())
        if not self.paths:
            raise ArgumentValueError(f"{folder} holds no .nic files.")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> bytes:
        """The bytes of a file. Raises NicFormatError, with its path, if it cannot be read or its header is damaged."""
        with _named(self.paths[place]):
            return container.read_bytes(self.paths[place])


class SameSize(Sampler[list[int]]):
    """Batches of files of one size and model, each file once; the last batch of each size may be smaller.

    shuffle: generator that draws a new order of files and batches each epoch; None keeps the order of the folder.
    Raises ArgumentError for a batch size below 1, NicFormatError, with its path, for a file whose header is damaged.
    """

    def __init__(self, folder: NicFolder, batch_size: int, shuffle: torch.Generator | None = None) -> None:
        self._batch_size, self._shuffle = arguments.integer("batch_size", batch_size, 1), shuffle
        self._groups: dict[tuple[int, int, bytes], list[int]] = {}
        for place, path in enumerate(folder.paths):
            with _named(path), path.open("rb") as file:
                header = container.read_header(file.read(container.HEADER_BYTES))
            self._groups.setdefault((header.width, header.height, header.model_id), []).append(place)

    def __len__(self) -> int:
        return sum(-(-len(places) // self._batch_size) for places in self._groups.values())

    def __iter__(self) -> Iterator[list[int]]:
        batches = []
        for places in self._groups.values():
            drawn = [places[i] for i in self._order(len(places))]
            batches += [drawn[i : i + self._batch_size] for i in range(0, len(drawn), self._batch_size)]
        return (batches[i] for i in self._order(len(batches)))

    def _order(self, count: int) -> list[int]:
        if self._shuffle is None:
            return list(range(count))
        order: list[int] = torch.randperm(count, generator=self._shuffle).tolist()
        return order


# ---------------------------------------------------------------------------------------------------- on the device


class BatchNetwork:
    """Networks and range coder of one model on a device, for the same tile of a batch. Computes what a `Network` does.

    library: the CUDA coder, or None for the CPU's.
    """

    def __init__(self, model: Model, device: str, library: cuda.Library | None) -> None:
        self.model, self.device, self._library = model, torch.device(device), library
        self._arithmetic = BatchArithmetic(device)
        self._network = LayerwiseNetwork(model, self._arithmetic)

    def pad(self, rgb: Tensor) -> Tensor:
        """Extends uint8 (B, H, W, 3) to multiples of 16 by repeating the edges."""
        height, width = rgb.shape[1:3]
        padded: Tensor = self._arithmetic.pad_edge(rgb, -height % LATENT, -width % LATENT)
        return padded

    @torch.inference_mode()
    def analyse(self, rgb: Tensor, quality_index: QualityIndex) -> Tensor:
        """uint8 (B, 16 h, 16 w, 3) -> y, int32 (B, h, w, M) in units of 1/64."""
        y: Tensor = self._network.analyse(rgb, quality_index)
        return y

    @torch.inference_mode()
    def synthesise(self, y_hat: Tensor, quality_index: QualityIndex, depth: int = 8) -> Tensor:
        """y_hat, int32 (B, h, w, M) in units of 1/64 -> (B, 16 h, 16 w, 3): uint8, or int32 for a depth of 16."""
        rgb: Tensor = self._network.synthesise(y_hat, quality_index, depth)
        return rgb

    @torch.inference_mode()
    def synthesise_filtered(
        self, y_hat: Tensor, quality_index: QualityIndex, filters: Sequence[PixelFilter | None]
    ) -> Tensor:
        """`synthesise` to uint8, then the filter of each picture that has one. filters: one, or None, a picture."""
        if not any(filters):
            return self.synthesise(y_hat, quality_index)
        fine = self.synthesise(y_hat, quality_index, 16)
        rgb = torch.empty_like(fine) if all(filters) else self.synthesise(y_hat, quality_index).int()
        for place, pixel_filter in enumerate(filters):
            if pixel_filter:
                rgb[place] = pixel_filter.define(fine[place], 8)
        return rgb.to(torch.uint8)

    @torch.inference_mode()
    def encode(
        self, y: Tensor, quality_index: QualityIndex, layout: str
    ) -> tuple[list[bytes], list[int], Tensor, Tensor]:
        """y, int32 (B, h, w, M) -> the stream of each picture and the checksum of its latents; z_hat and y_hat."""
        stages, latents = self._network.walk(y, quality_index)
        y_hat: Tensor = latents.y_hat  # type: ignore[assignment]
        symbols = torch.cat([stage.symbols.flatten(1) for stage in stages], 1)
        rows = torch.cat([stage.rows.flatten(1) for stage in stages], 1)
        calls = [stage.symbols[0].numel() for stage in stages]
        if self._library is None:
            streams = [
                coder.encode(s, r, self.model.tables, calls=calls, layout=layout)
                for s, r in zip(symbols.cpu().numpy(), rows.cpu().numpy(), strict=True)
            ]
        else:
            layouts = [coder.layout_of(layout, n) for n in symbols.count_nonzero(1).tolist()]
            arrays = self.array(symbols), self.array(rows)
            streams = cuda.encode(
                *arrays, self.model.tables, self._library, calls=calls, layouts=layouts, **self.where()
            )
        z_hat: Tensor = stages[0].symbols
        return streams, self.checksums(z_hat, y_hat), z_hat, y_hat

    @torch.inference_mode()
    def decode(
        self,
        streams: Sequence[bytes],
        height: int,
        width: int,
        quality_index: QualityIndex,
        z_hat: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[NicFormatError | None]]:
        """The streams of a tile -> z_hat, y_hat, int32 (B, height, width, M) in units of 1/64, and an error or None.

        z_hat: if the streams leave it out. The latents of a stream with an error are meaningless.
        """
        decoder: _HostDecoder | _DeviceDecoder
        if self._library is None:
            decoder = _HostDecoder(streams, self.model)
        else:
            decoder = _DeviceDecoder(streams, self, self._library)
        shape = (len(streams), height, width, self.model.config.latent_channels)
        y_hat = torch.zeros(shape, dtype=torch.int32, device=self.device)
        for stage in self._network.entropy.stages(quality_index, y_hat):
            if stage.step is None:
                z_hat = stage.symbols = decoder.decode(stage.rows) if z_hat is None else z_hat
            else:
                stage.symbols = decoder.decode(stage.rows)
        assert z_hat is not None
        return z_hat, y_hat, decoder.finish()

    def checksums(self, z_hat: Tensor, y_hat: Tensor) -> list[int]:
        """`Latents.checksum` of each picture."""
        if self._library is None:
            parts = [np.ascontiguousarray(x.cpu().numpy(), "<i4") for x in (z_hat, y_hat)]
            return [zlib.crc32(y.tobytes(), zlib.crc32(z.tobytes())) for z, y in zip(*parts, strict=True)]
        registers = torch.full((len(y_hat),), -1, dtype=torch.int32, device=self.device)
        for values in (z_hat, y_hat):
            before, registers = registers, torch.empty_like(registers)
            flat, old, new = (self.array(x) for x in (values.flatten(1), before, registers))
            cuda.crc32(flat, old, new, self._library, **self.where())
        return [~register & 0xFFFFFFFF for register in registers.tolist()]

    def array(self, values: Tensor) -> Any:
        """A tensor as an array that the library accepts; contiguous tensors are not copied."""
        values = values.contiguous()
        return values.numpy() if self._library is not None and self._library.on_host else values

    def where(self) -> dict[str, int]:
        """The device number and PyTorch's current stream on it."""
        if self.device.type != "cuda":
            return {"device": 0, "stream": 0}
        stream = torch.cuda.current_stream(self.device)
        return {"device": stream.device_index, "stream": stream.cuda_stream}


class _DeviceDecoder:
    """Keeps symbols and rows on the device and does not wait for it before `finish`."""

    def __init__(self, streams: Sequence[bytes], network: BatchNetwork, library: cuda.Library) -> None:
        self._array = network.array
        self._decoder = cuda.BatchDecoder(streams, network.model.tables, library, **network.where())

    def decode(self, rows: Tensor) -> Tensor:
        symbols = torch.empty(rows.shape, dtype=torch.int32, device=rows.device)
        self._decoder.decode(self._array(rows.flatten(1)), self._array(symbols.flatten(1)))
        return symbols

    def finish(self) -> list[NicFormatError | None]:
        return self._decoder.finish()


class _HostDecoder:
    """Decodes on the CPU: copies rows there and symbols back to the device."""

    def __init__(self, streams: Sequence[bytes], model: Model) -> None:
        self._errors: list[NicFormatError | None] = [None] * len(streams)
        self._decoders: list[coder.Decoder | None] = [None] * len(streams)
        for i, stream in enumerate(streams):
            try:
                self._decoders[i] = coder.Decoder(stream, model.tables)
            except NicFormatError as error:
                self._errors[i] = error

    def decode(self, rows: Tensor) -> Tensor:
        symbols = np.zeros(rows.shape, np.int32)
        for i, picture in enumerate(rows.cpu().numpy()):
            if (decoder := self._decoders[i]) is not None and self._errors[i] is None:
                try:
                    symbols[i] = decoder.decode(picture)
                except NicFormatError as error:
                    self._errors[i] = error
        return torch.from_numpy(symbols).to(rows.device)

    def finish(self) -> list[NicFormatError | None]:
        for i, decoder in enumerate(self._decoders):
            if decoder is not None and self._errors[i] is None:
                try:
                    decoder.finish()
                except NicFormatError as error:
                    self._errors[i] = error
        return self._errors


@functools.lru_cache(maxsize=8)
def batch_network(model: Model, device: str) -> BatchNetwork:
    """The batch network of a model on a device, built once."""
    return BatchNetwork(model, device, cuda.library() if device.startswith("cuda") else None)


def _decode(nics: Sequence[container.NicFile], network: BatchNetwork, places: Sequence[int]) -> Tensor:
    """Decodes files of one size and tile edge to uint8 (B, 3, H, W). places: their indexes in the whole batch.

    Either all of them have separate streams of z, or none has.
    """
    header = nics[0].header
    if header.width * header.height > tiling.MAX_PIXELS:
        raise NicFormatError(
            f"the pictures have {header.width * header.height} pixels; at most {tiling.MAX_PIXELS} fit."
        )
    codec.check_decodable(header, network.model)
    index = _shared([nic.header.quality_index for nic in nics])
    whole = tiling.picture_window(header.height, header.width)
    windows, coded = list(tiles.windows_of(header)), [[tile for _, tile in tiles.tiles_of(nic)] for nic in nics]
    shape = (len(nics), *whole.shape, network.model.config.latent_channels)
    y_hat = torch.empty(shape, dtype=torch.int32, device=network.device)
    for number, window in enumerate(windows):
        records, z_apart = [each[number].record for each in coded], None
        if coded[0][number].z_stream:
            z_apart = _z_of([each[number].z_stream for each in coded], window, network, places)
        z_hat, latents, errors = network.decode([record.stream for record in records], *window.shape, index, z_apart)
        checksums = network.checksums(z_hat, latents)
        for place, record, error, checksum in zip(places, records, errors, checksums, strict=True):
            if error is None and checksum != record.symbols_crc:
                error = ChecksumError("the decoded symbols do not match the file's checksum: the file is damaged.")
            if error is not None:
                raise _in_batch(place, error)
        y_hat[(slice(None), *window.within(whole))] = latents
    rgb = torch.empty(
        (len(nics), LATENT * whole.bottom, LATENT * whole.right, 3), dtype=torch.uint8, device=network.device
    )
    filters = [tiles.filter_of(nic) for nic in nics]
    halo = network.model.config.synthesis_halo + any(filters) * FILTER_HALO
    for window in windows:
        support = window.grow(halo, whole.bottom, whole.right)
        pixels = network.synthesise_filtered(_part(y_hat, support, whole), index, filters)
        rgb[(slice(None), *window.within(whole, LATENT))] = _part(pixels, window, support, LATENT)
    for place, picture, nic in zip(places, rgb, nics, strict=True):
        for window, palette in screen.palettes_of(nic).values():
            part = picture[window.within(whole, LATENT)].cpu().numpy()
            try:
                palette.draw(part, window, window)
            except NicFormatError as error:
                raise _in_batch(place, error) from error
            picture[window.within(whole, LATENT)] = torch.from_numpy(part).to(network.device)
    rgb = rgb[:, : header.height, : header.width]
    gray = torch.tensor([nic.header.gray for nic in nics], device=network.device)[:, None, None, None]
    luma = ((rgb.sum(3, keepdim=True, dtype=torch.int32) + 1) // 3).to(torch.uint8)
    return torch.where(gray, luma, rgb).permute(0, 3, 1, 2)


def _z_of(streams: Sequence[bytes], window: Window, network: BatchNetwork, places: Sequence[int]) -> Tensor:
    """z_hat of a tile of each picture, from streams of its own, (B, ceil(h / 4), ceil(w / 4), N)."""
    shape, decoded = (*(-(-side // 4) for side in window.shape), network.model.config.hyper_channels), []
    for place, stream in zip(places, streams, strict=True):
        try:
            decoded.append(hyper.decode(stream, *shape))
        except NicFormatError as error:
            raise _in_batch(place, error) from error
    return torch.from_numpy(np.stack(decoded)).to(network.device)


def _part(values: Tensor, window: Window, buffer: Window, scale: int = 1) -> Tensor:
    """A window of (B, h, w, C), which covers the window `buffer` with `scale` elements per latent."""
    rows, columns = window.within(buffer, scale)
    return values[:, rows, columns].contiguous()


def _shared(indexes: list[int]) -> QualityIndex:
    """The quality index if all pictures share it, otherwise an array with one for each picture."""
    if len(set(indexes)) == 1:
        return indexes[0]
    each: NDArray[np.int64] = np.array(indexes, np.int64)
    return each


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Puts the path of a file in front of errors about it, unless they name it already."""
    try:
        yield
    except NicFormatError as error:
        raise type(error)(sentence(error, str(path))) from error
    except OSError as error:
        raise NicFormatError(f"{path}: {error.strerror}") from error


def _in_batch(place: int, error: NicFormatError) -> NicFormatError:
    """The error, with the index of its file in the batch."""
    return type(error)(f"file {place} of the batch: {error}")
