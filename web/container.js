// SPDX-License-Identifier: Apache-2.0
//
// The .nic container: bytes -> header, chunks and tiles, after docs/format.md; and the alpha plane, a PNG. Every length is
// compared with the bytes that are left before it is used. Sentences are those of neurocodec/container.py and alpha.py.

const SIGNATURE = [0x8f, 0x4e, 0x49, 0x43];
const METADATA = [["iccp", "ICC"], ["exif", "EXIF"], ["xmpd", "XMP"]];
const VERSION = 1;
const LOSSLESS_VERSION = 2;  // version 1 and residual records, with which the picture is exact
export const HEADER_BYTES = 26;
const RECORD_BYTES = 12;
const MAX_SIDE = 2 ** 24 - 1;
const MAX_PIXELS = 2 ** 30;  // of any file
const MAX_CHUNK_BYTES = 2 ** 28;
const QUALITY_INDEX_MAX = 960;
const CONTEXT_STREAM_BYTES = 4;  // of a stream of docs/contexts.md, at least
const RETRY = "the file is damaged or incomplete, get another copy or encode it again";

/** What went wrong, in one sentence. `name` is the class that the Python package raises. */
export class NicError extends Error {
  constructor(message, name = "NicFormatError") {
    super(message);
    this.name = name;
  }
}

const truncated = (message) => new NicError(message, "TruncatedError");
const mismatch = (message) => new NicError(message, "ChecksumError");
const unsupported = (message) => new NicError(message, "UnsupportedVersionError");

/**
 * The fixed part of a file, from its first 26 bytes; the rest is not checked.
 * modelId: 16 hex digits. tileEdge: pixels, or null for a single tile.
 */
export function readHeader(bytes) {
  if (bytes.length === 0) {
    throw truncated("the file is empty, expected a .nic file: check that it was written or copied completely");
  }
  if (SIGNATURE.some((byte, i) => i < bytes.length && bytes[i] !== byte)) throw new NicError(notANic(bytes));
  if (bytes.length > 4 && bytes[4] !== VERSION && bytes[4] !== LOSSLESS_VERSION) {
    throw unsupported(
      `this .nic file has format version ${bytes[4]}, this release reads versions ${VERSION} and ${LOSSLESS_VERSION}: ` +
        "upgrade neurocodec, or get another copy of the file if it may be damaged",
    );
  }
  if (bytes.length < HEADER_BYTES) {
    throw truncated(`the file ends after ${bytes.length} bytes, inside the header of ${HEADER_BYTES}: ${RETRY}`);
  }
  const view = viewOf(bytes);
  if (view.getUint32(HEADER_BYTES - 4, true) !== crc32(bytes.subarray(0, HEADER_BYTES - 4))) {
    throw mismatch(`the header's checksum does not match: ${RETRY}`);
  }
  const flags = bytes[5];
  const lossless = bytes[4] === LOSSLESS_VERSION;
  if (flags & 0b11000000) throw new NicError(`the header sets reserved flag bits (0x${hex([flags])}): upgrade neurocodec`);
  if (((flags & 0b00100000) !== 0) !== lossless) {
    throw new NicError(
      `the header of version ${bytes[4]} sets reserved flag bits or lacks its own (0x${hex([flags])})`,
    );
  }
  const code = (flags >> 2) & 7;
  const header = {
    width: view.getUint16(8, true) | (bytes[10] << 16),
    height: view.getUint16(11, true) | (bytes[13] << 16),
    qualityIndex: view.getUint16(6, true),
    modelId: hex(bytes.subarray(14, 22)),
    gray: (flags & 2) !== 0,
    hasChunks: (flags & 1) !== 0,
    tileEdge: code ? 128 << code : null,
    lossless,
  };
  const { width, height, qualityIndex, tileEdge } = header;
  if (width < 1 || height < 1) {
    throw new NicError(`the picture is ${width} x ${height} pixels, expected 1 to ${MAX_SIDE} on each side`);
  }
  if (width * height > MAX_PIXELS) {
    throw new NicError(`the picture is ${width} x ${height} pixels, more than the limit of ${MAX_PIXELS}`);
  }
  if (qualityIndex > QUALITY_INDEX_MAX) {
    throw new NicError(`the quality index is ${qualityIndex}, expected 0 to ${QUALITY_INDEX_MAX}`);
  }
  if (tileEdge !== null && tileEdge >= width && tileEdge >= height) {
    throw new NicError(`one tile of edge ${tileEdge} covers all of ${width} x ${height}, expected tile code 0`);
  }
  return header;
}

