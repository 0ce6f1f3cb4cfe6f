// @ts-check
// What a visitor takes home: a loop as a film or a GIF, or a page that holds the photo to touch.

/**
 * A loop of so many frames, of which `paint(i)` draws one on the canvas at once.
 * @typedef {{ canvas: HTMLCanvasElement | OffscreenCanvas, paint: (i: number) => void,
 *             count: number, fps: number, progress?: (done: number, total: number) => void,
 *             signal?: AbortSignal }} Loop
 * What `gidlite.dynamics.make_scene` returns.
 * @typedef {{ header: Record<string, any>, photo: Uint8Array, back: Uint8Array,
 *             alpha: Uint8Array, front_modes: Uint8Array, back_modes: Uint8Array }} Scene
 */

// H.264 in MP4 opens everywhere. Where a browser cannot encode it, VP9 or VP8 in WebM, which other
// browsers, VLC and Android open; AV1 is slower, and fewer devices play it.
/** @type {{ name: "avc" | "vp9" | "vp8", codec: string, quantizer: number, kind: string }[]} */
const CODECS = [
  { name: "avc", codec: "avc1.640028", quantizer: 14, kind: "MP4" },
  { name: "avc", codec: "avc1.42e028", quantizer: 14, kind: "MP4" },
  { name: "vp9", codec: "vp09.00.40.08", quantizer: 8, kind: "WebM" },
  { name: "vp8", codec: "vp8", quantizer: 0, kind: "WebM" },
];
const BITS = 2; // per pixel and frame, where an encoder takes no quantizer
const MOST_BITS = 20e6; // per second: H.264's level 4 ends at 25 million
// A player that begins again shows at once how far what follows has drifted from the first
// picture as it was encoded. What does not move keeps to that, and the last frames do, too.
const UNSEEN = 1; // of 255: a change so small is none
const FADE = 12; // frames

/**
 * Encode a loop as fast as the browser can: one key frame, then frames 1 / fps s apart; of odd
 * sides the last px is cut off. Without an encoder it becomes a GIF.
 * @param {Loop} loop
 * @returns {Promise<{ blob: Blob, extension: string, kind: string }>} kind: MP4, WebM or GIF
 */
export async function saveLoop(loop) {
  const { canvas, fps } = loop;
  const [width, height] = [canvas.width & ~1, canvas.height & ~1];
  const found = await findEncoder(width, height, fps);
  if (!found) return { blob: await saveGif(loop), extension: "gif", kind: "GIF" };
  const { BufferTarget, EncodedPacket, EncodedVideoPacketSource, Mp4OutputFormat, Output,
    WebMOutputFormat } = await import("./vendor/mediabunny.min.mjs");
  const chunks = await encode(loop, found);
  const target = new BufferTarget();
  const format = found.kind === "MP4" ? new Mp4OutputFormat() : new WebMOutputFormat();
  const output = new Output({ format, target });
  const track = new EncodedVideoPacketSource(found.name);
  output.addVideoTrack(track, { frameRate: fps });
  await output.start();
  for (const { chunk, meta } of chunks) {
    await track.add(EncodedPacket.fromEncodedChunk(chunk), meta);
  }
  await output.finalize();
  const extension = found.kind.toLowerCase();
  const bytes = /** @type {ArrayBuffer} */ (target.buffer);
  const blob = new Blob([bytes], { type: `video/${extension}` });
  return { blob, extension, kind: found.kind };
}

/** @param {number} width @param {number} height @param {number} framerate */
async function findEncoder(width, height, framerate) {
  if (typeof VideoEncoder === "undefined") return null;
  const bitrate = Math.min(BITS * width * height * framerate, MOST_BITS);
  for (const { name, codec, quantizer, kind } of CODECS) {
    /** @type {[Partial<VideoEncoderConfig>, object][]} */
    const ways = [[{ bitrateMode: "quantizer" }, { [name]: { quantizer } }], [{ bitrate }, {}]];
    // Firefox describes its H.264 wrongly; from a stream with start codes the muxer tells by itself.
    const format = name === "avc" ? { avc: { format: /** @type {const} */ ("annexb") } } : {};
    for (const [way, options] of ways) {
      const config = { codec, width, height, framerate, ...format, ...way };
      const answer = await VideoEncoder.isConfigSupported(config).catch(() => null);
      if (!answer?.supported) continue;
      if (way.bitrate || (await heeds(config, name))) return { name, kind, config, options };
    }
  }
  return null;
}

