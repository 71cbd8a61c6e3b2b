// SPDX-License-Identifier: Apache-2.0
//
// Pixels -> a PNG with the colour profile of the file, which a browser shows in the right colours. It is made to be shown at
// once: nothing is compressed.

import { crc32 } from "./container.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const COLOUR_TYPES = { L: 0, RGB: 2, LA: 4, RGBA: 6 };
const MAX_STORED = 2 ** 16 - 1;  // bytes of a block of deflate that is not compressed
const ADLER_RUN = 5552;  // bytes whose sums stay below 2^32

/**
 * A PNG, as a Blob. pixels: { width, height, data }, RGBA, as `decode` gives them. mode: L, LA, RGB or RGBA; samples that it
 * lacks are left out. icc: the bytes of an ICC profile for that mode, or undefined.
 */
export function encodePng({ width, height, data }, mode, icc) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, COLOUR_TYPES[mode]], 8);
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", [header])];
  if (icc) parts.push(chunk("iCCP", [ascii("ICC profile\0\0"), ...stored([icc])]));
  parts.push(chunk("IDAT", stored(rows(width, height, data, mode))), chunk("IEND", []));
  return new Blob(parts, { type: "image/png" });
}

/** The rows of the picture, each after the number of its filter, 0. */
function* rows(width, height, data, mode) {
  const channels = { L: [0], LA: [0, 3], RGB: [0, 1, 2], RGBA: [0, 1, 2, 3] }[mode];
  for (let y = 0; y < height; ++y) {
    const row = new Uint8Array(1 + width * channels.length);
    for (let x = 0, from = y * width * 4, to = 1; x < width; ++x, from += 4) {
      for (const channel of channels) row[to++] = data[from + channel];
    }
    yield row;
  }
}
