// SPDX-License-Identifier: Apache-2.0
//
// The example page without a network: what it has fetched once is kept, and used when the network fails. Its answers also
// isolate the page, so that from the second visit on the decoder has threads, whatever the server sends.

const CACHE = "neurocodec-page";

self.addEventListener("install", (event) => {
  const files = ["./", "demo.css", "demo.js", "nic.js", "container.js", "core.js", "worker.js", "png.js", "nic.wasm"];
  const all = [...files, "slider.js", "example.nic", "example.png"];
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(all)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const own = method === "GET" && new URL(url).origin === location.origin;
  const weights = /\/[0-9a-f]{16}\.safetensors$/.test(url);  // which worker.js keeps
  if (own && !weights) event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  const response = await fetch(request).catch(() => undefined);
  if (response?.ok) await cache.put(request, response.clone());
  const best = response ?? (await cache.match(request, { ignoreSearch: true }));
  if (!best) return Response.error();
  const headers = new Headers(best.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(best.body, { status: best.status, statusText: best.statusText, headers });
}
