// SPDX-License-Identifier: Apache-2.0
//
// Decodes .nic pictures in a web page. Pixels are those of the Python package, exactly. See nic.d.ts and docs/web.md.

import { HEADER_BYTES, NicError, info as describe, readHeader } from "./container.js";

export { NicError };

const MOST_THREADS = 8;

const settings = { weights: new URL("weights/", import.meta.url).href, generator: undefined, threads: undefined };
const calls = new Map();  // id -> { resolve, reject }
let worker;
let lastId = 0;

export function configure({ weights, generator, threads }) {
  const resolved = (url) => new URL(url, globalThis.document?.baseURI ?? import.meta.url).href;
  if (weights !== undefined) settings.weights = resolved(weights);
  if (generator !== undefined) settings.generator = resolved(generator);
  if (threads !== undefined) settings.threads = threads;
}

export function info(bytes) {
  return describe(asBytes(bytes));
}

export async function decode(source, options) {
  const { width, height, data } = await call(await input(source, options));
  return new ImageData(data, width, height);
}

export async function toPng(source, options) {
  return call({ ...(await input(source, options)), png: true });
}

export async function preload(modelId, { realism = 0 } = {}) {
  await call({ modelId, realism });
}

const input = async (source, { region, lossless, realism = 0 } = {}) =>
  ({ bytes: await read(source), region, lossless, realism });

async function read(source) {
  return source instanceof Blob ? new Uint8Array(await source.arrayBuffer()) : asBytes(source);
}

function asBytes(source) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  throw new TypeError("the source is neither an ArrayBuffer, a view of one nor a Blob");
}

/** Sends a message to the worker, which is started first if need be. */
function call(message) {
  return new Promise((resolve, reject) => {
    const id = ++lastId;
    calls.set(id, { resolve, reject });
    worker ??= startWorker();
    worker.postMessage({ ...message, ...settings, id, threads: threads() });
  });
}

function threads() {
  if (!globalThis.crossOriginIsolated) return 1;
  return settings.threads ?? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
}

function startWorker() {
  const started = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const fail = (sentence) => {
    started.terminate();
    if (worker === started) worker = undefined;
    for (const { reject } of calls.values()) reject(new NicError(sentence, "Error"));
    calls.clear();
  };
  started.onmessage = ({ data }) => {
    if (data.fatal) return fail("a thread of the decoder failed: there may not be enough memory");
    const { resolve, reject } = calls.get(data.id);
    calls.delete(data.id);
    if (data.error) reject(new NicError(data.error.message, data.error.name));
    else resolve(data.result);
  };
  started.onerror = (event) => {
    event.preventDefault();
    fail(`the decoder's worker could not start${event.message ? ` (${event.message})` : ""}: see the console`);
  };
  return started;
}

// ----------------------------------------------------------------------------------------------------------- <nic-img>

const STYLE = `
  :host { display: inline-block; }
  :host([hidden]) { display: none; }
  canvas, img { display: block; width: 100%; height: 100%; object-fit: inherit; object-position: inherit; }
  [hidden], span:empty { display: none; }
`;

const nearby = globalThis.IntersectionObserver
  ? new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) if (isIntersecting) target.show();
      },
      { rootMargin: "800px" },
    )
  : undefined;

/** `<nic-img src alt loading width height realism>`: as `<img>`, with the events load and error. */
export class NicImage extends (globalThis.HTMLElement ?? Object) {
  static observedAttributes = ["src", "alt", "loading", "width", "height", "realism"];

