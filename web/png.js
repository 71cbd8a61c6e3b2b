// SPDX-License-Identifier: Apache-2.0
//
// Pixels -> a PNG with the colour profile of the file, which a browser shows in the right colours. It is made to be shown at
// once: nothing in it is compressed.

import { crc32 } from "./container.js";

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const COLOUR_TYPES = { L: 0, RGB: 2, LA: 4, RGBA: 6 };
const CHANNELS = { L: [0], RGB: [0, 1, 2], LA: [0, 3], RGBA: [0, 1, 2, 3] };  // of RGBA
const LARGEST_BLOCK = 2 ** 16 - 1;  // bytes
const ADLER = 65521;
const ADLER_BYTES = 3800;  // whose sums stay below 2^31

/**
 * pixels: { width, height, data }, RGBA. mode: L, LA, RGB or RGBA; samples that it lacks are left out. icc: the bytes of a
 * profile for gray or for RGB, as the mode is, or undefined. Returns a Blob.
 */
export function encodePng({ width, height, data }, mode, icc) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8;  // bits
  header[9] = COLOUR_TYPES[mode];
  const chunks = [chunk("IHDR", [header]), chunk("IDAT", zlib(rowsOf(width, height, data, CHANNELS[mode]))), chunk("IEND", [])];
  if (icc) chunks.splice(1, 0, chunk("iCCP", [ascii("ICC profile\0\0"), ...zlib([icc])]));
  return new Blob([SIGNATURE, ...chunks], { type: "image/png" });
}

/** Each row after the number of its filter, 0. */
function* rowsOf(width, height, data, channels) {
  for (let y = 0, from = 0; y < height; ++y) {
    const row = new Uint8Array(1 + width * channels.length);
    for (let x = 0, to = 1; x < width; ++x, from += 4) {
      for (const channel of channels) row[to++] = data[from + channel];
    }
    yield row;
  }
}

/** A zlib stream of blocks that are not compressed. */
function zlib(parts) {
  const stream = [Uint8Array.of(0x78, 0x01)];
  let [a, b] = [1, 0];
  for (const part of parts) {
    for (let at = 0; at < part.length; at += LARGEST_BLOCK) stream.push(...block(part.subarray(at, at + LARGEST_BLOCK), 0));
    for (let at = 0; at < part.length; ) {
      for (const end = Math.min(at + ADLER_BYTES, part.length); at < end; ++at) {
        a += part[at];
        b += a;
      }
      a %= ADLER;
      b %= ADLER;
    }
  }
  stream.push(...block(new Uint8Array(0), 1), Uint8Array.of(b >> 8, b, a >> 8, a));
  return stream;
}

const block = (bytes, last) => {
  const length = bytes.length;
  return [Uint8Array.of(last, length, length >> 8, ~length, ~length >> 8), bytes];
};

function chunk(name, parts) {
  const [length, type, crc] = [new Uint8Array(4), ascii(name), new Uint8Array(4)];
  new DataView(length.buffer).setUint32(0, parts.reduce((sum, part) => sum + part.length, 0));
  new DataView(crc.buffer).setUint32(0, parts.reduce((before, part) => crc32(part, before), crc32(type)));
  return new Blob([length, type, ...parts, crc]);
}

const ascii = (text) => new TextEncoder().encode(text);
