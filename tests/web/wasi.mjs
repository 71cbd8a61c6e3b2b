// Runs a WebAssembly program that prints and fails as web/runtime.cpp does.

import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";

const wasi = new WASI({ version: "preview1" });
const fail = () => {
  throw new Error("the program threw an exception");
};
const module = new WebAssembly.Module(readFileSync(process.argv[2]));
process.exitCode = wasi.start(new WebAssembly.Instance(module, { ...wasi.getImportObject(), env: { fail } }));
