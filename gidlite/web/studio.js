// @ts-check
// The page: a photo in by any way, and what is made of it out. Networks are at work in `worker.js`.

import { mount } from "./explorer.js";
import { fileName, offer, saveGif, saveLoop, savePage } from "./save.js";

const MOST_PIXELS = 64e6; // of a photo; what is larger may not fit a phone's memory
const SHOWN_PIXELS = 640 * 480; // at which it is shown and saved
const LEAST_SIDE = 16;
const IMAGES = /^image\/(?!svg)/;

/**
 * @typedef {{ header: any, photo: Uint8Array, back: Uint8Array, alpha: Uint8Array,
 *             front_modes: Uint8Array, back_modes: Uint8Array }} Scene
 * @typedef {(step: string, done: number, total?: number) => void} Progress
 */

/** @param {string} id @returns {any} */
const get = (id) => document.getElementById(id);

/** Asks the worker and tells its progress; one that fails is started anew by the next question. */
class Engine {
  constructor() {
    this.serial = 0;
    /** @type {Map<number, { resolve: Function, reject: Function, progress: Progress }>} */
    this.waiting = new Map();
  }

  start() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => {
      const asked = this.waiting.get(data.id);
      if (data.type === "progress") return asked?.progress(data.step, data.done, data.total);
      this.waiting.delete(data.id);
      if (data.type === "result") asked?.resolve(data.result);
      else asked?.reject(new Error(data.message));
    };
    this.worker.onerror = () => this.stop("The networks could not be started; reload the page.");
  }

  /** Give all questions up. @param {string} why */
  stop(why) {
    this.worker?.terminate();
    this.worker = undefined;
    for (const { reject } of this.waiting.values()) reject(new Error(why));
    this.waiting.clear();
  }

  /** @param {any} request @param {Progress} progress @param {Transferable[]} [handed] */
  ask(request, progress, handed = []) {
    if (!this.worker) this.start();
    const id = ++this.serial;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, progress });
      this.worker?.postMessage({ id, ...request }, handed);
    });
  }
}

class Studio {
  constructor() {
    this.engine = new Engine();
    this.name = "flower"; // of the photo
    /** @type {Blob | File | undefined} */
    this.photo; // as it was given
    /** @type {Scene | undefined} */
    this.scene;
    /** @type {any} */
    this.explorer; // on the stage
    /** @type {any} */
    this.drift; // of the photo: see `sway` of the explorer
    this.seen = false; // whether the worker has looked at this photo
    this.seed = 1;
    this.listen();
  }

  listen() {
    const on = (/** @type {string} */ id, /** @type {string} */ type, /** @type {any} */ run) =>
      get(id).addEventListener(type, run);
    on("choose", "click", () => get("file").click());
    on("camera", "click", () => get("shot").click());
    for (const id of ["file", "shot"]) {
      on(id, "change", () => {
        const [file] = get(id).files;
        get(id).value = ""; // so that the same may be chosen again
        if (file) this.open(file);
      });
    }
    on("another", "click", () => this.another());
    on("length", "change", () => this.work("draw", () => this.draw()));
    on("video", "click", () => this.save("video"));
    on("gif", "click", () => this.save("gif"));
    on("page", "click", () => this.save("page"));
    on("cancel", "click", () => this.abort?.abort());
    this.listenToFiles();
  }

