// SPDX-License-Identifier: Apache-2.0
//
// The worker behind nic.js: messages -> pixels. It keeps a model's instance between pictures, makes a new one after an
// error, and starts helpers, which are workers of this file too.

import { NicError, modeOf, read, refuseForeign } from "./container.js";
import { Core, help, realismStep } from "./core.js";
import { encodePng } from "./png.js";

const CACHE = "neurocodec";

let compiled;  // promise of the module
let current;  // promise of a Core
let currentId;
let helpers = [];  // of that Core
let queue = Promise.resolve();

self.onmessage = ({ data: message }) => {
  if (message.stack) {
    help(message, () => self.postMessage("ready"));
  } else {
    queue = queue.then(() => answer(message));
  }
};

async function answer(message) {
  try {
    const { bytes, modelId, realism } = message;
    const result = bytes ? await decode(message) : void (await coreOf(modelId, realism > 0, message));
    self.postMessage({ id: message.id, result }, result?.data ? [result.data.buffer] : []);
  } catch (error) {
    const known = error instanceof NicError;
    const sentence = known ? error.message : `the decoder failed (${error?.message ?? error}): reload the page`;
    self.postMessage({ id: message.id, error: { message: sentence, name: known ? error.name : "Error" } });
  }
}

async function decode(message) {
  const file = read(message.bytes, { residuals: message.lossless });
  refuseForeign(file);
  const core = await coreOf(file.header.modelId, realismStep(file, message.realism) > 0, message);
  const pixels = await core.decode(file, message);
  return message.png ? encodePng(pixels, modeOf(file.header, file.chunks), file.chunks.get("iccp")) : pixels;
}

/**
 * The instance with this model, and if `generates` with its generative decoder. Models are small against the memory that
 * pictures need: one is kept.
 */
async function coreOf(modelId, generates, { weights, generator, threads }) {
  if (currentId !== modelId || !(await current.catch(() => null))?.alive) {
    currentId = modelId;
    current = create(modelId, weights, threads);
  }
  const core = await current;
  if (generates && !core.generator) core.loadGenerator(await fetchGenerator(modelId, weights, generator));
  return core;
}

async function create(modelId, weights, threads) {
  for (const helper of helpers) helper.terminate();
  helpers = [];
  compiled ??= compile();
  const [module, model] = await Promise.all([compiled, fetchModel(modelId, weights)]);
  const core = await Core.create(module, model).catch(async (error) => {
    await forget(urlOf(modelId, weights));
    throw error;
  });
  if (core.modelId !== modelId) {
    throw new NicError(`the file needs model ${modelId}, and the model given is ${core.modelId}.`, "ModelMismatchError");
  }
  if (threads > 1) await core.startHelpers(threads - 1, startHelper);
  return core;
}

async function compile() {
  try {
    const response = await fetch(new URL("nic.wasm", import.meta.url));
    if (!response.ok) throw new Error(`nic.wasm: ${response.status}`);
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (error) {
    compiled = undefined;  // it is tried again for the next picture
    throw error;
  }
}

/** Resolves when the helper runs: the browser starts no worker while this one computes. */
function startHelper(message) {
  return new Promise((resolve) => {
    const helper = new Worker(import.meta.url, { type: "module" });
    helper.onmessage = resolve;
    helper.onerror = () => self.postMessage({ fatal: true });
    helpers.push(helper);
    helper.postMessage(message);
  });
}

const urlOf = (modelId, weights) => new URL(`${modelId}.safetensors`, weights).href;

/** A model file, once from the network and then from the page's cache: files of one id never differ. */
async function fetchModel(modelId, weights) {
  const url = urlOf(modelId, weights);
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  let response = await cache?.match(url);
  if (!response) {
    response = await fetch(url).catch((error) => ({ ok: false, status: error.message }));
    if (!response.ok) {
      throw new NicError(
        `the file needs model ${modelId}, which this page lacks (${url}: ${response.status})`,
        "ModelNotFoundError",
      );
    }
    await cache?.put(url, response.clone()).catch(() => undefined);  // no room: it is fetched again next time
  }
  return new Uint8Array(await response.arrayBuffer());
}

/** The file of a generative decoder, which has no id of its own: the browser asks the server whether it is new. */
async function fetchGenerator(modelId, weights, address) {
  const url = address ?? new URL(`${modelId}-realism.safetensors`, weights).href;
  const response = await fetch(url).catch((error) => ({ ok: false, status: error.message }));
  if (!response.ok) {
    throw new NicError(
      `realism above 0 needs a generative decoder for model ${modelId}, which this page lacks (${url}: ${response.status})`,
      "ModelNotFoundError",
    );
  }
  return new Uint8Array(await response.arrayBuffer());
}

async function forget(url) {
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  await cache?.delete(url);
}
