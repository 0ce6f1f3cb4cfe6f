// @ts-check
// The studio: a photo in by any way, and what is made of it out. Who computes is its engine.

import { mount } from "./explorer.js";
import { fileName, offer, read } from "./files.js";

/**
 * @typedef {{ header: any, photo: Uint8Array, back: Uint8Array, alpha: Uint8Array,
 *             front_modes: Uint8Array, back_modes: Uint8Array }} Scene
 * @typedef {(step: string, done: number, total?: number) => void} Progress
 * A loop to be saved as a "video" or a "gif": as the explorer paints it, or the drift anew.
 * @typedef {{ kind: "video" | "gif", explorer: any, drift: any, signal: AbortSignal }} Film
 * What is there before the visitor's own photo; seen, if loops can be drawn for it already.
 * @typedef {{ scene: Scene, credit: string, name: string, seen: boolean }} Example
 * @typedef {Engine & {
 *   photo(image: ImageBitmap, alt: string, tell: Progress): Promise<Scene>,
 *   film(film: Film, tell: Progress): Promise<{ blob: Blob, extension: string }>,
 *   page(scene: Scene, tell: Progress): Promise<Blob>,
 *   example(tell: Progress): Promise<Example> }} Works
 */

/** Asks somebody elsewhere, by `send`, and tells its progress. */
export class Engine {
  /** @param {(message: any, handed: any[]) => void} send */
  constructor(send) {
    this.send = send;
    this.serial = 0;
    /** @type {Map<number, { resolve: Function, reject: Function, progress: Progress }>} */
    this.waiting = new Map();
  }

  /** @param {any} data an answer, or how far it is */
  hear(data) {
    const asked = this.waiting.get(data.id);
    if (data.type === "progress") return asked?.progress(data.step, data.done, data.total);
    this.waiting.delete(data.id);
    if (data.type === "result") asked?.resolve(data.result);
    else asked?.reject(new Error(data.message));
  }

  /** Give all questions up. @param {string} why */
  stop(why) {
    for (const { reject } of this.waiting.values()) reject(new Error(why));
    this.waiting.clear();
  }

  /** @param {any} request @param {Progress} progress @param {any[]} [handed] */
  ask(request, progress, handed = []) {
    const id = ++this.serial;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, progress });
      this.send({ id, ...request }, handed);
    });
  }

  /** Return the loop of a seed. @param {number} seed @param {number} frames @param {Progress} tell */
  draw(seed, frames, tell) {
    return this.ask({ type: "draw", seed, frames }, tell);
  }
}

export class Studio {
  /**
   * @param {Document | ShadowRoot} root of the elements of `studio.html`
   * @param {Works} engine
   * @param {EventTarget} target where files are dropped and pasted
   */
  constructor(root, engine, target) {
    this.root = root;
    this.engine = engine;
    this.home = this.get("studio");
    this.name = "photo";
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
    this.listenToFiles(target);
    this.showExample();
  }

  /** @param {string} id @returns {any} */
  get(id) {
    return this.root.getElementById(id);
  }

  listen() {
    const get = (/** @type {string} */ id) => this.get(id);
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
  }

  /** @param {EventTarget} target */
  listenToFiles(target) {
    const { classList } = this.home;
    const on = (/** @type {string} */ type, /** @type {(event: any) => void} */ run) =>
      target.addEventListener(type, run);
    on("paste", ({ clipboardData }) => this.openFirst(clipboardData?.files));
    on("dragover", (event) => {
      event.preventDefault();
      classList.add("over");
    });
    on("dragleave", ({ relatedTarget: to }) => {
      const inside = to && (!(target instanceof Node) || target.contains(to));
      if (!inside) classList.remove("over");
    });
    on("drop", (event) => {
      event.preventDefault();
      classList.remove("over");
      this.openFirst(event.dataTransfer?.files);
    });
  }

  /** @param {FileList | undefined} files */
  openFirst(files) {
    if (files?.length) this.open(files[0]);
  }

