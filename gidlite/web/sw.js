// @ts-check
// The service worker: the page works offline, and is isolated so that its threads may share memory.

const VERSION = ""; // the build writes that of `files.json` here; a browser looks for changes

/**
 * @typedef {{ path: string, bytes: number, sha256: string }} Listed
 * @typedef {{ version: string, total: number, files: Listed[] }} Listing
 */

const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));
const LISTING = "files.json";
// Who only looks does not need these; they are kept once they are used.
const LARGE = /^graphs\/.*\.onnx$|\.wasm$/;
// Without these two, a browser gives no shared memory.
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
// Other pages of this host may have caches of their own.
const { scope } = worker.registration;
const PREFIX = `gidlite ${scope} `;
const CURRENT = PREFIX + VERSION;

worker.addEventListener("install", (event) => event.waitUntil(install()));
worker.addEventListener("activate", (event) => event.waitUntil(activate()));
worker.addEventListener("message", (event) => {
  if (event.data?.type === "take over") event.waitUntil(worker.skipWaiting());
  if (event.data?.type === "keep") {
    const answer = (/** @type {boolean} */ whole) => event.source?.postMessage({ type: "kept", whole });
    event.waitUntil(keepAll().then(() => answer(true), () => answer(false)));
  }
});
worker.addEventListener("fetch", (event) => {
  const { method, url, headers } = event.request;
  const ours = url.startsWith(scope) && method === "GET" && !headers.has("range");
  if (ours) event.respondWith(answer(event));
});

/** Bring over what has not changed, download the rest but for what is large. */
async function install() {
  const response = await fetch(LISTING, { cache: "no-cache" });
  const listing = /** @type {Listing} */ (await response.clone().json());
  if (listing.version !== VERSION) throw new Error("The host is being changed; try again later.");
  const cache = await caches.open(CURRENT);
  for (const name of await ourCaches()) await bringOver(await caches.open(name), cache, listing);
  const small = listing.files.filter(({ path }) => !LARGE.test(path));
  await Promise.all(small.map((file) => keep(cache, file)));
  await cache.put(LISTING, response);
}

/** Old pages are closed, or asked for the new version. */
async function activate() {
  for (const name of await ourCaches()) if (name !== CURRENT) await caches.delete(name);
  await worker.clients.claim();
}

async function ourCaches() {
  return (await caches.keys()).filter((name) => name.startsWith(PREFIX));
}

/** @param {Cache} old @param {Cache} cache @param {Listing} listing */
async function bringOver(old, cache, listing) {
  const before = /** @type {Listing | undefined} */ (await (await old.match(LISTING))?.json());
  const hashes = new Map(before?.files.map(({ path, sha256 }) => [path, sha256]));
  for (const { path, sha256 } of listing.files) {
    const held = hashes.get(path) === sha256 && (await old.match(path));
    if (held) await cache.put(path, held);
  }
}

/** Download a file, unless it is there. @param {Cache} cache @param {Listed} file */
async function keep(cache, file) {
  if (await cache.match(file.path)) return;
  const response = await fetch(file.path, { cache: "no-cache" });
  if (!(await store(cache, file, response))) throw new Error(`${file.path} is not as listed.`);
}

async function keepAll() {
  const cache = await caches.open(CURRENT);
  const listing = /** @type {Listing | undefined} */ (await (await cache.match(LISTING))?.json());
  if (!listing) throw new Error("Nothing is listed.");
  for (const file of listing.files) await keep(cache, file);
}

/**
 * Put what was downloaded into the cache if it is what is listed, and return whether it was.
 * @param {Cache} cache @param {Listed} file @param {Response} response
 */
async function store(cache, file, response) {
  const data = await response.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const hash = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (!response.ok || hash !== file.sha256) return false;
  const type = response.headers.get("Content-Type") ?? "";
  await cache.put(file.path, new Response(data, { headers: { "Content-Type": type } }));
  return true;
}

/** @param {FetchEvent} event @returns {Promise<Response>} */
async function answer(event) {
  const { request } = event;
  const path = new URL(request.url).href.slice(scope.length).replace(/[?#].*/, "") || "index.html";
  if (request.mode === "navigate" && (await renewed())) {
    return new Response("", { headers: { Refresh: "0" } });
  }
  const cache = await caches.open(CURRENT);
  const held = await cache.match(path);
  if (held) return isolated(held);
  const response = await fetch(request);
  const listing = /** @type {Listing | undefined} */ (await (await cache.match(LISTING))?.json());
  const file = listing?.files.find((one) => one.path === path);
  if (file && response.ok) {
    const copy = response.clone(); // the page sees its download grow, meanwhile
    event.waitUntil(store(cache, file, copy).then((sound) => {
      if (!sound) return worker.registration.update(); // the host has another version
    }));
  }
  return isolated(response);
}

/** Let a version that waits take over, if no other page than that which is loaded uses the old. */
async function renewed() {
  const { waiting } = worker.registration;
  if (!waiting || (await worker.clients.matchAll({ type: "window" })).length > 1) return false;
  waiting.postMessage({ type: "take over" });
  return true;
}

/** @param {Response} response */
function isolated(response) {
  if (response.status === 0 || response.type === "opaqueredirect") return response;
  const { status, statusText, body } = response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(body, { status, statusText, headers });
}
