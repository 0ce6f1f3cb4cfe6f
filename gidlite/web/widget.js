// @ts-check
// The studio in a notebook: what a worker does on the page is done here by the kernel.

import { Engine, Studio } from "./studio.js";

/** Lets the kernel answer; what it hears and says goes over the widget's model. */
class KernelEngine extends Engine {
  /** @param {any} model */
  constructor(model) {
    super((message, handed) => model.send(message, undefined, handed));
    this.model = model;
    /** @param {any} message @param {DataView[]} buffers */
    this.told = (message, buffers) => {
      const bytes = buffers.map((view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
      this.hear(message.type === "result" ? { ...message, result: { ...message.result, bytes } } : message);
    };
    model.on("msg:custom", this.told);
  }

  close() {
    this.model.off("msg:custom", this.told);
    this.stop("The widget is closed.");
  }

  /** @param {{ header: any, bytes: Uint8Array[] }} told @returns {import("./studio.js").Scene} */
  scene({ header, bytes: [photo, back, alpha, front_modes, back_modes] }) {
    return { header, photo, back, alpha, front_modes, back_modes };
  }

  /** @param {ImageBitmap} image @param {string} alt @param {import("./studio.js").Progress} tell */
  async photo(image, alt, tell) {
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d")?.drawImage(image, 0, 0);
    const file = await (await canvas.convertToBlob()).arrayBuffer(); // a PNG, as it is shown
    return this.scene(await this.ask({ type: "photo", alt }, tell, [file]));
  }

  /** @param {number} seed @param {number} frames @param {import("./studio.js").Progress} tell */
  async draw(seed, frames, tell) {
    const { fps, bytes: [data] } = await this.ask({ type: "draw", seed, frames }, tell);
    return { fps, frames, seed, q: new Float32Array(data.slice().buffer) };
  }

  /** @param {import("./studio.js").Film} film @param {import("./studio.js").Progress} tell */
  async film({ kind, explorer, drift: { seed, frames } }, tell) {
    const { wind, settings, data: { gain } } = explorer;
    const request = { type: "film", kind, seed, frames, factor: (wind || 1) * settings.gain, rows: gain.rows };
    const { bytes: [data] } = await this.ask(request, tell, [gain.values.slice().buffer]);
    const extension = kind === "gif" ? "gif" : "mp4";
    const type = kind === "gif" ? "image/gif" : "video/mp4";
    return { blob: new Blob([data.slice()], { type }), extension };
  }

  /** @param {import("./studio.js").Scene} _ @param {import("./studio.js").Progress} tell */
  async page(_, tell) {
    const { bytes: [data] } = await this.ask({ type: "page" }, tell);
    return new Blob([data.slice()], { type: "text/html" });
  }

  /** @param {import("./studio.js").Progress} tell */
  async example(tell) {
    const told = await this.ask({ type: "photo" }, tell);
    return { scene: this.scene(told), credit: told.credit, name: told.name, seen: true };
  }
}

/** @param {{ model: any, el: HTMLElement }} view */
function open({ model, el }) {
  const root = el.attachShadow({ mode: "open" });
  const style = Object.assign(document.createElement("style"), { textContent: model.get("style") });
  const parsed = new DOMParser().parseFromString(model.get("markup"), "text/html");
  root.append(style, ...parsed.body.children);
  const told = { promise: "This notebook's kernel computes it.", size: "or drop one here, or paste it" };
  for (const [id, text] of Object.entries(told)) {
    Object.assign(/** @type {HTMLElement} */ (root.getElementById(id)), { textContent: text });
  }
  const engine = new KernelEngine(model);
  const studio = new Studio(root, engine, el);
  Object.assign(el, { studio });
  return () => {
    engine.close();
    studio.explorer?.destroy();
  };
}

export default { render: open };
