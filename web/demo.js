// SPDX-License-Identifier: Apache-2.0
//
// The example page: a .nic, a JPEG of as many bytes and the original under a slider.

import { read } from "./container.js";
import { decode, info, preload } from "./nic.js";
import { encodePng } from "./png.js";
import "./slider.js";

const get = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");
let original;  // ImageBitmap of the picture that was encoded, if it was dropped
let last;  // the .nic that was opened: { name, bytes }
let shown = "";  // the status line of the picture that is shown
let comparison;  // what is under the slider besides the decoded .nic, and its realism
let turn = 0;  // of several files opened quickly, the last is shown

async function open(files) {
  const mine = ++turn;
  const current = () => mine === turn;
  fail("");
  try {
    for (const file of files) {
      const bytes = new Uint8Array(await file.arrayBuffer());
      if (files.length > 1 || last) {
        const bitmap = await bitmapOf(new Blob([bytes]));
        if (bitmap) {
          original = bitmap;
          continue;
        }
      }
      last = { name: file.name ?? "", bytes };
      if (files.length === 1) original = undefined;
    }
    if (!last) throw new Error("none of these files is a .nic: drop one with its original");
    await show(last.bytes, original, current);
  } catch (error) {
    if (!current()) return;
    setRealism(comparison?.realism ?? 0);
    status(shown);
    fail((last?.name ? `${last.name}: ` : "") + error.message);
  }
}

async function show(bytes, source, current) {
  const about = info(bytes);
  if (source && (source.width !== about.width || source.height !== about.height)) {
    original = undefined;
    throw new Error(
      `the original has ${source.width} × ${source.height} pixels, the .nic ${about.width} × ${about.height}: ` +
        "drop the picture that was encoded.",
    );
  }
  status("Fetching the decoder …");
  await preload(about.modelId);
  if (!current()) return;
  status("Decoding …");
  const start = performance.now();
  const pixels = await decode(bytes);
  const nicTime = performance.now() - start;
  if (!current()) return;
  status("Making the JPEG …");
  const icc = read(bytes).chunks.get("iccp");
  const { blob, quality } = await jpegOf(canvasOf(source ?? pixels), bytes.length - (icc?.length ?? 0));
  const jpegBytes = blob.size + (icc?.length ?? 0);
  const jpegStart = performance.now();
  const bitmap = await bitmapOf(blob);
  const jpegTime = performance.now() - jpegStart;
  const jpegPixels = pixelsOf(bitmap);
  const reference = source && pixelsOf(source);
  const decoded = named(await pictureOf(pixels, about.mode, icc), `nic, ${numbers.format(bytes.length)} bytes`);
  const jpeg = await pictureOf(jpegPixels, about.mode.replace("A", ""), icc);
  const pictures = [decoded, named(jpeg, `JPEG, ${numbers.format(jpegBytes)} bytes`)];
  if (source) pictures.push(named(await pictureOf(reference, about.mode, icc), "original"));
  if (!current()) return;
  get("drop").classList.remove("empty");
  get("hint").hidden = true;
  get("help").hidden = false;
  const slider = get("slider");
  slider.hidden = false;
  slider.setAttribute("width", about.width);
  slider.setAttribute("height", about.height);
  slider.replaceChildren(...pictures);
  const jpegFacts = { bytes: jpegBytes, quality, time: jpegTime, pixels: jpegPixels };
  comparison = { about, bytes, icc, reference, jpeg: jpegFacts, realism: 0 };
  get("realism").hidden = about.lossless;
  setRealism(0);
  measure(pixels, nicTime);
  get("note").hidden = false;
  get("note").textContent =
    "The JPEG is this browser's, the smallest with at least as many bytes, " +
    (source ? "made from the original." : "made from the decoded .nic: drop the original too, to compare fairly.") +
    (icc ? ` Both have the same colour profile, of ${numbers.format(icc.length)} bytes.` : "");
  shown =
    `${about.width} × ${about.height} pixels, ${about.mode}` +
      (about.tiles > 1 ? `, ${about.tiles} tiles` : "") +
      (crossOriginIsolated ? `, up to ${Math.min(navigator.hardwareConcurrency, 8)} threads` : ", one thread");
  status(shown);
}

