// SPDX-License-Identifier: Apache-2.0
//
// A parsed file -> pixels: the WebAssembly module with a model in it, and what neurocodec/codec.py does around it. It runs
// in a worker (worker.js), or in any other program that has WebAssembly.

import { NicError, alphaOf, checkAlpha, crc32, decodeAlpha, hex, refuseForeign } from "./container.js";

const LATENT = 16;  // pixels to a side
const LARGEST_TILE = 4096;  // pixels to a side: a short forged file must not use up the memory
const MAX_PIXELS = 2 ** 27;  // decoded at once
const PAGES = 2 ** 14;  // of 64 KiB: the most memory that core.cpp is linked for
const FIRST_PAGES = 64;
const STACK = 2 ** 18;  // bytes, of each helper
const REALISM_STEPS = 2048;
const ENCODER_PARTS = ["g_a.", "h_a.", "scales."];
const DECODER_SHAPE = [
  ...["channels", "decoder_blocks", "hidden_channels", "hyper_channels", "latent_blocks", "latent_channels"],
  "quality_rows",
];
const MODEL_SHAPE = [  // of nc_shape
  ...["channels", "latent_channels", "hyper_channels", "hidden_channels", "encoder_blocks", "decoder_blocks"],
  "latent_blocks",
];
const GENERATOR_SHAPE = ["channels", "blocks", "fine_blocks", "fine_width"];
const TYPES = { I8: [0, "int8", 1], I16: [1, "int16", 2], I32: [2, "int32", 4], U16: [3, "uint16", 2] };

/** The memory of an instance. Shared memory is allowed everywhere; only handing it to other workers is not. */
export const newMemory = () => new WebAssembly.Memory({ initial: FIRST_PAGES, maximum: PAGES, shared: true });

/** An instance of the module on a memory; see core.cpp and runtime.cpp. */
export async function instantiate(module, memory) {
  const fail = (at) => {
    const bytes = new Uint8Array(memory.buffer);
    throw new NicError(new TextDecoder().decode(bytes.slice(at, bytes.indexOf(0, at))));
  };
  return (await WebAssembly.instantiate(module, { env: { memory, fail } })).exports;
}

/** Makes a worker a helper of an instance; `ready` is called before it waits for work, for ever. */
export async function help({ module, memory, stack, tls }, ready) {
  const wasm = await instantiate(module, memory);
  wasm.__stack_pointer.value = stack + STACK;
  wasm.__wasm_init_tls(tls);
  ready();
  wasm.help();
}

/**
 * Realism, 0 to 1, of a file that `read` of container.js gives, in steps: 0 to 2048; above 0 the generative decoder decodes.
 * Throws NicError for another value, and above 0 for a lossless file.
 */
export function realismStep({ header }, realism) {
  if (typeof realism !== "number" || !(realism >= 0 && realism <= 1)) {
    throw new NicError(`realism is ${realism}; it must be a number from 0 to 1.`, "RangeError");
  }
  if (header.lossless && realism > 0) {
    throw new NicError("the file is lossless: realism above 0 needs lossless: false, the lossy picture.", "RangeError");
  }
  return Math.floor(REALISM_STEPS * realism + 0.5);
}

/** An instance with a model. It must not be used again when an error has set `alive` to false. */
export class Core {
  /** module: of nic.wasm. model: the bytes of a model file. Throws NicError if they are damaged. */
  static async create(module, model, memory = newMemory()) {
    const core = new Core();
    core.module = module;
    core.memory = memory;
    core.wasm = await instantiate(module, memory);
    core.wasm._initialize();
    core.threads = 1;
    core.alive = true;
    await core.#load(model);
    return core;
  }

  /** Starts `count` helpers. start(message) makes a worker that calls `help` with it, and resolves when that is ready. */
  async startHelpers(count, start) {
    const messages = Array.from({ length: count }, () => ({
      module: this.module,
      memory: this.memory,
      stack: this.#allocate(STACK),
      tls: this.#allocate(this.wasm.__tls_size.value + this.wasm.__tls_align.value),
    }));
    await Promise.all(messages.map(start));
    this.wasm.expect_helpers(count);
    this.threads = count + 1;
  }

