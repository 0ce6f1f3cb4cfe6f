// @ts-check
// The prior at work, off the page's own thread: a photo becomes a scene to touch, and a seed a loop.

import * as ort from "./vendor/ort.wasm.min.mjs";
import { deflate, jpeg, planes, resize, toHalves, toPixels, workingSize } from "./pixels.js";
import { drawAmount, normals, solve } from "./sampler.js";
import { anchored, calming, closeLoop, coordinates, overTime } from "./volume.js";

/**
 * What can be asked for. A photo of at most `MOST_PIXELS` is shown as it comes; noise is the first
 * number for the amount, then one for every coordinate, and a seed stands for some.
 * @typedef {{ type: "load" }
 *   | { type: "photo", image: ImageBitmap, alt: string }
 *   | { type: "draw", seed: number, frames: number, wind?: number | null,
 *       noise?: Float32Array }} Request
 * @typedef {Record<string, ort.Tensor>} Tensors
 * @typedef {{ file: string, bytes: number, sha256: string, inputs: string[] }} Graph
 */

const here = new URL("./", import.meta.url);
const WASM = "vendor/ort-wasm-simd-threaded.wasm";
ort.env.wasm.wasmPaths = new URL("vendor/", here).href;
// Without isolation memory cannot be shared; more threads than that wait for each other.
ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
ort.env.logLevel = "error";

/** @type {Promise<{ manifest: any, run: (name: string, known: Tensors) => Promise<Tensors> }>} */
let loaded;
/** @type {Tensors} */
let known = {}; // of the photo at hand

self.onmessage = async ({ data }) => {
  const { id, ...request } = data;
  const progress = (/** @type {string} */ step, /** @type {number} */ done, total = 1) =>
    self.postMessage({ id, type: "progress", step, done, total });
  try {
    const [result, handed] = await answer(request, progress);
    self.postMessage({ id, type: "result", result }, { transfer: handed });
  } catch (error) {
    self.postMessage({ id, type: "error", message: String(/** @type {any} */ (error)?.message ?? error) });
  }
};

/**
 * Return the answer to a request and what of it is handed over instead of copied.
 * @param {Request} request @param {(step: string, done: number, total?: number) => void} progress
 * @returns {Promise<[any, Transferable[]]>}
 */
async function answer(request, progress) {
  loaded ??= load(progress);
  const { manifest, run } = await loaded.catch((error) => {
    loaded = /** @type {any} */ (undefined); // so that another try is one
    throw error;
  });
  if (request.type === "photo") return look(request, manifest, run, progress);
  if (request.type === "draw") return draw(request, manifest, run, progress);
  return [null, []];
}

/** @param {(step: string, done: number, total?: number) => void} progress */
async function load(progress) {
  const manifest = await (await got("graphs/manifest.json")).json();
  const { files } = await (await got("files.json")).json();
  /** @type {[string, Graph][]} */
  const graphs = Object.entries(manifest.graphs);
  const wasm = files.find((/** @type {any} */ file) => file.path === WASM);
  const needed = [wasm, ...graphs.map(([, graph]) => ({ ...graph, path: `graphs/${graph.file}` }))];
  const total = needed.reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  const more = (/** @type {number} */ bytes) => progress("Fetching the networks", (done += bytes), total);
  const [runtime, ...data] = await Promise.all(needed.map((file) => fetched(file, more)));
  ort.env.wasm.wasmBinary = runtime;
  /** @type {Record<string, ort.InferenceSession>} */
  const sessions = {};
  for (const [i, [name]] of graphs.entries()) {
    progress("Starting the networks", i, graphs.length);
    sessions[name] = await ort.InferenceSession.create(data[i], { executionProviders: ["wasm"] });
  }
  /** @param {string} name @param {Tensors} tensors */
  const run = (name, tensors) => sessions[name].run(
    Object.fromEntries(manifest.graphs[name].inputs.map((/** @type {string} */ key) => [key, tensors[key]])));
  return { manifest, run };
}

/** @param {string} path */
async function got(path) {
  const response = await fetch(new URL(path, here)).catch(() => null);
  if (!response?.ok) throw new Error(`${path} could not be fetched; check the connection and try again`);
  return response;
}

/**
 * @param {{ path: string, sha256: string }} file @param {(bytes: number) => void} more
 */