  listenToFiles() {
    addEventListener("paste", (event) => this.openFirst(event.clipboardData?.files));
    addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("over");
    });
    addEventListener("dragleave", ({ relatedTarget }) =>
      relatedTarget || document.body.classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("over");
      this.openFirst(event.dataTransfer?.files);
    });
  }

  /** @param {FileList | undefined} files */
  openFirst(files) {
    if (files?.length) this.open(files[0]);
  }

  /** Show the example, which needs no network. */
  async showExample() {
    const bytes = async (/** @type {string} */ file) => {
      const response = await fetch(`example/${file}`);
      if (!response.ok) throw new Error("The example is missing; choose a photo.");
      return new Uint8Array(await response.arrayBuffer());
    };
    const names = ["photo.jpg", "back.jpg", "alpha.jpg", "front_modes.bin", "back_modes.bin"];
    const [told, photo, back, alpha, front_modes, back_modes] = await Promise.all(
      ["scene.json", ...names].map(bytes));
    if (this.scene) return; // a photo came first
    const { credit, ...header } = JSON.parse(new TextDecoder().decode(told));
    this.photo = new Blob([photo], { type: "image/jpeg" });
    get("credit").textContent = credit;
    await this.show({ header, photo, back, alpha, front_modes, back_modes });
  }

  /** @param {Scene} scene */
  async show(scene) {
    const { stiffness, gain, wind } = this.explorer?.settings ?? { stiffness: 1, gain: 1, wind: 1 };
    const settings = { damping: scene.header.damping, save: true, stiffness, gain, wind };
    this.explorer?.destroy();
    get("stage").replaceChildren();
    this.explorer = await mount(get("stage"), scene, settings);
    this.scene = scene;
  }

  /**
   * Do one thing at a time, visibly; a new one takes the place of the old. Returns whether it went.
   * @param {string} name @param {(signal: AbortSignal) => Promise<any>} job
   */
  async work(name, job) {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    const { signal } = abort;
    get("error").hidden = true;
    get("working").hidden = false;
    document.body.dataset.working = name;
    this.tell("", 0);
    const over = new Promise((_, reject) => signal.addEventListener("abort", () => {
      if (name !== "save") {
        this.engine.stop("cancelled");
        this.seen = false; // a new worker knows nothing
      }
      reject(new Error("cancelled"));
    }));
    try {
      await Promise.race([job(signal), over]);
      return true;
    } catch (error) {
      if (!signal.aborted) this.refuse(/** @type {Error} */ (error).message);
      return false;
    } finally {
      if (this.abort === abort) {
        get("working").hidden = true;
        delete document.body.dataset.working;
        this.abort = undefined;
      }
    }
  }

  /** @type {Progress} */
  tell = (step, done, total = 1) => {
    const megabytes = step.startsWith("Fetching") ? ` (${Math.round(total / 1e6)} MB, once)` : "";
    get("step").textContent = step + megabytes;
    if (total > 1) Object.assign(get("progress"), { max: total, value: done });
    else get("progress").removeAttribute("value");
  };

  /** @param {string} why */
  refuse(why) {
    get("error").textContent = why;
    get("error").hidden = false;
  }

  /** @param {string} text */
  say(text) {
    get("status").textContent = text;
  }

  /** Take a photo of the visitor's. @param {Blob | File} file */
  open(file) {
    return this.work("open", async (signal) => {
      const name = file instanceof File ? file.name : "photo";
      const image = await read(file, name);
      const alt = `Photo: ${name.replace(/\.\w+$/, "").replace(/[-_]+/g, " ").trim() || "yours"}.`;
      this.seen = false; // until it is through, the worker is between two photos
      const scene = await this.engine.ask({ type: "photo", image, alt }, this.tell, [image]);
      if (signal.aborted) return;
      Object.assign(this, { photo: file, name, seen: true, seed: 1, drift: null });
      get("credit").textContent = "";
      await this.show(scene);
      await this.draw();
      this.say("Drag it, and let go. The wind is a motion drawn for this photo.");
    });
  }

  async draw() {
    if (!this.seen) return this.look();
    const frames = Number(get("length").value);
    const drift = await this.engine.ask({ type: "draw", seed: this.seed, frames }, this.tell);
    this.drift = drift;
    this.explorer.sway(drift);
  }

  /** Let the worker look at the photo on the stage, as for the example. */
  async look() {
    if (!this.photo) throw new Error("Choose a photo first.");
    const image = await read(this.photo, this.name);
    const alt = this.scene?.header.alt;
    const scene = await this.engine.ask({ type: "photo", image, alt }, this.tell, [image]);
    this.seen = true;
    await this.show(scene);
    await this.draw();
  }

  another() {
    return this.work("draw", async () => {
      this.seed = 1 + Math.floor(Math.random() * 9999);
      await this.draw();
      this.say(`Motion number ${this.seed}.`);
    });
  }

  /** @param {"video" | "gif" | "page"} kind */
  save(kind) {
    return this.work("save", async (signal) => {
      if (kind === "page") {
        const page = await savePage(/** @type {Scene} */ (this.scene), { title: this.scene?.header.alt });
        return this.give(page, "_poke.html");
      }
      if (!this.drift || !this.seen) await this.draw();
      const { explorer, drift } = this;
      const progress = (/** @type {number} */ done, /** @type {number} */ total) =>
        this.tell("Saving", done, total);
      explorer.record(true);
      try {
        const { canvas } = explorer;
        const paint = (/** @type {number} */ frame) => explorer.paintLoop(frame);
        const loop = { canvas, paint, count: drift.frames, fps: drift.fps, progress, signal };
        if (kind === "gif") return this.give(await saveGif(loop), "_loop.gif");
        const { blob, extension } = await saveLoop(loop);
        return this.give(blob, `_loop.${extension}`);
      } finally {
        explorer.record(false);
      }
    });
  }

  /** @param {Blob} blob @param {string} ending */
  give(blob, ending) {
    const name = fileName(this.name, ending);
    offer(blob, name);
    this.say(`${name} is saved (${(blob.size / 1e6).toFixed(1)} MB).`);
  }
}

