// @ts-check
// How a volume is drawn in the browser: the amount of motion, and the solver of `prior/diffusion.py`.

/**
 * Diffusion steps, noisiest first; and the shares of signal and noise at each, and at the end.
 * @typedef {{ steps: number[], signal: number[], noise: number[] }} Schedule
 * @typedef {(noisy: Float32Array, step: number) => Promise<ArrayLike<number>>} Predict
 */

/**
 * Return what DPM-Solver++ (Lu et al. 2022) draws from noise with a network that predicts v.
 * Of order 1 it is DDIM; progress is called with (steps done, steps in all).
 * @param {Predict} predict
 * @param {Float32Array} start
 * @param {Schedule} schedule
 * @param {{ order?: 1 | 2, progress?: (done: number, total: number) => void }} [options]
 * @returns {Promise<Float32Array>}
 */
export async function solve(predict, start, schedule, { order = 2, progress } = {}) {
  const { steps, signal, noise } = schedule;
  let z = start;
  /** @type {Float32Array | undefined} */
  let before;
  let stride = 0; // in the log of signal over noise
  for (let i = 0; i < steps.length; i++) {
    const v = await predict(z, steps[i]);
    const clean = z.map((value, j) => signal[i] * value - noise[i] * v[j]);
    const keep = noise[i + 1] / noise[i];
    const gain = signal[i + 1] - keep * signal[i];
    const next = Math.log(signal[i + 1] / (keep * signal[i])); // infinite where no noise is left
    const last = order === 2 && Number.isFinite(next) ? before : undefined;
    const ahead = last ? next / (2 * stride) : 0;
    z = z.map((value, j) => {
      const trend = last ? ahead * (clean[j] - last[j]) : 0;
      return keep * value + gain * (clean[j] + trend);
    });
    [before, stride] = [clean, next];
    progress?.(i + 1, steps.length);
  }
  return z;
}

/**
 * Return the amount of motion g, in px of the photo: of normal noise, or that which so many of
 * all winds, from 0 to 1, do not reach. What a photo says of it are the mean and log variance.
 * @param {ArrayLike<number>} told
 * @param {number} normal
 * @param {number | null} [wind]
 */
export function drawAmount(told, normal, wind = null) {
  const variance = Math.min(Math.max(Math.exp(told[1]), 0.02), 4);
  // The ends of a normal distribution are infinite.
  const place = wind === null ? normal : normalQuantile(Math.min(Math.max(wind, 0.01), 0.99));
  return Math.exp(told[0] + Math.sqrt(variance) * place);
}

/**
 * Return z of a standard normal distribution with so large a share below, 0.01 to 0.99.
 * @param {number} share
 */
export function normalQuantile(share) {
  let z = 0;
  for (let i = 0; i < 40; i++) {
    const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
    let [sum, term] = [0, z]; // the series z + z³/3 + z⁵/(3·5) + …
    for (let n = 3; Math.abs(term) > 1e-17; n += 2) {
      sum += term;
      term *= (z * z) / n;
    }
    const change = (0.5 + density * sum - share) / density; // Newton's
    z -= change;
    if (Math.abs(change) < 1e-14) break;
  }
  return z;
}

/**
 * Return so many standard normal numbers, the same for the same seed.
 * @param {number} seed a whole number @param {number} count
 */
export function normals(seed, count) {
  let state = seed >>> 0;
  const uniform = () => { // splitmix32
    state = (state + 0x9e3779b9) >>> 0;
    let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}
