// @ts-check
// A photo as numbers, as in `gidlite/media`, and numbers as the bytes of a scene.

/**
 * Colours as planes, red, green and blue, (3, rows, columns) in [0, 1].
 * @typedef {{ values: Float32Array, rows: number, columns: number }} Planes
 */

/**
 * Return the size at which the networks see a photo, as `gidlite.pipeline.working_size`.
 * @param {number} rows @param {number} columns
 * @param {{ working_pixels: number, size_multiple: number }} manifest
 * @returns {[number, number]} rows and columns
 */
export function workingSize(rows, columns, { working_pixels, size_multiple }) {
  const scale = Math.sqrt(working_pixels / (rows * columns)) / size_multiple;
  const side = (/** @type {number} */ length) =>
    size_multiple * Math.min(Math.max(1, Math.round(length * scale)), 24);
  return [side(rows), side(columns)];
}

/**
 * Return the planes of pixels as a canvas gives them.
 * @param {{ data: Uint8ClampedArray, width: number, height: number }} image
 * @returns {Planes}
 */
export function planes({ data, width: columns, height: rows }) {
  const size = rows * columns;
  const values = new Float32Array(3 * size);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) values[c * size + i] = data[4 * i + c] / 255;
  }
  return { values, rows, columns };
}

/**
 * Return planes, or one plane of grey, as pixels for a canvas.
 * @param {ArrayLike<number>} values @param {number} rows @param {number} columns
 */
export function toPixels(values, rows, columns) {
  const size = rows * columns;
  const data = new Uint8ClampedArray(4 * size).fill(255);
  const grey = values.length === size;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) data[4 * i + c] = 255 * values[grey ? i : c * size + i];
  }
  return new ImageData(data, columns, rows);
}

/**
 * Return planes at another size: bicubic, antialiased where it shrinks, as `gidlite.media.resize`.
 * @param {Planes} photo @param {number} rows @param {number} columns
 * @returns {Planes}
 */
export function resize(photo, rows, columns) {
  const across = weights(photo.columns, columns);
  const down = weights(photo.rows, rows);
  const half = new Float32Array(3 * photo.rows * columns);
  for (let line = 0; line < 3 * photo.rows; line++) {
    across.forEach(([first, shares], x) => {
      let sum = 0;
      const from = line * photo.columns + first;
      for (let i = 0; i < shares.length; i++) sum += shares[i] * photo.values[from + i];
      half[line * columns + x] = sum;
    });
  }
  const values = new Float32Array(3 * rows * columns);
  for (let c = 0; c < 3; c++) {
    down.forEach(([first, shares], y) => {
      const from = (c * photo.rows + first) * columns;
      for (let x = 0; x < columns; x++) {
        let sum = 0;
        for (let i = 0; i < shares.length; i++) sum += shares[i] * half[from + i * columns + x];
        values[(c * rows + y) * columns + x] = Math.min(Math.max(sum, 0), 1);
      }
    });
  }
  return { values, rows, columns };
}

/**
 * Return, for each new pixel, the first old one that counts, and the shares from there on.
 * @param {number} from @param {number} to @returns {[number, Float64Array][]}
 */
function weights(from, to) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const centre = scale * (place + 0.5);
    const first = Math.max(Math.floor(centre - 2 * stretch + 0.5), 0);
    const end = Math.min(Math.floor(centre + 2 * stretch + 0.5), from);
    const shares = Float64Array.from(
      { length: end - first }, (_, i) => cubic((first + i + 0.5 - centre) / stretch));
    const sum = shares.reduce((total, share) => total + share, 0);
    return [first, shares.map((share) => share / sum)];
  });
}

/** The kernel of Keys 1981 with a = −1/2. @param {number} x */
function cubic(x) {
  const away = Math.abs(x);
  if (away >= 2) return 0;
  if (away < 1) return (1.5 * away - 2.5) * away * away + 1;
  return ((-0.5 * away + 2.5) * away - 4) * away + 2;
}

/**
 * Return half floats, to the nearest; those too large become the largest.
 * @param {ArrayLike<number>} values
 */
export function toHalves(values) {
  const single = new Float32Array(1);
  const bits = new Uint32Array(single.buffer);
  return Uint16Array.from(values, (value) => {
    const sign = value < 0 ? 0x8000 : 0;
    const size = Math.min(Math.abs(value), 65504);
    if (size < 2 ** -14) return sign | even(size * 2 ** 24); // without a leading one
    single[0] = size;
    // Rounded to 10 bits; a carry into the exponent is right.
    return sign | (even(bits[0] / 2 ** 13) - (112 << 10));
  });
}

/** Return the nearest whole number, of two the even one. @param {number} x */
function even(x) {
  const down = Math.floor(x);
  const rest = x - down;
  return down + (rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? 1 : 0);
}

/** @param {Uint16Array} halves */
export async function deflate(halves) {
  const bytes = /** @type {Uint8Array<ArrayBuffer>} */ (new Uint8Array(halves.buffer));
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Return a JPEG. @param {ImageData} pixels @param {number} quality */
export async function jpeg(pixels, quality) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.putImageData(pixels, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality });
  return new Uint8Array(await blob.arrayBuffer());
}