/**
 * Return whether an encoder heeds the quantizers that it takes; Firefox's does not.
 * @param {VideoEncoderConfig} config @param {string} name
 */
async function heeds(config, name) {
  const { width: codedWidth, height: codedHeight } = config;
  const noise = Uint8Array.from({ length: 1.5 * codedWidth * codedHeight },
    (_, i) => 128 + (((i * i * 31) >> 5) % 32));
  /** @type {number[]} */
  const sizes = [];
  const output = (/** @type {EncodedVideoChunk} */ { byteLength }) => sizes.push(byteLength);
  const encoder = new VideoEncoder({ output, error: () => {} });
  try {
    encoder.configure(config);
    for (const [i, quantizer] of [10, 45].entries()) {
      const frame = new VideoFrame(noise, { format: "I420", codedWidth, codedHeight, timestamp: 1e6 * i });
      encoder.encode(frame, { keyFrame: true, [name]: { quantizer } });
      frame.close();
      await encoder.flush();
    }
    return sizes[1] < 0.8 * sizes[0];
  } catch {
    return false;
  } finally {
    if (encoder.state !== "closed") encoder.close();
  }
}

/**
 * @param {Loop} loop
 * @param {{ config: VideoEncoderConfig, options: object }} found
 * @returns {Promise<{ chunk: EncodedVideoChunk, meta?: EncodedVideoChunkMetadata }[]>}
 */
async function encode({ canvas, paint, count, fps, progress, signal }, { config, options }) {
  const { width, height } = config;
  const read = reader(canvas, width, height, width, height);
  /** @type {{ chunk: EncodedVideoChunk, meta?: EncodedVideoChunkMetadata }[]} */
  const chunks = [];
  /** @type {unknown} */
  let failure;
  const encoder = new VideoEncoder({
    output: (chunk, meta) => chunks.push({ chunk, meta }),
    error: (error) => (failure = error),
  });
  try {
    encoder.configure(config);
    /** @type {Uint8ClampedArray | undefined} */
    let first;
    /** @type {Uint8Array | null} */
    let shown = null;
    for (let i = 0; i < count; i++) {
      signal?.throwIfAborted();
      paint(i);
      const planes = toPlanes(read(), width, height);
      first ??= planes;
      if (i > 0 && shown) keepTo(planes, first, shown, 1 - (count - 1 - i) / FADE);
      const frame = new VideoFrame(planes, {
        format: "I420", codedWidth: width, codedHeight: height,
        timestamp: Math.round((1e6 * i) / fps), duration: Math.round(1e6 / fps),
        colorSpace: { primaries: "bt709", transfer: "bt709", matrix: "bt709", fullRange: false },
      });
      encoder.encode(frame, { keyFrame: i === 0, ...options });
      if (i === 0) {
        await encoder.flush();
        shown = await decoded(chunks[0]);
        if (!shown) {
          // After a flush Firefox would go on with another key frame, which jumps: begin anew.
          chunks.length = 0;
          encoder.reset();
          encoder.configure(config);
          encoder.encode(frame, { keyFrame: true, ...options });
        }
      }
      frame.close();
      while (encoder.encodeQueueSize > 2) {
        await new Promise((go) => encoder.addEventListener("dequeue", go, { once: true }));
      }
      progress?.(i + 1, count);
      await pause();
    }
    await encoder.flush();
    return chunks;
  } catch (error) {
    throw signal?.aborted ? signal.reason : (failure ?? error);
  } finally {
    if (encoder.state !== "closed") encoder.close();
  }
}