/**
 * The whole file, verified: { header, chunks: Map of type -> bytes, tiles, residuals }. No copies.
 * tiles: [{ stream, symbolsCrc, palette, zStream }]; the last two are undefined if the file lacks their chunks. residuals: one
 * a tile if the file is lossless, and symbolsCrc is that of the tile's exact pixels. If the option is false, a lossless
 * file is read as the lossy one that it starts with, and what follows may be cut or damaged.
 */
export function read(bytes, { residuals = true } = {}) {
  const header = readHeader(bytes);
  const chunks = new Map();
  const start = header.hasChunks ? readChunks(bytes, chunks) : HEADER_BYTES;
  const [palettes, zStreams] = ["Plte", "Zstr"].map((name) => tileRecords(name, chunks, header));
  const excluded = ["Al16", "Arch", "Filt", "Plte", "dept"].find((name) => chunks.has(name));
  if (header.lossless && excluded) {
    throw new NicError(`a lossless file cannot have a chunk ${excluded}, and this one does`);
  }
  const lossy = readTiles(bytes, start, header, 0);
  const tiles = lossy.tiles.map((tile, i) => ({ ...tile, palette: palettes[i], zStream: zStreams[i] }));
  if (header.lossless && !residuals) {
    return { header: { ...header, lossless: false }, chunks, tiles, residuals: [] };
  }
  const exact = header.lossless ? readTiles(bytes, lossy.end, header, tiles.length) : { tiles: [], end: lossy.end };
  if (exact.end !== bytes.length) {
    const extra = bytes.length - exact.end;
    throw new NicError(`${extra === 1 ? "1 byte follows" : `${extra} bytes follow`} the last tile, expected none: ${RETRY}`);
  }
  return { header, chunks, tiles, residuals: exact.tiles };
}

/** Throws an error for a file that needs a network of another project. */
export function refuseForeign({ header, chunks }) {
  if (!chunks.has("Arch")) return;
  const [library, ...model] = text(chunks.get("Arch")).split("/");
  throw unsupported(
    library === "compressai"
      ? `the file needs the CompressAI network ${model.join("/")} with the weights ${header.modelId}: ` +
          "decode it with the Python package"
      : `the file needs the network ${model.join("/")} of ${library}, which this release does not know: upgrade neurocodec`,
  );
}

/** What the file says about itself; see nic.d.ts. */
export function info(bytes) {
  const { header, chunks, tiles, residuals } = read(bytes);
  const { width, height, qualityIndex, modelId, lossless } = header;
  const size = (name) => chunks.get(name)?.length ?? 0;
  return {
    width,
    height,
    mode: modeOf(header, chunks),
    quality: 1 + (99 * qualityIndex) / QUALITY_INDEX_MAX,
    qualityIndex,
    modelId,
    tiles: tiles.length,
    bytes: bytes.length,
    bpp: (8 * bytes.length) / (width * height),
    hasAlpha: alphaOf(chunks) !== undefined,
    metadata: Object.fromEntries(METADATA.filter(([name]) => chunks.has(name)).map(([name, kind]) => [kind, size(name)])),
    sourceDepth: chunks.get("dept")?.[0] ?? 8,
    version: lossless ? LOSSLESS_VERSION : VERSION,
    architecture: chunks.has("Arch") ? text(chunks.get("Arch")) : "",
    lossless,
    firstBytes: bytes.length - residuals.reduce((sum, { stream }) => sum + RECORD_BYTES + stream.length, 0),
  };
}

/** Of the decoded picture: L, LA, RGB or RGBA. */
export const modeOf = ({ gray }, chunks) => (gray ? "L" : "RGB") + (alphaOf(chunks) ? "A" : "");