/** Decodes the .nic again, with the realism of the slider. */
async function realise() {
  const mine = ++turn;
  const { about, bytes, icc } = comparison;
  const realism = Number(get("amount").value);
  fail("");
  try {
    status("Fetching the decoder …");
    await preload(about.modelId, { realism });
    if (mine !== turn) return;
    status("Decoding …");
    const start = performance.now();
    const pixels = await decode(bytes, { realism });
    const time = performance.now() - start;
    const picture = await pictureOf(pixels, about.mode, icc);
    if (mine !== turn) return;
    const name = `nic, ${numbers.format(about.bytes)} bytes` + (realism ? `, realism ${realism}` : "");
    get("slider").firstElementChild.replaceWith(named(picture, name));
    comparison.realism = realism;
    measure(pixels, time);
  } catch (error) {
    if (mine !== turn) return;
    setRealism(comparison.realism);
    fail(error.message);
  }
  status(shown);
}

/** Fills the table. pixels: of the decoded .nic; time: in ms. */
function measure(pixels, time) {
  const { about, reference, jpeg } = comparison;
  const bpp = (size) => ((8 * size) / (about.width * about.height)).toFixed(3);
  facts([
    ["Bytes", numbers.format(about.bytes), numbers.format(jpeg.bytes)],
    ["Bits per pixel", bpp(about.bytes), bpp(jpeg.bytes)],
    ["Quality", about.quality.toFixed(0), jpeg.quality],
    ["Decoded in", `${time.toFixed(0)} ms`, `${jpeg.time.toFixed(0)} ms`],
    ...(reference ? [["PSNR, dB", psnr(pixels, reference).toFixed(2), psnr(jpeg.pixels, reference).toFixed(2)]] : []),
  ]);
}

function setRealism(realism) {
  get("amount").value = realism;
  get("value").textContent = realism;
}

const named = (picture, name) => (picture.setAttribute("data-name", name), picture);

/** The smallest JPEG of a canvas with at least so many bytes, or the largest there is; by bisection. */
async function jpegOf(canvas, bytes) {
  const at = (quality) => new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality / 100));
  let [low, high] = [0, 100];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((await at(middle)).size >= bytes) high = middle;
    else low = middle + 1;
  }
  return { blob: await at(low), quality: low };
}

const bitmapOf = (blob) => createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => undefined);

/** A canvas with a bitmap or with pixels. */
function canvasOf(source) {
  const canvas = Object.assign(document.createElement("canvas"), { width: source.width, height: source.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (source instanceof ImageData) context.putImageData(source, 0, 0);
  else context.drawImage(source, 0, 0);
  return canvas;
}

const pixelsOf = (bitmap) => canvasOf(bitmap).getContext("2d").getImageData(0, 0, bitmap.width, bitmap.height);

/** An element that shows pixels in the colours of a profile. */
async function pictureOf(pixels, mode, icc) {
  if (!icc) return canvasOf(pixels);
  const image = Object.assign(new Image(), { src: URL.createObjectURL(encodePng(pixels, mode, icc)), alt: "" });
  await image.decode();
  URL.revokeObjectURL(image.src);
  return image;
}

/** Of two ImageData, over red, green and blue. */
function psnr({ data: a }, { data: b }) {
  let sum = 0;
  for (let i = 0; i < a.length; ++i) if (i % 4 !== 3) sum += (a[i] - b[i]) ** 2;
  return sum === 0 ? Infinity : 10 * Math.log10((255 ** 2 * (a.length * 3)) / (4 * sum));
}

function facts(rows) {
  get("facts").hidden = false;
  get("facts").tBodies[0].replaceChildren(
    ...rows.map(([name, ...values]) => {
      const row = document.createElement("tr");
      row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: name }));
      for (const value of values) row.insertCell().textContent = value;
      return row;
    }),
  );
}

function status(text) {
  get("status").textContent = text;
}

function fail(text) {
  get("error").hidden = !text;
  get("error").textContent = text && text + (/[.!?]$/.test(text) ? "" : ".");
}

async function example() {
  const files = ["example.nic", "example.png"].map((name) => fetch(name).then((response) => response.blob()));
  await open(await Promise.all(files));
}

get("drop").classList.add("empty");
get("file").addEventListener("change", ({ target }) => {
  open([...target.files]);
  target.value = "";  // the same file can be opened again
});
get("example").addEventListener("click", example);
get("amount").addEventListener("input", ({ target }) => (get("value").textContent = target.value));
get("amount").addEventListener("change", realise);
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    get("drop").classList.toggle("over", type === "dragenter" || type === "dragover");
    if (type === "drop" && event.dataTransfer.files.length) open([...event.dataTransfer.files]);
  });
}
navigator.serviceWorker?.register("sw.js").catch(() => undefined);  // without it the page needs a network
