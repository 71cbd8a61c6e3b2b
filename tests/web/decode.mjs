// Decodes files with the modules of web/ in Node, without a browser. Arguments: the folder web/, a folder of model files,
// and a JSON list of { path, region, lossless, realism } on standard input. Prints a JSON list of { sha256 } or { error, message }.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [web, weights] = process.argv.slice(2);
const { NicError, info, read, refuseForeign } = await import(pathToFileURL(`${web}/container.js`));
const { Core, realismStep } = await import(pathToFileURL(`${web}/core.js`));

const module = new WebAssembly.Module(readFileSync(`${web}/nic.wasm`));
const cores = new Map();

async function coreOf(id) {
  if (!cores.get(id)?.alive) {
    cores.set(id, await Core.create(module, new Uint8Array(readFileSync(`${weights}/${id}.safetensors`))));
  }
  return cores.get(id);
}

async function decode({ path, region, lossless, realism = 0 }) {
  try {
    const bytes = new Uint8Array(readFileSync(path));
    const about = lossless ? info(bytes) : undefined;  // it reads the whole file
    const file = read(bytes, { residuals: lossless });
    refuseForeign(file);
    const [x, y, width, height] = region ?? [];
    const id = file.header.modelId;
    const core = await coreOf(id);
    if (realismStep(file, realism) && !core.generator) {
      core.loadGenerator(new Uint8Array(readFileSync(`${weights}/${id}-realism.safetensors`)));
    }
    const { data } = await core.decode(file, { region: region ? { x, y, width, height } : undefined, realism });
    return { info: about, sha256: createHash("sha256").update(data).digest("hex") };
  } catch (error) {
    if (!(error instanceof NicError)) throw error;
    return { error: error.name, message: error.message };
  }
}

const results = [];
for (const file of JSON.parse(readFileSync(0, "utf8"))) results.push(await decode(file));
console.log(JSON.stringify(results));