function readChunks(bytes, chunks) {
  const view = viewOf(bytes);
  for (let at = HEADER_BYTES; ; ) {
    if (bytes.length - at < RECORD_BYTES) {
      throw truncated(`the file ends at byte ${bytes.length}, inside the chunk list: ${RETRY}`);
    }
    const name = text(bytes.subarray(at, at + 4));
    const length = view.getUint32(at + 4, true);
    if (!/^[A-Za-z][A-Za-z0-9]{3}$/.test(name)) {
      throw new NicError(`byte ${at} holds ${quoted(name)}, expected a chunk type of a letter and 3 letters or digits`);
    }
    if (length > MAX_CHUNK_BYTES) {
      throw new NicError(`chunk ${name} claims ${length} bytes, the limit is ${MAX_CHUNK_BYTES}: ${RETRY}`);
    }
    const end = at + 8 + length;
    if (bytes.length - end < 4) throw truncated(`chunk ${name} claims ${length} bytes, more than are left: ${RETRY}`);
    if (view.getUint32(end, true) !== crc32(bytes.subarray(at, end))) {
      throw mismatch(`the checksum of chunk ${name} does not match: ${RETRY}`);
    }
    const payload = bytes.subarray(at + 8, end);
    at = end + 4;
    if (name === "Tile") {
      if (length) throw new NicError(`the end marker Tile holds ${length} bytes, expected none`);
      if (chunks.size === 0) throw new NicError("the header announces chunks, but none follow");
      return at;
    }
    if (chunks.has(name)) throw new NicError(`chunk ${name} appears twice, expected at most one of each type`);
    checkChunk(name, payload);
    chunks.set(name, payload);
    if (chunks.has("Alph") && chunks.has("Al16")) {
      throw new NicError("the file has two alpha planes, Alph and Al16: encode the picture again");
    }
    const foreign = chunks.has("Arch") && ["Filt", "Plte", "Zstr"].find((kind) => chunks.has(kind));
    if (foreign) {
      throw new NicError(`the file has a ${foreign} for a network of another project: encode the picture again`);
    }
  }
}

function checkChunk(name, payload) {
  if (name === "dept" && (payload.length !== 1 || payload[0] < 9 || payload[0] > 32)) {
    throw new NicError(`chunk dept holds '${hex(payload.subarray(0, 8))}', expected one byte from 9 to 32`);
  }
  if (name === "Filt" && (payload.length !== 55 || payload[0] < 6 || payload[0] > 10)) {
    const start = hex(payload.subarray(0, 8));
    throw new NicError(`chunk Filt holds ${payload.length} bytes, '${start}', expected 55, the first of them from 6 to 10`);
  }
  if (name === "Arch" && !/^(?=.{3,64}$)[a-z0-9][a-z0-9.-]*(\/[a-z0-9][a-z0-9.-]*)+$/.test(text(payload))) {
    throw new NicError(
      `chunk Arch holds b${quoted(text(payload.subarray(0, 64)))}, expected a name such as compressai/mbt2018-mean/mse/3`,
    );
  }
  if (name[0] < "a" && !["Alph", "Al16", "Arch", "Filt", "Plte", "Zstr"].includes(name)) {
    throw unsupported(`the file needs the feature '${name}', unknown to this release: upgrade neurocodec`);
  }
}

const gridOf = ({ width, height, tileEdge }) =>
  tileEdge ? [Math.ceil(height / tileEdge), Math.ceil(width / tileEdge)] : [1, 1];

/** The records of a chunk that has one for each tile, or none if the file lacks it. */
function tileRecords(name, chunks, header) {
  const payload = chunks.get(name);
  if (!payload) return [];
  const view = viewOf(payload);
  const [rows, columns] = gridOf(header);
  const records = [];
  let at = 0;
  for (let ordinal = 0; ordinal < rows * columns; ++ordinal) {
    const left = payload.length - at - 4;
    if (left < 0) throw new NicError(`chunk ${name} ends after ${ordinal} of ${rows} x ${columns} tiles`);
    const length = view.getUint32(at, true);
    const bytes = `${length} bytes for tile ${ordinal}`;
    if (length > left) throw new NicError(`chunk ${name} claims ${bytes}, more than are left`);
    const record = payload.subarray(at + 4, at + 4 + length);
    if (name === "Zstr" && length < CONTEXT_STREAM_BYTES) {
      throw new NicError(`chunk ${name} has ${bytes}, fewer than a stream has`);
    }
    if (name === "Plte" && length && !(record[0] && length >= 1 + 3 * record[0] + CONTEXT_STREAM_BYTES)) {
      throw new NicError(`chunk ${name} has ${bytes} and its ${record[0]} colours`);
    }
    records.push(record);
    at += 4 + length;
  }
  if (!records.some((record) => record.length)) throw new NicError(`chunk ${name} has only empty records`);
  if (at !== payload.length) throw new NicError(`chunk ${name} has ${payload.length - at} bytes after the last record`);
  return records;
}