/**
 * Return the planes of a key frame as players show it; null where the browser does not tell.
 * @param {{ chunk: EncodedVideoChunk, meta?: EncodedVideoChunkMetadata }} key
 */
async function decoded({ chunk, meta }) {
  /** @type {VideoFrame[]} */
  const frames = [];
  const config = meta?.decoderConfig;
  if (typeof VideoDecoder === "undefined" || !config) return null;
  const decoder = new VideoDecoder({ output: (frame) => frames.push(frame), error: () => {} });
  try {
    decoder.configure({ ...config, hardwareAcceleration: "prefer-software" });
    decoder.decode(chunk);
    await decoder.flush();
    if (frames[0]?.format !== "I420") return null;
    const planes = new Uint8Array(frames[0].allocationSize());
    await frames[0].copyTo(planes);
    return planes;
  } catch {
    return null;
  } finally {
    for (const frame of frames) frame.close();
    if (decoder.state !== "closed") decoder.close();
  }
}

/**
 * Let a picture differ from the first one as shown as it differs from the first one as painted:
 * where it is still, and to a share everywhere.
 * @param {Uint8ClampedArray} planes @param {Uint8ClampedArray} first @param {Uint8Array} shown
 * @param {number} share
 */
function keepTo(planes, first, shown, share) {
  for (let p = 0; p < planes.length; p++) {
    const change = Math.abs(planes[p] - first[p]);
    if (change <= UNSEEN) planes[p] = shown[p];
    else planes[p] += Math.max(Math.min((6 - change) / 4, 1), share, 0) * (shown[p] - first[p]);
  }
}

/**
 * Return Y, U and V one after the other: BT.709, luma 16 to 235, colour of 2×2 px together.
 * @param {Uint8ClampedArray} rgba @param {number} width @param {number} height
 */
function toPlanes(rgba, width, height) {
  const size = width * height;
  const planes = new Uint8ClampedArray(1.5 * size);
  for (let i = 0, p = 0; i < size; i++, p += 4) {
    planes[i] = 16 + 0.18259 * rgba[p] + 0.61423 * rgba[p + 1] + 0.06201 * rgba[p + 2];
  }
  const below = 4 * width;
  for (let y = 0, i = size; y < height; y += 2) {
    for (let p = y * below, end = p + below; p < end; p += 8, i++) {
      const r = (rgba[p] + rgba[p + 4] + rgba[p + below] + rgba[p + below + 4]) / 4;
      const g = (rgba[p + 1] + rgba[p + 5] + rgba[p + below + 1] + rgba[p + below + 5]) / 4;
      const b = (rgba[p + 2] + rgba[p + 6] + rgba[p + below + 2] + rgba[p + below + 6]) / 4;
      planes[i] = 128 - 0.10064 * r - 0.33857 * g + 0.43922 * b;
      planes[i + size / 4] = 128 + 0.43922 * r - 0.39894 * g - 0.04027 * b;
    }
  }
  return planes;
}

/**
 * Return a function that reads what was painted, part of it if told so, in the task of painting.
 * @param {Loop["canvas"]} canvas @param {number} across @param {number} down what is taken, px
 * @param {number} width @param {number} height what is returned, px
 */