/**
 * Return a photo as it is shown, upright; what is no photo is refused in a sentence.
 * @param {Blob} file @param {string} name
 */
async function read(file, name) {
  const refused = `${name} cannot be read as a photo`;
  if (file.size === 0) throw new Error(`${name} is empty; choose another photo.`);
  if (file.type && !IMAGES.test(file.type)) throw new Error(`${refused}; choose a JPEG, PNG or WebP.`);
  const [width, height] = await sides(file).catch(() => {
    throw new Error(`${refused} by this browser; save it as a JPEG and try again.`);
  });
  if (width * height > MOST_PIXELS) {
    const megapixels = Math.round((width * height) / 1e6);
    throw new Error(`${name} has ${megapixels} megapixels; reduce it to ${MOST_PIXELS / 1e6} or less.`);
  }
  if (Math.min(width, height) < LEAST_SIDE) {
    throw new Error(`${name} has ${width}×${height} pixels; choose one with sides of ${LEAST_SIDE} or more.`);
  }
  const scale = Math.min(1, Math.sqrt(SHOWN_PIXELS / (width * height)));
  const [resizeWidth, resizeHeight] = [width, height].map(
    (side) => Math.max(LEAST_SIDE, 2 * Math.round((scale * side) / 2)));
  const options = { resizeWidth, resizeHeight, resizeQuality: /** @type {const} */ ("high") };
  return createImageBitmap(file, options).catch(() => {
    throw new Error(`${refused}: it is damaged; export it again.`);
  });
}

/** Return the width and height of a photo, upright, without decoding it. @param {Blob} file */
async function sides(file) {
  const address = URL.createObjectURL(file);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => {
      Object.assign(image, { onload: resolve, onerror: reject, src: address });
    });
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(address);
  }
}

const studio = new Studio();
Object.assign(window, { studio }); // for those who look with the browser's tools
studio.showExample().catch((error) => studio.refuse(error.message));
fetch("files.json").then((response) => response.json()).then(({ total }) => {
  get("size").textContent += `; the first one fetches ${Math.round(total / 1e6)} MB, once`;
}).catch(() => {});
if ("serviceWorker" in navigator) navigator.serviceWorker.register("sw.js").catch(() => {});