/** The records of all tiles from offset `start`, and where they end. first: the number of the first record. */
function readTiles(bytes, start, header, first) {
  const view = viewOf(bytes);
  const [rows, columns] = gridOf(header);
  if (rows * columns * RECORD_BYTES > bytes.length - start) {
    throw truncated(`the file ends at byte ${bytes.length}, too early for ${rows} x ${columns} tiles: ${RETRY}`);
  }
  const tiles = [];
  let at = start;
  for (let ordinal = first; ordinal < first + rows * columns; ++ordinal) {
    if (bytes.length - at < RECORD_BYTES) {
      throw truncated(`the file ends at byte ${bytes.length}, before tile ${ordinal}: ${RETRY}`);
    }
    const length = view.getUint32(at, true);
    const symbolsCrc = view.getUint32(at + 4, true);
    const crc = view.getUint32(at + 8, true);
    const fields = bytes.subarray(at, at + 8);
    at += RECORD_BYTES;
    if (length > bytes.length - at) {
      throw truncated(`tile ${ordinal} claims ${length} bytes, ${bytes.length - at} are left: ${RETRY}`);
    }
    const stream = bytes.subarray(at, at + length);
    const number = Uint8Array.from([0, 8, 16, 24], (shift) => ordinal >> shift);
    if (crc !== crc32(number, crc32(stream, crc32(fields)))) {
      throw mismatch(`the checksum of tile ${ordinal} does not match: ${RETRY}`);
    }
    tiles.push({ stream, symbolsCrc });
    at += length;
  }
  return { tiles, end: at };
}

// ------------------------------------------------------------------------------------------------------------ alpha

const MAX_ALPHA_CHUNKS = 2 ** 16;
const AGAIN = "the file is damaged, encode the picture again";
const PNG_SIGNATURE = "89504e470d0a1a0a";

/** The alpha plane of a file: { png, depth }, or undefined. */
export function alphaOf(chunks) {
  if (chunks.has("Alph")) return { png: chunks.get("Alph"), depth: 8 };
  return chunks.has("Al16") ? { png: chunks.get("Al16"), depth: 16 } : undefined;
}

/** The header that the PNG of an alpha plane must have: gray of 8 or 16 bits, not interlaced. */
function alphaHeader(width, height, depth) {
  const header = new Uint8Array(13);
  const view = viewOf(header);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = depth;
  return hex(header);
}

/** Checks the header of a PNG that holds an alpha plane of this size. */
export function checkAlpha({ png, depth }, width, height) {
  dataChunks(png, width, height, depth).next();
}

/** The pieces of the zlib stream in the PNG of an alpha plane; as in neurocodec/alpha.py. */
function* dataChunks(png, width, height, depth) {
  if (hex(png.subarray(0, 8)) !== PNG_SIGNATURE) throw new NicError(`the alpha plane is not a PNG: ${AGAIN}`);
  const view = viewOf(png);
  const header = alphaHeader(width, height, depth);
  let previous = "";
  let ended = false;
  for (let at = 8, count = 0; count < MAX_ALPHA_CHUNKS; ++count) {
    const end = png.length - at >= 12 ? at + 8 + view.getUint32(at) : Infinity;
    if (end + 4 > png.length) throw new NicError(`the alpha plane ends inside a chunk: ${AGAIN}`);
    const name = text(png.subarray(at + 4, at + 8));
    const payload = png.subarray(at + 8, end);
    if (crc32(png.subarray(at + 4, end)) !== view.getUint32(end)) {
      throw new NicError(`the checksum of a chunk of the alpha plane does not match: ${AGAIN}`);
    }
    if (!previous && (name !== "IHDR" || hex(payload) !== header)) {
      throw new NicError(
        `the alpha plane has the header ${hex(payload.subarray(0, 13))}, expected ${header}, ${depth}-bit gray and of the ` +
          "picture's size: encode the picture again",
      );
    }
    ended ||= previous === "IDAT" && name !== "IDAT";
    if (name === "IDAT" && !ended) yield payload;
    else if (name === "IEND" && end + 4 === png.length) return;
    else if (previous && /^[A-Z]/.test(name)) {
      throw new NicError(`the alpha plane has a chunk b'${name}' out of place: ${AGAIN}`);
    }
    at = end + 4;
    previous = name;
  }
  throw new NicError(`the alpha plane has more than ${MAX_ALPHA_CHUNKS} chunks: ${AGAIN}`);
}

