// @ts-check
// The page: the studio on the whole window, its networks at work in `worker.js`.

import { saveGif, saveLoop, savePage } from "./save.js";
import { Engine, Studio } from "./studio.js";

/** Lets a worker answer; one that fails is started anew by the next question. */
class WorkerEngine extends Engine {
  constructor() {
    super((message, handed) => {
      if (!this.worker) this.start();
      this.worker?.postMessage(message, handed);
    });
  }

  start() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = () => this.stop("The networks could not be started; reload the page.");
  }

  /** @param {string} why */
  stop(why) {
    this.worker?.terminate();
    this.worker = undefined;
    super.stop(why);
  }

  /** @param {ImageBitmap} image @param {string} alt @param {import("./studio.js").Progress} tell */
  photo(image, alt, tell) {
    return this.ask({ type: "photo", image, alt }, tell, [image]);
  }

  /** @param {import("./studio.js").Film} film @param {import("./studio.js").Progress} tell */
  async film({ kind, explorer, drift, signal }, tell) {
    const { canvas } = explorer;
    const paint = (/** @type {number} */ frame) => explorer.paintLoop(frame);
    const progress = (/** @type {number} */ done, /** @type {number} */ total) =>
      tell("Saving", done, total);
    const loop = { canvas, paint, count: drift.frames, fps: drift.fps, progress, signal };
    explorer.record(true);
    try {
      return kind === "gif" ? { blob: await saveGif(loop), extension: "gif" } : await saveLoop(loop);
    } finally {
      explorer.record(false);
    }
  }

  /** @param {import("./studio.js").Scene} scene */
  page(scene) {
    return savePage(scene, { title: scene.header.alt });
  }

  /** Return the example, which needs no network. */
  async example() {
    const bytes = async (/** @type {string} */ file) => {
      const response = await fetch(`example/${file}`);
      if (!response.ok) throw new Error("The example is missing; choose a photo.");
      return new Uint8Array(await response.arrayBuffer());
    };
    const names = ["photo.jpg", "back.jpg", "alpha.jpg", "front_modes.bin", "back_modes.bin"];
    const [told, photo, back, alpha, front_modes, back_modes] = await Promise.all(
      ["scene.json", ...names].map(bytes));
    const { credit, ...header } = JSON.parse(new TextDecoder().decode(told));
    const scene = { header, photo, back, alpha, front_modes, back_modes };
    return { scene, credit, name: "flower", seen: false };
  }
}

const studio = new Studio(document, new WorkerEngine(), window);
Object.assign(window, { studio }); // for those who look with the browser's tools
fetch("files.json").then((response) => response.json()).then(({ files }) => {
  const total = files.reduce((/** @type {number} */ sum, /** @type {any} */ { path, bytes }) =>
    sum + (/^graphs|\.wasm$/.test(path) ? bytes : 0), 0);
  studio.get("size").textContent += `; the first one fetches ${Math.round(total / 1e6)} MB, once`;
}).catch(() => {});
if ("serviceWorker" in navigator) navigator.serviceWorker.register("sw.js").catch(() => {});