  #canvas;
  #image;  // instead of the canvas, for a file with a colour profile
  #alt;
  #source;  // the realism and the address that are shown, or being loaded
  #abort;
  #header;
  #complete = true;
  #error = null;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML =
      `<style>${STYLE}</style><canvas part="picture" width="0" height="0" hidden></canvas>` +
      '<img part="picture" alt="" hidden><span part="alt"></span>';
    this.#canvas = root.querySelector("canvas");
    this.#image = root.querySelector("img");
    this.#alt = root.querySelector("span");
  }

  get src() {
    return this.hasAttribute("src") ? new URL(this.getAttribute("src"), this.baseURI).href : "";
  }
  set src(value) {
    this.setAttribute("src", value);
  }
  get alt() {
    return this.getAttribute("alt") ?? "";
  }
  set alt(value) {
    this.setAttribute("alt", value);
  }
  get loading() {
    return this.getAttribute("loading") === "lazy" ? "lazy" : "eager";
  }
  set loading(value) {
    this.setAttribute("loading", value);
  }
  get realism() {
    return Number(this.getAttribute("realism") ?? 0);
  }
  set realism(value) {
    this.setAttribute("realism", value);
  }
  get naturalWidth() {
    return this.#header?.width ?? 0;
  }
  get naturalHeight() {
    return this.#header?.height ?? 0;
  }
  get complete() {
    return this.#complete;
  }
  /** The NicError of the last error event, or null. */
  get error() {
    return this.#error;
  }

  connectedCallback() {
    if (!this.hasAttribute("role")) this.setAttribute("role", "img");
    this.#load();
  }

  disconnectedCallback() {
    nearby?.unobserve(this);
  }

  attributeChangedCallback(name, before, after) {
    if (name === "src" || name === "realism") {
      if (this.isConnected && before !== after) this.#load();
    } else if (name === "alt") {
      this.setAttribute("aria-label", this.alt);
      if (this.#error) this.#alt.textContent = this.alt;
    } else if (name === "loading") {
      if (this.isConnected && !this.#complete && this.loading === "eager") this.show();
    } else {
      this.style[name] = /^\d+$/.test(after ?? "") ? `${after}px` : (after ?? "");
    }
  }

  get #target() {
    return `${this.realism} ${this.src}`;
  }

  #load() {
    if (this.#target === this.#source) return;
    nearby?.unobserve(this);
    this.#abort?.abort();
    this.#source = undefined;
    if (!this.src) return this.#clear();
    this.#complete = false;
    if (this.loading === "lazy" && nearby) nearby.observe(this);
    else this.show();
  }

  /** Loads the picture now, even if it is far from the window. */
  async show() {
    nearby?.unobserve(this);
    const [source, realism] = [this.src, this.realism];
    if (this.#target === this.#source) return;
    this.#source = this.#target;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      const bytes = await this.#fetch(source, signal);
      await (info(bytes).metadata.ICC ? this.#showImage(bytes, realism, signal) : this.#showCanvas(bytes, realism, signal));
      if (signal.aborted) return;
      this.#complete = true;
      this.dispatchEvent(new Event("load"));
    } catch (error) {
      if (signal.aborted) return;
      this.#clear();
      this.#complete = true;
      this.#error = error instanceof NicError ? error : new NicError(`${source}: ${error.message}`, "Error");
      this.#alt.textContent = this.alt;
      this.dispatchEvent(new ErrorEvent("error", { error: this.#error, message: this.#error.message }));
    }
  }

  async #showCanvas(bytes, realism, signal) {
    const pixels = await decode(bytes, { realism });
    if (signal.aborted) return;
    this.#size(pixels);
    this.#canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  /** As an image, whose colours the browser converts to those of the screen. */
  async #showImage(bytes, realism, signal) {
    const url = URL.createObjectURL(await toPng(bytes, { realism }));
    try {
      if (signal.aborted) return;
      this.#image.src = url;
      await this.#image.decode();
    } finally {
      URL.revokeObjectURL(url);
    }
    if (signal.aborted) return;
    this.#canvas.hidden = true;
    this.#image.hidden = false;
  }

  /** The bytes of a file; the element has its size as soon as the header is here. */
  async #fetch(source, signal) {
    const response = await fetch(source, { signal });
    if (!response.ok) throw new NicError(`${source}: ${response.status} ${response.statusText}`, "Error");
    const parts = [];
    let length = 0;
    let sized = false;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      length += value.length;
      if (!sized && length >= HEADER_BYTES) {
        sized = true;
        this.#size(readHeader(new Uint8Array(await new Blob(parts).arrayBuffer())));
      }
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  #size({ width, height }) {
    this.#header = { width, height };
    this.#error = null;
    this.#alt.textContent = "";
    this.#image.hidden = true;
    if (this.#canvas.width !== width || this.#canvas.height !== height || this.#canvas.hidden) {
      Object.assign(this.#canvas, { width, height, hidden: false });
    }
  }

  #clear() {
    this.#header = undefined;
    this.#error = null;
    Object.assign(this.#canvas, { width: 0, height: 0, hidden: true });
    this.#image.hidden = true;
    this.#alt.textContent = "";
  }
}

globalThis.customElements?.define("nic-img", NicImage);