  /**
   * file: what `read` of container.js gives. region: { x, y, width, height } in pixels, or undefined for all. realism: 0 to 1;
   * above 0 after `loadGenerator`. Returns { width, height, data }: RGBA in a Uint8ClampedArray.
   */
  async decode(file, { region, realism = 0 } = {}) {
    const { header, chunks } = file;
    refuseForeign(file);
    const step = realismStep(file, realism);
    const { x, y, width, height } = region ?? { x: 0, y: 0, width: header.width, height: header.height };
    const whole = [x, y, width, height].every(Number.isInteger);
    const inside = x >= 0 && y >= 0 && width > 0 && height > 0 && width <= header.width - x && height <= header.height - y;
    if (!whole || !inside) {
      throw new NicError(
        `the region (${x}, ${y}, ${width}, ${height}) is not inside the picture of ` +
          `${header.width}×${header.height} pixels.`,
        "RangeError",
      );
    }
    if (width * height > MAX_PIXELS) {
      const size = `${width} x ${height} pixels, more than the limit of ${MAX_PIXELS}`;
      throw new NicError(`the picture is ${size}: decode regions of it`);
    }
    if (header.modelId !== this.modelId) {
      throw new NicError(`the file needs model ${header.modelId}, and the model given is ${this.modelId}.`, "ModelMismatchError");
    }
    const longest = Math.max(header.width, header.height);
    if (Math.min(longest, header.tileEdge ?? longest) > LARGEST_TILE) {
      throw new NicError(`the file has tiles with sides above ${LARGEST_TILE} pixels, which this release does not read.`);
    }
    const alpha = alphaOf(chunks);
    if (alpha) checkAlpha(alpha, header.width, header.height);
    const data = this.#guard(() => this.#pixels(file, { x, y, width, height }, step));
    if (alpha) {
      await decodeAlpha(alpha, header.width, header.height, (row, samples) => {
        if (row < y || row >= y + height) return;
        for (let i = 0, to = (row - y) * width * 4 + 3; i < width; ++i, to += 4) data[to] = samples[x + i];
      });
    }
    return { width, height, data };
  }

