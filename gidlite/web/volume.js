// @ts-check
// What is done to a volume once it is drawn, as in `gidlite/loops.py` and `gidlite/pipeline.py`.

/**
 * Real parts of all bins, then imaginary ones: (2 K, 2, rows, columns), dx before dy, in px.
 * @typedef {{ parts: Float32Array, bins: number, rows: number, columns: number,
 *             numFrames: number }} Volume
 */

const ROUNDING = 1e-9; // relative error of phases after many periods, and of small matrices

/**
 * Return the volume of the graph's bins 1 to K − 1, with a bin 0 such that F_0 = 0.
 * @param {ArrayLike<number>} drawn
 * @param {{ bins: number, rows: number, columns: number, numFrames: number }} sizes
 * @returns {Volume}
 */
export function anchored(drawn, { bins, rows, columns, numFrames }) {
  const size = 2 * rows * columns;
  const parts = new Float32Array(2 * bins * size);
  for (const [half, bin] of halves(bins)) {
    if (bin === 0) continue;
    const from = (half * (bins - 1) + bin - 1) * size;
    const into = (half * bins + bin) * size;
    for (let i = 0; i < size; i++) {
      parts[into + i] = drawn[from + i];
      if (half === 0) parts[i] -= 2 * drawn[from + i];
    }
  }
  return { parts, bins, rows, columns, numFrames };
}

/**
 * Return the nearest volume whose motion comes back to itself, and as fast, after so many frames.
 * Bins give in proportion to the root of their power; F_0 and the RMS motion stay.
 * @param {Volume} volume
 * @param {number} loopFrames positive, may be fractional
 * @returns {Volume}
 */
export function closeLoop(volume, loopFrames) {
  const { parts, bins, numFrames } = volume;
  const size = parts.length / (2 * bins);
  const rows = [0, 1].map((order) => equation(order, loopFrames, bins, numFrames));
  if (!rows.some((row) => row.some((value) => value !== 0))) return volume;
  const power = powerSpectrum(volume);
  const given = rows.map((row) => row.map((value, j) => value * Math.sqrt(power[j % bins])));
  const gram = given.map((one) => rows.map((other) => dot(one, other)));
  const inverse = pseudoInverse(gram);
  const change = inverse.map((line) => given[0].map((_, j) => line[0] * given[0][j]
    + line[1] * given[1][j]));
  const closed = new Float32Array(parts.length);
  for (let i = 0; i < size; i++) {
    let [position, speed] = [0, 0];
    for (let j = 0; j < 2 * bins; j++) {
      position += rows[0][j] * parts[j * size + i];
      speed += rows[1][j] * parts[j * size + i];
    }
    for (let j = 0; j < 2 * bins; j++) {
      const taken = change[0][j] * position + change[1][j] * speed;
      closed[j * size + i] = parts[j * size + i] - taken;
    }
  }
  const result = { ...volume, parts: closed };
  const swing = (/** @type {Float64Array} */ of) => of.subarray(1).reduce((sum, x) => sum + x, 0);
  const left = swing(powerSpectrum(result));
  const factor = left > 0 ? Math.sqrt(swing(power) / left) : 1;
  closed.forEach((value, i) => (closed[i] = factor * value));
  for (let bin = 0; bin < bins; bin++) {
    const count = counted(bin, numFrames);
    // Bin 0 comes first, and what is added to it does not change the others.
    for (let i = 0; i < size; i++) {
      const j = bin * size + i;
      closed[i] += bin === 0 ? parts[j] - closed[j] : count * (parts[j] - closed[j]);
    }
  }
  return result;
}

/**
 * Return the factor, 1 at most, by which a volume goes no farther than a renderer can show: so that
 * hardly one pixel in a thousand swings by more than so many px at 256 px wide.
 * @param {Volume} volume
 * @param {number} farthest
 */
export function calming({ parts, bins, rows, columns }, farthest) {
  const pixels = rows * columns;
  const swings = new Float64Array(pixels);
  for (const [half, bin] of halves(bins)) {
    if (bin === 0) continue;
    const from = (half * bins + bin) * 2 * pixels;
    for (let i = 0; i < 2 * pixels; i++) swings[i % pixels] += parts[from + i] ** 2;
  }
  const rank = Math.max(1, Math.floor(pixels / 1000));
  // √2 × RMS, which is √(2 Σ |S|²).
  const reached = (2 * Math.sqrt(swings.sort()[pixels - rank]) * 256) / columns;
  return Math.min(1, farthest / Math.max(reached, 1e-12));
}

/** @param {number} bins @returns {Generator<[number, number]>} */
function* halves(bins) {
  for (const half of [0, 1]) for (let bin = 0; bin < bins; bin++) yield [half, bin];
}