/** Calls put(y, samples) with each row of an alpha plane, 0 to height - 1, in 8 bits; no more than a row is held. */
export async function decodeAlpha({ png, depth }, width, height, put) {
  const parts = [...dataChunks(png, width, height, depth)];
  const bytes = depth / 8;
  const missing = new NicError(`the alpha plane does not hold ${width} x ${height} samples: ${AGAIN}`);
  const line = new Uint8Array(width * bytes + 1);  // a filter type, then the samples
  let above = new Uint8Array(width * bytes);
  let filled = 0;
  let y = 0;
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => Promise.reject(missing));
      if (done) break;
      for (let at = 0; at < value.length; ) {
        if (y === height) throw missing;
        const some = value.subarray(at, at + line.length - filled);
        line.set(some, filled);
        filled += some.length;
        at += some.length;
        if (filled === line.length) {
          above = unfilter(line, above, bytes);
          put(y++, depth === 8 ? above : inEightBits(above));
          filled = 0;
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
  if (y !== height || filled !== 0) throw missing;
}

function unfilter(line, above, bytes) {
  const row = new Uint8Array(above.length);
  for (let x = 0; x < row.length; ++x) {
    row[x] = line[x + 1] + predicted(line[0], row[x - bytes] ?? 0, above[x], above[x - bytes] ?? 0);
  }
  return row;
}

/** 16-bit samples, big-endian, to the nearest of 255 levels. */
function inEightBits(row) {
  return Uint8Array.from({ length: row.length / 2 }, (_, x) => Math.round((256 * row[2 * x] + row[2 * x + 1]) / 257));
}

function predicted(filter, left, above, corner) {
  switch (filter) {
    case 0: return 0;
    case 1: return left;
    case 2: return above;
    case 3: return (left + above) >> 1;
    case 4: {
      const a = Math.abs(above - corner);
      const b = Math.abs(left - corner);
      const c = Math.abs(left + above - 2 * corner);
      return a <= b && a <= c ? left : b <= c ? above : corner;
    }
    default: throw new NicError(`the alpha plane has an unknown filter: ${AGAIN}`);
  }
}

// ------------------------------------------------------------------------------------------------------------ bytes

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; ++bit) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});

/** CRC-32 of PNG and zlib; `start`: that of the bytes before. */
export function crc32(bytes, start = 0) {
  let crc = ~start;
  for (let i = 0; i < bytes.length; ++i) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function notANic(bytes) {
  const start = text(bytes.subarray(0, 16));
  const kinds = [
    [/^\xff\xd8\xff/, "a JPEG"],
    [/^\x89PNG/, "a PNG"],
    [/^GIF8/, "a GIF"],
    [/^RIFF.{4}WEBP/s, "a WebP"],
    [/^BM/, "a BMP"],
    [/^(II\*\0|MM\0\*)/, "a TIFF"],
    [/^.{4}ftypavi[fs]/s, "an AVIF"],
    [/^.{4}ftyp(hei|mif1)/s, "a HEIC"],
    [/^(\xff\x0a|\0\0\0\x0cJXL )/, "a JPEG XL"],
    [/^BPG\xfb/, "a BPG"],
  ];
  const kind = kinds.find(([pattern]) => pattern.test(start));
  if (kind) return `this is ${kind[1]} file, not a .nic file: encode it first, with \`neurocodec encode\``;
  const first = hex(bytes.subarray(0, 4), " ");
  const expected = hex(SIGNATURE, " ");
  return start.slice(1, 4) === "NIC"
    ? `the signature is damaged, ${first} instead of ${expected}: ${RETRY}`
    : `this is not a .nic file: it starts with ${first}, expected ${expected}`;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
export const hex = (bytes, between = "") => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(between);
const text = (bytes) => String.fromCharCode(...bytes.subarray(0, 65));  // names have at most 64

/** As Python writes a string of Latin letters. */
const quoted = (string) =>
  `'${string.replace(/[\0-\x1f'\\\x7f-\xa0\xad]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`)}'`;