  /** RGBA of a region, opaque. Tiles are decoded row by row, and kept while pixels near them need them. */
  #pixels({ header, chunks, tiles, residuals }, region, step) {
    const { width, height } = region;
    const whole = { top: 0, left: 0, bottom: Math.ceil(header.height / LATENT), right: Math.ceil(header.width / LATENT) };
    const windows = windowsOf(whole, header.tileEdge).map((window, i) => ({
      window,
      tile: tiles[i],
      residual: residuals[i],
    }));
    const shown = header.lossless ? wholeTiles(windows, regionWindow(region)) : regionWindow(region);
    const filter = step ? undefined : chunks.get("Filt");
    const halo = this.halo + (step ? this.generatorHalo : filter ? 1 : 0);
    const needed = grow(shown, halo, whole);
    const held = windows.filter(({ window }) => meet(window, needed));
    let data;  // allocated when a first tile has decoded: a forged header must not ask for it
    let next = 0;
    let latents = [];  // { window, values } of tiles
    for (const { window, tile, residual } of held) {
      const part = meet(window, shown);
      if (!part) continue;
      const seen = grow(part, halo, needed);
      for (; next < held.length && held[next].window.top < seen.bottom; ++next) {
        latents.push({ window: held[next].window, values: this.#latents(held[next], header.qualityIndex) });
      }
      latents = latents.filter((tile) => tile.window.bottom > seen.top);
      data ??= new Uint8ClampedArray(width * height * 4).fill(255);
      this.#synthesise(latents, seen, header.qualityIndex, step, filter, (rgb) => {
        if (tile.palette?.length) this.#draw(tile.palette, window, part, rgb, seen);
        if (residual) this.#exact(rgb, seen, window, residual, header, region, data);
        else copyPixels(rgb, seen, part, region, header.gray, data);
      });
    }
    return data;
  }

  /** y_hat of a tile, Int32Array (rows, columns, M). */
  #latents({ window, tile: { stream, symbolsCrc, zStream } }, qualityIndex) {
    const rows = window.bottom - window.top;
    const columns = window.right - window.left;
    const size = rows * columns * this.shape.latent_channels;
    const [from, z] = [this.#place(stream), zStream ? this.#place(zStream) : 0];
    const [yHat, checksum, run] = [4 * size, 4, 12].map((bytes) => this.#allocate(bytes));
    this.#setRun(run, qualityIndex);
    this.wasm.decode(this.model, run, from, stream.length, z, zStream?.length ?? 0, rows, columns, yHat, checksum);
    const crc = new Uint32Array(this.memory.buffer, checksum, 1)[0];
    const values = new Int32Array(this.memory.buffer, yHat, size).slice();
    [from, z, yHat, checksum, run].forEach(this.wasm.free);
    if (crc !== symbolsCrc) {
      throw new NicError(
        "the decoded symbols do not match the file's checksum: the file is damaged, or decoding is not exact.",
        "ChecksumError",
      );
    }
    return values;
  }

  /** Calls use(rgb) with the pixels of a window of latents, which are gone when it returns. filter: of the file, if any. */
  #synthesise(latents, seen, qualityIndex, step, filter, use) {
    const channels = this.shape.latent_channels;
    const rows = seen.bottom - seen.top;
    const columns = seen.right - seen.left;
    const size = rows * columns * channels;
    const [yHat, rgb, run] = [4 * size, rows * columns * LATENT * LATENT * 3, 12].map((bytes) => this.#allocate(bytes));
    const to = new Int32Array(this.memory.buffer, yHat, size);
    for (const { window, values } of latents) {
      const part = meet(window, seen);
      if (!part) continue;
      for (let row = part.top; row < part.bottom; ++row) {
        const from = ((row - window.top) * (window.right - window.left) + part.left - window.left) * channels;
        const count = (part.right - part.left) * channels;
        to.set(values.subarray(from, from + count), ((row - seen.top) * columns + part.left - seen.left) * channels);
      }
    }
    this.#setRun(run, qualityIndex);
    if (step) this.wasm.realise(this.model, this.generator, run, step, yHat, rows, columns, rgb);
    else if (filter) this.#filtered(filter, run, yHat, rows, columns, rgb);
    else this.wasm.synthesise(this.model, run, yHat, rows, columns, rgb);
    use(new Uint8Array(this.memory.buffer, rgb, rows * columns * LATENT * LATENT * 3));
    [yHat, rgb, run].forEach(this.wasm.free);
  }

  /** As the module's `synthesise`, and the filter of the file: the payload of its chunk. */
  #filtered(filter, run, yHat, rows, columns, rgb) {
    const [fine, weights] = [this.#allocate(2 * rows * columns * LATENT * LATENT * 3), this.#place(filter)];
    this.wasm.synthesise16(this.model, run, yHat, rows, columns, fine);
    this.wasm.filter(fine, rows * LATENT, columns * LATENT, filter[0], weights + 1, this.threads, rgb);
    [fine, weights].forEach(this.wasm.free);
  }

  /** Draws the palette of a tile over part of it. palette: its record; rgb: the pixels of the window `seen`. */
  #draw(palette, window, part, rgb, seen) {
    const rows = window.bottom - window.top;
    const columns = window.right - window.left;
    const count = palette[0];
    const stream = palette.subarray(1 + 3 * count);
    const size = rows * columns * LATENT * LATENT;
    const [from, at] = [this.#place(stream), this.#allocate(size)];
    this.wasm.decode_palette(from, stream.length, rows, columns, count, at);
    const indexes = new Uint8Array(this.memory.buffer, at, size);
    for (let y = part.top * LATENT; y < part.bottom * LATENT; ++y) {
      let source = ((y - window.top * LATENT) * columns + part.left - window.left) * LATENT;
      let to = ((y - seen.top * LATENT) * (seen.right - seen.left) + part.left - seen.left) * LATENT * 3;
      for (const end = source + (part.right - part.left) * LATENT; source < end; ++source, to += 3) {
        const index = indexes[source];
        if (index === count) continue;  // the pixel is what the networks decode
        for (let c = 0; c < 3; ++c) rgb[to + c] = palette[1 + 3 * index + c];
      }
    }
    [from, at].forEach(this.wasm.free);
  }

  /** Puts the exact pixels of a tile into the RGBA of a region. rgb: the lossy pixels of the window `seen`. */
  #exact(rgb, seen, window, { stream, symbolsCrc }, header, region, data) {
    const tile = {
      x: window.left * LATENT,
      y: window.top * LATENT,
      width: Math.min(window.right * LATENT, header.width) - window.left * LATENT,
      height: Math.min(window.bottom * LATENT, header.height) - window.top * LATENT,
    };
    const lossy = new Uint8ClampedArray(tile.width * tile.height * 4);
    copyPixels(rgb, seen, window, tile, header.gray, lossy);
    const channels = header.gray ? 1 : 3;
    const size = tile.width * tile.height * channels;
    const [from, at] = [this.#place(stream), this.#allocate(size)];
    const pixels = new Uint8Array(this.memory.buffer, at, size);
    for (let i = 0; i < size; ++i) pixels[i] = channels === 1 ? lossy[4 * i] : lossy[i + Math.floor(i / 3)];
    this.wasm.decode_residual(from, stream.length, at, tile.height, tile.width, channels);
    if (crc32(pixels) !== symbolsCrc) {
      throw new NicError("the file decoded to other pixels than were encoded: it is damaged.", "ChecksumError");
    }
    const top = Math.max(tile.y, region.y);
    const bottom = Math.min(tile.y + tile.height, region.y + region.height);
    const left = Math.max(tile.x, region.x);
    const right = Math.min(tile.x + tile.width, region.x + region.width);
    for (let y = top; y < bottom; ++y) {
      let source = ((y - tile.y) * tile.width + left - tile.x) * channels;
      let to = ((y - region.y) * region.width + left - region.x) * 4;
      for (let x = left; x < right; ++x, source += channels, to += 4) {
        data[to] = pixels[source];
        data[to + 1] = pixels[source + (channels >> 1)];
        data[to + 2] = pixels[source + channels - 1];
      }
    }
    [from, at].forEach(this.wasm.free);
  }

  /** An nc_run. */
  #setRun(at, qualityIndex) {
    new Uint32Array(this.memory.buffer, at, 3).set([qualityIndex, 0, this.threads]);
  }

  async #load(file) {
    const { arrays, shape, id } = await readModel(file);
    this.modelId = id;
    this.shape = shape;
    this.halo = shape.latent_blocks + Math.ceil(shape.decoder_blocks / 2);
    this.model = this.#guard(() => this.#build(MODEL_SHAPE, shape, arrays, this.wasm.model_new));
  }

  /** Takes the generative decoder for realism above 0. file: its bytes. Throws NicError if they do not fit the model. */
  loadGenerator(file) {
    const { format, arrays, shape, id } = parsed(file, GENERATOR);
    if (format !== "neurocodec-generator-2") throw damaged(GENERATOR, "its format is unknown");
    if (id !== this.modelId) {
      const sentence = `the generative decoder reads the latents of model ${id}, not of ${this.modelId}.`;
      throw new NicError(sentence, "ModelMismatchError");
    }
    const create = (...fields) => this.wasm.generator_new(this.model, ...fields);
    try {
      this.generator = this.#guard(() => this.#build(GENERATOR_SHAPE, shape, arrays, create));
    } catch (error) {
      throw error.name === "MemoryError" ? error : damaged(GENERATOR, error.message.replace(/\.$/, ""));
    }
    this.generatorHalo = Math.ceil(shape.blocks / 2) + Math.ceil(shape.fine_blocks / 8);
  }

  /** What create(shape, arrays, count, place for the result) makes of the contents of a file. */
  #build(numbers, shape, arrays, create) {
    const allocated = [];
    const place = (bytes) => {
      allocated.push(this.#place(bytes));
      return allocated.at(-1);
    };
    const fields = [];  // of nc_array
    for (const { name, type, dimensions, data } of arrays) {
      const [at, chars] = [place(data), place(new TextEncoder().encode(`${name}\0`))];
      fields.push(chars, type, at, dimensions.length, ...[0, 1, 2, 3].map((i) => dimensions[i] ?? 0));
    }
    const words = [...numbers.map((name) => shape[name]), ...fields, 0];
    const at = place(new Uint8Array(Uint32Array.from(words).buffer));
    create(at, at + 4 * numbers.length, arrays.length, at + 4 * (words.length - 1));
    const built = new Uint32Array(this.memory.buffer, at + 4 * (words.length - 1), 1)[0];
    allocated.forEach(this.wasm.free);
    return built;
  }

  #allocate(bytes) {
    const at = this.wasm.malloc(bytes);
    if (at === 0) throw noMemory();
    return at;
  }

  /** Copies bytes to where the module can read them. */
  #place(bytes) {
    const at = this.#allocate(bytes.length);
    new Uint8Array(this.memory.buffer).set(bytes, at);
    return at;
  }

  /** Runs the module. Whatever it throws ends the instance, which is not unwound. */
  #guard(body) {
    try {
      return body();
    } catch (error) {
      this.alive = false;
      throw error instanceof WebAssembly.RuntimeError || error instanceof RangeError ? noMemory() : error;
    }
  }
}