function reader(canvas, across, down, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("no 2D canvas");
  context.imageSmoothingQuality = "high";
  return () => {
    context.drawImage(canvas, 0, 0, across, down, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  };
}

/** Let the page do something else. */
function pause() {
  // Timers of pages in the background fire once a second.
  const { scheduler } = /** @type {any} */ (globalThis);
  return scheduler?.yield ? scheduler.yield() : new Promise((go) => setTimeout(go));
}

const GIF = { fps: 15, width: 480, colours: 255, samples: 8, unseen: 2 };

/**
 * Return a GIF that loops for ever: one palette, about 15 frames per second, at most 480 px wide.
 * @param {Loop} loop
 */
export async function saveGif({ canvas, paint, count, fps, progress, signal }) {
  const { GIFEncoder, applyPalette, quantize } = await import("./vendor/gifenc.esm.js");
  const scale = Math.min(1, GIF.width / canvas.width);
  const [width, height] = [canvas.width, canvas.height]
    .map((side) => Math.max(1, Math.round(scale * side)));
  const read = reader(canvas, canvas.width, canvas.height, width, height);
  const step = Math.max(1, Math.round(fps / GIF.fps));
  const total = Math.ceil(count / step);
  const frame = async (/** @type {number} */ i) => {
    await pause();
    signal?.throwIfAborted();
    paint(i);
    return read();
  };
  /** @type {number[]} */
  const sample = [];
  for (let n = 0; n < GIF.samples; n++) {
    const colours = new Uint32Array((await frame(Math.floor((n * count) / GIF.samples))).buffer);
    for (let i = n; i < colours.length; i += 4 * GIF.samples) sample.push(colours[i]);
  }
  await pause();
  const palette = quantize(new Uint8Array(Uint32Array.from(sample).buffer), GIF.colours);
  const unchanged = palette.length;
  palette.push([0, 0, 0]);
  const gif = GIFEncoder();
  /** @type {Uint8ClampedArray | undefined} */
  let first;
  /** @type {Uint8Array} */
  let start = new Uint8Array();
  let before = start;
  for (let n = 0; n < total; n++) {
    const rgba = await frame(n * step);
    const index = applyPalette(rgba, palette.slice(0, unchanged));
    if (first) {
      // What is as in the first frame is shown as it is there, and what stays is not told again.
      for (let i = 0, p = 0; i < index.length; i++, p += 4) {
        let far = 0;
        for (let c = p; c < p + 3; c++) far = Math.max(far, Math.abs(rgba[c] - first[c]));
        if (far <= GIF.unseen) index[i] = start[i];
      }
    } else [first, start] = [rgba, index];
    const told = Uint8Array.from(index, (value, i) => (value === before[i] ? unchanged : value));
    // Rounding the ends of frames, not their delays, keeps the error from adding up.
    const [from, to] = [n, n + 1].map((k) => Math.round((100 * Math.min(k * step, count)) / fps));
    gif.writeFrame(told, width, height, {
      palette: n === 0 ? palette : null, delay: 10 * (to - from), repeat: 0,
      transparent: n > 0, transparentIndex: unchanged, dispose: 1,
    });
    before = index;
    progress?.(n + 1, total);
  }
  gif.finish();
  return new Blob([gif.bytes()], { type: "image/gif" });
}

/**
 * Return the page that `gidlite.dynamics.write_page` writes of a scene, whose files lie beside.
 * @param {Scene} scene
 * @param {{ title?: string }} [options]
 */
export async function savePage(scene, { title = "Touch it" } = {}) {
  const { header: { alt, ...header }, photo, ...parts } = scene;
  const names = ["page.html", "page.css", "explorer.css", "explorer.js"];
  const [page, ...styles] = await Promise.all(names.map(async (name) => {
    const answer = await fetch(new URL(name, import.meta.url));
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return answer.text();
  }));
  const script = `${styles.pop()}\nmountAll();\n`;
  const style = styles.join("");
  const texts = Object.entries(parts).map(([name, bytes]) => [name, base64(bytes)]);
  // No "<" can end the data block early.
  const data = JSON.stringify({ header, ...Object.fromEntries(texts) }).replaceAll("<", "\\u003c");
  /** @type {Record<string, string>} */
  const filled = {
    title: escaped(title), style, script,
    style_hash: await hashed(style), script_hash: await hashed(script),
    figures: `<figure data-gidlite>\n<img src="data:image/jpeg;base64,${base64(photo)}" `
      + `width="${header.width}" height="${header.height}" alt="${escaped(alt)}">\n`
      + `<script type="application/json">${data}</script>\n</figure>\n`,
  };
  return new Blob([page.replace(/\$(\w+)/g, (_, name) => filled[name])], { type: "text/html" });
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return btoa(text);
}

/** @param {string} text */
async function hashed(text) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return `'sha256-${base64(new Uint8Array(digest))}'`;
}

/** @param {string} text */
function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;").replaceAll("'", "&#x27;");
}