async function fetched({ path, sha256 }, more) {
  const chunks = [];
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ ((await got(path)).body).getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    const chunk = /** @type {Uint8Array<ArrayBuffer>} */ (value);
    chunks.push(chunk);
    more(chunk.length);
  }
  const data = new Uint8Array(await new Blob(chunks).arrayBuffer());
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new Error(`${path} came damaged; reload the page to fetch it again`);
  return data;
}

/** @param {ArrayLike<number>} values @param {number[]} shape */
function tensor(values, shape) {
  return new ort.Tensor("float32", Float32Array.from(values), shape);
}

/**
 * Return the scene of a photo, as `gidlite.dynamics.make_scene` returns it.
 * @param {{ image: ImageBitmap, alt: string }} request @param {any} manifest
 * @param {(name: string, known: Tensors) => Promise<Tensors>} run
 * @param {(step: string, done: number, total?: number) => void} progress
 * @returns {Promise<[any, Transferable[]]>}
 */
async function look({ image, alt }, manifest, run, progress) {
  progress("Looking at the photo", 0);
  const { width, height } = image;
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (
    new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true }));
  context.drawImage(image, 0, 0);
  image.close();
  const pixels = context.getImageData(0, 0, width, height);
  const shown = planes(pixels);
  const small = resize(shown, ...workingSize(height, width, manifest));
  const photo = tensor(small.values, [1, 3, small.rows, small.columns]);
  known = { photo, ...(await run("photo", { photo })) };
  progress("Taking it apart", 0);
  const picture = tensor(shown.values, [1, 3, height, width]);
  const parts = await run("touch", { ...known, image: picture });
  const values = (/** @type {string} */ name) => /** @type {Float32Array} */ (parts[name].data);
  const modes = async (/** @type {string} */ name) => deflate(toHalves(values(name)));
  const oneSheet = values("alpha").every((opacity) => opacity > 0.05);
  const header = {
    width, height, alt, damping: 0.05, frequencies: [...values("places")].map((place) => (place * manifest.fps) / manifest.num_frames),
    front_size: parts.front_modes.dims.slice(1, 3), back_size: parts.back_modes.dims.slice(1, 3),
  };
  const scene = {
    header,
    photo: await jpeg(pixels, 0.92),
    back: oneSheet ? new Uint8Array() : await jpeg(toPixels(values("back"), height, width), 0.85),
    alpha: await jpeg(toPixels(values("alpha"), height, width), 0.92),
    front_modes: await modes("front_modes"), back_modes: await modes("back_modes"),
  };
  return [scene, []];
}

/**
 * Return a loop of the motion that a seed draws for the photo at hand: see `sway` of the explorer.
 * @param {{ seed: number, frames: number, wind?: number | null, noise?: Float32Array }} request
 * @param {any} manifest
 * @param {(name: string, known: Tensors) => Promise<Tensors>} run
 * @param {(step: string, done: number, total?: number) => void} progress
 * @returns {Promise<[any, Transferable[]]>}
 */
async function draw({ seed, frames, wind = null, noise }, manifest, run, progress) {
  const { scale, num_frames: numFrames, fps, farthest } = manifest;
  const told = /** @type {Float32Array} */ (known.amount.data);
  const shape = [1, scale.length, 2, known.shapes.dims[1]];
  const drawn = noise ?? normals(seed, 1 + shape.reduce((product, side) => product * side));
  /** @param {Float32Array} noisy @param {number} step */
  const predict = async (noisy, step) => {
    const time = new ort.Tensor("int64", BigInt64Array.of(BigInt(step)), [1]);
    const { v } = await run("drawer", { ...known, noisy: tensor(noisy, shape), step: time });
    return /** @type {Float32Array} */ (v.data);
  };
  const tell = (/** @type {number} */ done, /** @type {number} */ total) =>
    progress("Drawing a motion", done, total);
  const coords = await solve(predict, drawn.subarray(1), manifest.schedule, { progress: tell });
  const amount = drawAmount(told, drawn[0], wind);
  const { parts } = await run("volume", {
    ...known, coords: tensor(coords, shape), drawn_amount: tensor([amount], [1]),
  });
  const [, bins, , rows, columns] = parts.dims;
  const volume = anchored(
    /** @type {Float32Array} */ (parts.data), { bins: bins + 1, rows, columns, numFrames });
  const envelope = /** @type {Float32Array} */ (known.envelope.data);
  const factor = (calming(volume, farthest) * amount) / Math.exp(told[0]); // of shapes at the median
  const closed = closeLoop(coordinates({ coords, envelope, scale }, factor, numFrames), frames);
  const q = overTime(closed, frames);
  return [{ fps, frames, q }, [q.buffer]];
}