const noMemory = () =>
  new NicError("the picture needs more memory than this page has: decode a region of it", "MemoryError");

/** Pixels of a window -> their place in the RGBA of a region. seen: the window of rgb; part: the part of it to copy. */
function copyPixels(rgb, seen, part, region, gray, data) {
  const top = Math.max(part.top * LATENT, region.y);
  const bottom = Math.min(part.bottom * LATENT, region.y + region.height);
  const left = Math.max(part.left * LATENT, region.x);
  const right = Math.min(part.right * LATENT, region.x + region.width);
  for (let y = top; y < bottom; ++y) {
    let from = ((y - seen.top * LATENT) * (seen.right - seen.left) * LATENT + left - seen.left * LATENT) * 3;
    let to = ((y - region.y) * region.width + left - region.x) * 4;
    for (let x = left; x < right; ++x, from += 3, to += 4) {
      const [r, g, b] = [rgb[from], rgb[from + 1], rgb[from + 2]];
      if (gray) {
        data[to] = data[to + 1] = data[to + 2] = Math.floor((r + g + b + 1) / 3);
      } else {
        data[to] = r;
        data[to + 1] = g;
        data[to + 2] = b;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------- windows of latents

const meet = (a, b) => {
  const [top, left] = [Math.max(a.top, b.top), Math.max(a.left, b.left)];
  const [bottom, right] = [Math.min(a.bottom, b.bottom), Math.min(a.right, b.right)];
  return top < bottom && left < right ? { top, left, bottom, right } : null;
};

const grow = ({ top, left, bottom, right }, halo, within) =>
  meet({ top: top - halo, left: left - halo, bottom: bottom + halo, right: right + halo }, within);

const regionWindow = ({ x, y, width, height }) => ({
  top: Math.floor(y / LATENT),
  left: Math.floor(x / LATENT),
  bottom: Math.ceil((y + height) / LATENT),
  right: Math.ceil((x + width) / LATENT),
});

/** The window of whole tiles that a window meets. */
function wholeTiles(windows, shown) {
  const tiles = windows.map(({ window }) => window).filter((window) => meet(window, shown));
  const [{ top, left }, { bottom, right }] = [tiles[0], tiles.at(-1)];
  return { top, left, bottom, right };
}

function windowsOf({ bottom, right }, edge) {
  const windows = [];
  const [stepY, stepX] = edge ? [edge / LATENT, edge / LATENT] : [bottom, right];
  for (let top = 0; top < bottom; top += stepY) {
    for (let left = 0; left < right; left += stepX) {
      windows.push({ top, left, bottom: Math.min(top + stepY, bottom), right: Math.min(left + stepX, right) });
    }
  }
  return windows;
}

// -------------------------------------------------------------------------------------------------------- model files

const GENERATOR = "generative decoder";
const damaged = (what, why) => new NicError(`the ${what} file is damaged (${why}): get another copy`, "ModelMismatchError");

/** A model file (safetensors) -> arrays for decoding, shape, id. Throws NicError if it is damaged. */
async function readModel(file) {
  const { format, arrays, shape, id } = parsed(file, "model");
  if (format !== "neurocodec-model-2") throw damaged("model", "its format is unknown");
  if (globalThis.crypto?.subtle && (await modelId(arrays, shape)) !== id) {
    throw damaged("model", "its contents do not match its id");
  }
  return { arrays, shape, id };
}

function parsed(file, what) {
  try {
    return parseModel(file);
  } catch {
    throw damaged(what, "its header cannot be read, or does not fit its length");
  }
}

/** Throws an error of any kind for a file that is damaged. */
function parseModel(file) {
  const length = Number(new DataView(file.buffer, file.byteOffset, file.byteLength).getBigUint64(0, true));
  const { __metadata__: metadata, ...entries } = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  const names = Object.keys(entries).filter((name) => !ENCODER_PARTS.some((part) => name.startsWith(part)));
  const arrays = names.sort().map((name) => {
    const { dtype, shape: dimensions, data_offsets: [start, end] } = entries[name];
    const [type, numpy, size] = TYPES[dtype];
    const data = file.subarray(8 + length + start, 8 + length + end);
    if (dimensions.length > 4 || data.length !== size * dimensions.reduce((product, n) => product * n, 1)) throw new Error();
    return { name, type, numpy, dimensions, data };
  });
  const shape = JSON.parse(metadata.config);
  return { format: metadata.format, id: String(metadata.model_id).slice(0, 80), shape, arrays };
}

/** As `Model.model_id` of neurocodec/model.py. */
async function modelId(arrays, shape) {
  const numbers = DECODER_SHAPE.map((name) => `"${name}": ${shape[name]}`);
  const parts = [`{${numbers.join(", ")}}`];
  for (const { name, numpy, dimensions, data } of arrays) {
    parts.push(`${name} ${numpy} (${dimensions.join(", ")}${dimensions.length === 1 ? "," : ""})`, data);
  }
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
  return hex(new Uint8Array(digest, 0, 8));
}