/** Return mean squared moduli over all pixels, in px². @param {Volume} volume */
function powerSpectrum({ parts, bins }) {
  const size = parts.length / (2 * bins);
  const power = new Float64Array(bins);
  for (let j = 0; j < parts.length; j++) power[Math.floor(j / size) % bins] += parts[j] ** 2 / size;
  return power;
}

/**
 * How often a bin counts: at 0 Hz and at Nyquist once, else twice.
 * @param {number} bin @param {number} numFrames
 */
function counted(bin, numFrames) {
  return bin === 0 || 2 * bin === numFrames ? 1 : 2;
}

/**
 * Return the numbers whose product with the parts is what a derivative lacks at the seam.
 * @param {number} order @param {number} loopFrames @param {number} bins @param {number} numFrames
 */
function equation(order, loopFrames, bins, numFrames) {
  const [start, end] = [0, loopFrames].map((time) => {
    const row = new Float64Array(2 * bins);
    for (let bin = 0; bin < bins; bin++) {
      const speed = (2 * Math.PI * bin) / numFrames;
      const angle = speed * time + (order * Math.PI) / 2;
      const weight = counted(bin, numFrames) * speed ** order;
      row[bin] = weight * Math.cos(angle);
      row[bins + bin] = -weight * Math.sin(angle);
    }
    return row;
  });
  // A whole period leaves only rounding errors, which are no equation.
  const least = ROUNDING * start.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return end.map((value, j) => (Math.abs(value - start[j]) > least ? value - start[j] : 0));
}

/** @param {Float64Array} one @param {Float64Array} other */
function dot(one, other) {
  return one.reduce((sum, value, i) => sum + value * other[i], 0);
}

/** Return the inverse of a positive 2×2 matrix, where it has one. @param {number[][]} gram */
function pseudoInverse(gram) {
  const size = [0, 1].map((i) => Math.sqrt(gram[i][i]) || 1);
  const unit = gram.map((row, i) => row.map((value, j) => value / (size[i] * size[j])));
  const alike = (unit[0][1] + unit[1][0]) / 2;
  const sum = [0, 0, 0]; // upper left, off the diagonal, lower right
  if (unit[0][0] < 0.5 || unit[1][1] < 0.5) {
    [sum[0], sum[2]] = [unit[0][0], unit[1][1]]; // an equation is missing, the other stands
  } else {
    for (const sign of [1, -1]) {
      const value = 1 + sign * alike;
      if (value <= ROUNDING * (1 + Math.abs(alike))) continue;
      [1, sign, 1].forEach((product, i) => (sum[i] += product / (2 * value)));
    }
  }
  const at = (/** @type {number} */ i, /** @type {number} */ j) => sum[i + j] / (size[i] * size[j]);
  return [[at(0, 0), at(0, 1)], [at(1, 0), at(1, 1)]];
}

/**
 * Return coordinates as a volume whose places are the modes of a scene, pairs of real and imaginary
 * part: what is drawn moves by them as the volume does, for motion is a sum over shapes.
 * @param {{ coords: ArrayLike<number>, envelope: ArrayLike<number>, scale: number[] }} drawn
 *   (bins, 2, M), (M, bins) and (bins); bins from 1 on
 * @param {number} factor on what is drawn, as an amount over that of the shapes
 * @param {number} numFrames
 * @returns {Volume}
 */
export function coordinates({ coords, envelope, scale }, factor, numFrames) {
  const [bins, modes] = [scale.length, envelope.length / scale.length];
  const drawn = new Float32Array(2 * bins * modes);
  for (let i = 0; i < drawn.length; i++) {
    const [mode, half] = [i % modes, Math.floor(i / modes) % 2];
    const bin = Math.floor(i / (2 * modes));
    // A shape and its partner are the real and the imaginary part of one, so Re S q subtracts.
    const share = (mode % 2 ? -factor : factor) * scale[bin] * envelope[mode * bins + bin];
    drawn[(half * bins + bin) * modes + mode] = share * coords[i];
  }
  return anchored(drawn, { bins: bins + 1, rows: 1, columns: modes / 2, numFrames });
}

/**
 * Return the values of a volume over time, (frames, 2, rows, columns), as `spectral_to_motion`.
 * @param {Volume} volume @param {number} frames
 */
export function overTime({ parts, bins, numFrames }, frames) {
  const size = parts.length / (2 * bins);
  const values = new Float32Array(frames * size);
  for (let time = 0; time < frames; time++) {
    for (let bin = 0; bin < bins; bin++) {
      const angle = (2 * Math.PI * bin * time) / numFrames;
      const cosine = counted(bin, numFrames) * Math.cos(angle);
      const sine = counted(bin, numFrames) * Math.sin(angle);
      const [re, im] = [bin * size, (bins + bin) * size];
      for (let i = 0; i < size; i++) {
        values[time * size + i] += cosine * parts[re + i] - sine * parts[im + i];
      }
    }
  }
  return values;
}