  /** Show what is there before a photo of the visitor's, unless that came first. */
  showExample() {
    return this.work("open", async (signal) => {
      const { scene, credit, name, seen } = await this.engine.example(this.tell);
      if (signal.aborted) return;
      const photo = new Blob([/** @type {any} */ (scene.photo)], { type: "image/jpeg" });
      Object.assign(this, { name, seen, photo });
      this.get("credit").textContent = credit;
      await this.show(scene);
      if (seen) await this.draw();
    });
  }

  /** @param {Scene} scene */
  async show(scene) {
    const { stiffness, gain, wind } = this.explorer?.settings ?? { stiffness: 1, gain: 1, wind: 1 };
    const status = this.get("status");
    const settings = { damping: scene.header.damping, save: true, stiffness, gain, wind, status };
    this.explorer?.destroy();
    this.get("stage").replaceChildren();
    this.explorer = await mount(this.get("stage"), scene, settings);
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
    this.get("error").hidden = true;
    this.home.dataset.working = name;
    const over = new Promise((_, reject) => signal.addEventListener("abort", () => {
      if (name !== "save") {
        this.engine.stop("cancelled");
        this.seen = false; // whoever is asked next may know nothing
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
        this.get("working").hidden = true;
        delete this.home.dataset.working;
        this.abort = undefined;
      }
    }
  }

  /** @type {Progress} */
  tell = (step, done, total = 1) => {
    const megabytes = step.startsWith("Fetching") ? ` (${Math.round(total / 1e6)} MB, once)` : "";
    this.get("working").hidden = false;
    this.get("step").textContent = step + megabytes;
    if (total > 1) Object.assign(this.get("progress"), { max: total, value: done });
    else this.get("progress").removeAttribute("value");
  };

  /** @param {string} why */
  refuse(why) {
    this.get("error").textContent = why;
    this.get("error").hidden = false;
  }

  /** @param {string} text */
  say(text) {
    this.get("status").textContent = text;
  }

  /** Take a photo of the visitor's. @param {Blob | File} file */
  open(file) {
    return this.work("open", async (signal) => {
      const name = file instanceof File ? file.name : "photo";
      const image = await read(file, name);
      const alt = `Photo: ${name.replace(/\.\w+$/, "").replace(/[-_]+/g, " ").trim() || "yours"}.`;
      this.seen = false; // until it is through, the worker is between two photos
      const scene = await this.engine.photo(image, alt, this.tell);
      if (signal.aborted) return;
      Object.assign(this, { photo: file, name, seen: true, seed: 1, drift: null });
      this.get("credit").textContent = "";
      await this.show(scene);
      await this.draw();
      this.say("Drag it, and let go. The wind is a motion drawn for this photo.");
    });
  }

  async draw() {
    if (!this.seen) return this.look();
    const frames = Number(this.get("length").value);
    const drift = await this.engine.draw(this.seed, frames, this.tell);
    this.drift = drift;
    this.explorer.sway(drift);
  }

  /** Let the worker look at the photo on the stage, as for the example. */
  async look() {
    if (!this.photo) throw new Error("Choose a photo first.");
    const image = await read(this.photo, this.name);
    const alt = this.scene?.header.alt;
    const scene = await this.engine.photo(image, alt, this.tell);
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
      const { engine, scene, tell } = this;
      if (kind === "page") {
        return this.give(await engine.page(/** @type {Scene} */ (scene), tell), "_poke.html");
      }
      if (!this.drift || !this.seen) await this.draw();
      const { explorer, drift } = this;
      const { blob, extension } = await engine.film({ kind, explorer, drift, signal }, tell);
      if (!signal.aborted) this.give(blob, `_loop.${extension}`);
    });
  }

  /** @param {Blob} blob @param {string} ending */
  give(blob, ending) {
    const name = fileName(this.name, ending);
    offer(blob, name);
    this.say(`${name} is saved (${(blob.size / 1e6).toFixed(1)} MB).`);
  }
}
