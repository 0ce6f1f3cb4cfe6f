// A photo you can touch: modal physics and rendering, with nothing but the browser.
// Used as it is by the notebook widget (default export) and by the page of `gidlite poke`.

// ---------------------------------------------------------------- physics, as in gidlite/modal.py

/** Coordinates q of K damped oscillators; a shape holds (dx re, dx im, dy re, dy im) per mode. */
export class ModalSystem {
  constructor(frequencies, damping) {
    this.count = frequencies.length;
    this.omega = Float64Array.from(frequencies, (hertz) => 2 * Math.PI * hertz);
    this.damping = damping;
    this.reset();
  }

  reset() {
    this.q = new Float64Array(2 * this.count);
    this.rate = new Float64Array(2 * this.count);
    this.force = new Float64Array(2 * this.count);
  }

  /** Return [dx, dy] of the pixel with this shape. */
  at(shape, q = this.q) {
    let dx = 0;
    let dy = 0;
    for (let k = 0; k < this.count; k++) {
      dx += shape[4 * k] * q[2 * k] - shape[4 * k + 1] * q[2 * k + 1];
      dy += shape[4 * k + 2] * q[2 * k] - shape[4 * k + 3] * q[2 * k + 1];
    }
    return [dx, dy];
  }

  /**
   * Return the shortest q that brings the pixel closest to (dx, dy), |q| at most radius.
   * Held with a grip (see there), a mode's share of q costs 1 / grip² as much.
   */
  leastNorm(shape, dx, dy, radius = Infinity, grip = null) {
    const felt = grip ? gripped(shape, grip) : shape;
    const [xx, xy, yy] = gram(felt, this.omega);
    const values = eigenvalues(xx, xy, yy);
    const angle = 0.5 * Math.atan2(2 * xy, xx - yy);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const along = [cos * dx + sin * dy, cos * dy - sin * dx];
    const usable = values.map((value) => value > 1e-12 * values[0]);
    const soft = softening(values, along, usable, radius);
    const weights = values.map((value, i) => (usable[i] ? along[i] / (value + soft) : 0));
    const wx = cos * weights[0] - sin * weights[1];
    const wy = sin * weights[0] + cos * weights[1];
    const q = new Float64Array(2 * this.count);
    for (let k = 0; k < this.count; k++) {
      if (this.omega[k] === 0) continue;
      const share = grip ? grip[k] : 1;
      q[2 * k] = share * (felt[4 * k] * wx + felt[4 * k + 2] * wy);
      q[2 * k + 1] = -share * (felt[4 * k + 1] * wx + felt[4 * k + 3] * wy);
    }
    return q;
  }

  drag(shape, dx, dy, radius) {
    this.q = this.leastNorm(shape, dx, dy, radius);
    this.rate.fill(0);
  }

  impulse(shape, vx, vy, radius, grip) {
    this.leastNorm(shape, vx, vy, radius, grip).forEach((value, i) => (this.rate[i] += value));
  }

  pull(shape, ax, ay, radius) {
    this.force = this.leastNorm(shape, ax, ay, radius);
  }

  /** Let what is near (x, y) lean there; mobility: square of how far |q| = 1 moves anything. */
  attract(fields, x, y, strength, radius, mobility) {
    this.force.fill(0);
    for (const field of fields) {
      const size = field.rows * field.columns;
      const area = (field.width * field.height) / size;
      const gains = field.gains();
      const unit = (strength * area) / (Math.sqrt(2 * Math.PI) * radius ** 2 * mobility);
      for (let cell = 0; cell < size; cell++) {
        const [column, row] = field.pixel(cell);
        const [u, v] = [(x - column) / radius, (y - row) / radius];
        const seen = gains[cell] * (field.seen ? field.seen[cell] : 1);
        const share = unit * Math.exp(-(u * u + v * v) / 2) * seen;
        if (Math.abs(share) < 1e-9 * unit) continue;
        for (let k = 0; k < this.count; k++) {
          const i = 4 * (k * size + cell);
          this.force[2 * k] += share * (u * field.values[i] + v * field.values[i + 2]);
          this.force[2 * k + 1] -= share * (u * field.values[i + 1] + v * field.values[i + 3]);
        }
      }
    }
  }

  /** Return the q at which springs balance the force: without one, the photo. */
  balance() {
    return this.force.map((value, i) => value / (this.omega[i >> 1] || Infinity) ** 2);
  }

  /** Come to rest there. */
  settle() {
    this.rate.fill(0);
    this.q = this.balance();
  }

  /** Return how far |q| is, or will swing, from the balance. */
  unrest() {
    const away = this.balance().map((value, i) => this.q[i] - value);
    return Math.hypot(...away, ...this.swing());
  }

  /** Return how far |q| would swing by its rate alone. */
  swing() {
    return this.rate.map((value, i) => value / (this.omega[i >> 1] || Infinity));
  }

  /** Slow down so that |q| swings by no more than most. */
  tame(most) {
    const speed = Math.hypot(...this.swing());
    const left = Math.sqrt(Math.max(0, most ** 2 - Math.hypot(...this.q) ** 2));
    if (speed > left) this.rate = this.rate.map((value) => (value * left) / speed);
  }

  /** Advance exactly by dt seconds; wind is the RMS of |q| it keeps up, normal() its noise. */
  step(dt, wind = 0, normal = gaussian) {
    for (let k = 0; k < this.count; k++) {
      const omega = this.omega[k];
      if (omega === 0) continue;
      const [a, b, c, d] = exactStep(omega, this.damping, dt);
      const [first, cross, second] = noiseFactor(omega, [a, b, c, d], wind);
      for (const i of [2 * k, 2 * k + 1]) {
        const balance = this.force[i] / omega ** 2;
        const [offset, rate] = [this.q[i] - balance, this.rate[i]];
        const [one, two] = wind > 0 ? [normal(), normal()] : [0, 0];
        this.q[i] = a * offset + b * rate + balance + first * one;
        this.rate[i] = c * offset + d * rate + cross * one + second * two;
      }
    }
  }

  energy() {
    let sum = 0;
    for (let i = 0; i < this.q.length; i++) {
      sum += this.rate[i] ** 2 + (this.omega[i >> 1] * this.q[i]) ** 2;
    }
    return sum / 2;
  }
}

export function exactStep(omega, damping, dt) {
  const decay = damping * omega;
  const ringing = omega * Math.sqrt(1 - damping * damping);
  const envelope = Math.exp(-decay * dt);
  const cosine = envelope * Math.cos(ringing * dt);
  const sine = (envelope * Math.sin(ringing * dt)) / ringing;
  return [cosine + decay * sine, sine, -omega * omega * sine, cosine - decay * sine];
}

function noiseFactor(omega, [a, b, c, d], wind) {
  if (!(wind > 0)) return [0, 0, 0];
  const [place, speed] = [wind ** 2 / 2, (omega * wind) ** 2 / 2];
  const first = Math.sqrt(Math.max(0, place - a * a * place - b * b * speed));
  const cross = first > 0 ? -(a * c * place + b * d * speed) / first : 0;
  const rest = speed - c * c * place - d * d * speed - cross * cross;
  return [first, cross, Math.sqrt(Math.max(0, rest))];
}

/**
 * Return how firmly a hand at a pixel takes hold of each mode, 0 to 1: by its share of the motion.
 * Things overlap softly; with an even grip, the soft rim of a neighbour would drag it along.
 */
export function gripOf(shape, omega) {
  const power = Float64Array.from(omega, (speed, k) =>
    speed === 0 ? 0 : Math.hypot(...shape.subarray(4 * k, 4 * k + 4)) ** 2);
  const most = Math.max(...power, 1e-300);
  return power.map((value) => value / most);
}

function gripped(shape, grip) {
  return shape.map((value, i) => value * grip[i >> 2]);
}

function gram(shape, omega) {
  let [xx, xy, yy] = [0, 0, 0];
  for (let i = 0; i < shape.length; i += 4) {
    if (omega[i >> 2] === 0) continue;
    xx += shape[i] ** 2 + shape[i + 1] ** 2;
    xy += shape[i] * shape[i + 2] + shape[i + 1] * shape[i + 3];
    yy += shape[i + 2] ** 2 + shape[i + 3] ** 2;
  }
  return [xx, xy, yy];
}

function eigenvalues(xx, xy, yy) {
  const spread = Math.hypot((xx - yy) / 2, xy);
  const large = (xx + yy) / 2 + spread;
  return [large, large > 0 ? Math.max(0, (xx * yy - xy * xy) / large) : 0];
}

function softening(values, along, usable, radius) {
  const norm = (soft) =>
    Math.sqrt(
      values.reduce(
        (sum, value, i) => sum + (usable[i] ? value * (along[i] / (value + soft)) ** 2 : 0), 0),
    );
  if (!(norm(0) > radius)) return 0;
  let [low, high] = [0, (Math.sqrt(values[0] + values[1]) * Math.hypot(...along)) / radius];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (norm(middle) > radius) low = middle;
    else high = middle;
  }
  return high;
}

function gaussian() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

// ---------------------------------------------------------------- data

export function halfToFloat(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Points that lie evenly on a photo of so many px. */
class Grid {
  constructor([rows, columns], width, height) {
    Object.assign(this, { rows, columns, width, height });
  }

  /** Return the photo pixel of a grid point. */
  pixel(cell) {
    const [column, row] = [cell % this.columns, Math.floor(cell / this.columns)];
    const [wide, high] = [this.width / this.columns, this.height / this.rows];
    return [(column + 0.5) * wide - 0.5, (row + 0.5) * high - 0.5];
  }

  /** Return the four points around photo pixel (x, y) with weights, as the graphics card has it. */
  corners(x, y) {
    const clamp = (value, top) => Math.min(Math.max(value, 0), top);
    const column = clamp(((x + 0.5) * this.columns) / this.width - 0.5, this.columns - 1);
    const row = clamp(((y + 0.5) * this.rows) / this.height - 0.5, this.rows - 1);
    const [left, top] = [Math.floor(column), Math.floor(row)];
    const right = Math.min(left + 1, this.columns - 1);
    const below = Math.min(top + 1, this.rows - 1);
    const [u, v] = [column - left, row - top];
    return [
      [top, left, (1 - u) * (1 - v)], [top, right, u * (1 - v)],
      [below, left, (1 - u) * v], [below, right, u * v],
    ].map(([r, c, weight]) => [r * this.columns + c, weight]);
  }
}

/** How much each place moves: 1 as it would, 0 is held still, 2 twice. New values are a new array. */
export class Gain extends Grid {
  constructor(width, height) {
    super([Math.max(2, Math.round((128 * height) / width)), 128], width, height);
    this.clear();
  }

  clear() {
    this.values = new Float32Array(this.rows * this.columns).fill(1);
  }

  get free() {
    return this.values.every((value) => value === 1);
  }

  at(x, y) {
    return this.corners(x, y).reduce((sum, [cell, weight]) => sum + weight * this.values[cell], 0);
  }

  /**
   * Draw a soft round brush from one photo pixel to another: one that gives every place, named by
   * its cell, a goal below or above 1, or, without one, frees what others gave.
   */
  brush([fromX, fromY], [toX, toY], radius, goal) {
    const [dx, dy] = [toX - fromX, toY - fromY];
    this.values = this.values.map((old, cell) => {
      const [x, y] = this.pixel(cell);
      const along = ((x - fromX) * dx + (y - fromY) * dy) / (dx * dx + dy * dy || 1);
      const share = Math.min(Math.max(along, 0), 1);
      const away = Math.hypot(x - fromX - share * dx, y - fromY - share * dy) / radius;
      const near = Math.min(Math.max(2 * ((goal ? 1 : 1.5) - away), 0), 1);
      const touched = near * near * (3 - 2 * near);
      if (touched === 0) return old;
      if (!goal) return old < 1 ? Math.max(old, touched) : Math.min(old, 1 / touched);
      // However often it is drawn, its edge stays soft.
      const end = goal(cell);
      return end < 1 ? Math.min(old, mix(Math.max(old, 1), end, touched))
        : Math.max(old, mix(Math.min(old, 1), end, touched));
    });
  }

  /** Fill a canvas of this grid with a colour for every value. */
  draw(canvas, colour) {
    const image = new ImageData(this.columns, this.rows);
    this.values.forEach((value, cell) => image.data.set(colour(value), 4 * cell));
    Object.assign(canvas, { width: this.columns, height: this.rows });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }
}

let FLOATS; // of every half float

/** Mode shapes of every pixel on a grid, values in px of the photo, layout (K, h, w, 4). */
export class ModeField extends Grid {
  constructor(halves, count, size, width, height, gain = new Gain(width, height)) {
    super(size, width, height);
    Object.assign(this, { count, gain });
    FLOATS ??= Float32Array.from({ length: 2 ** 16 }, (_, half) => halfToFloat(half));
    this.values = new Float32Array(halves.length);
    for (let i = 0; i < halves.length; i++) this.values[i] = FLOATS[halves[i]];
  }

  /** Return the gain at every grid point. */
  gains() {
    if (this.known !== this.gain.values) {
      this.known = this.gain.values;
      this.shares = Float32Array.from(
        { length: this.rows * this.columns }, (_, cell) => this.gain.at(...this.pixel(cell)));
    }
    return this.shares;
  }

  /** Return the shape at photo pixel (x, y) times the gain. */
  shape(x, y, gain = this.gain.at(x, y)) {
    const shape = new Float64Array(4 * this.count);
    for (const [cell, weight] of this.corners(x, y)) {
      for (let k = 0; k < this.count; k++) {
        const start = 4 * (k * this.rows * this.columns + cell);
        for (let i = 0; i < 4; i++) shape[4 * k + i] += gain * weight * this.values[start + i];
      }
    }
    return shape;
  }

  /** Return the displacement (dx, dy) of every grid point, if none is held. */
  motion(q) {
    const { values } = this;
    const size = this.rows * this.columns;
    const moved = new Float32Array(2 * size);
    for (let k = 0; k < this.count; k++) {
      const [re, im] = [q[2 * k], q[2 * k + 1]];
      for (let cell = 0, i = 4 * k * size; cell < size; cell++, i += 4) {
        moved[2 * cell] += values[i] * re - values[i + 1] * im;
        moved[2 * cell + 1] += values[i + 2] * re - values[i + 3] * im;
      }
    }
    return moved;
  }

  /** Return the largest displacement of a grid point that is seen. */
  farthest(q) {
    const [moved, gains] = [this.motion(q), this.gains()];
    let most = 0;
    for (let cell = 0; cell < gains.length; cell++) {
      if (this.seen[cell] < 0.5) continue;
      most = Math.max(most, gains[cell] * Math.hypot(moved[2 * cell], moved[2 * cell + 1]));
    }
    return most;
  }

  /** Return the square of the largest displacement per |q| at every grid point, if none is held. */
  mobility(omega) {
    const result = new Float32Array(this.rows * this.columns);
    const shape = new Float64Array(4 * this.count);
    for (let cell = 0; cell < result.length; cell++) {
      for (let k = 0; k < this.count; k++) {
        const start = 4 * (k * result.length + cell);
        for (let i = 0; i < 4; i++) shape[4 * k + i] = this.values[start + i];
      }
      result[cell] = eigenvalues(...gram(shape, omega))[0];
    }
    return result;
  }
}

/** Let the page answer its visitor before more is done. */
function pause() {
  return new Promise((resume) => setTimeout(resume));
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint16Array(await new Response(stream).arrayBuffer());
}

/** Return a JPEG or PNG as it is stored. */
function picture(bytes) {
  const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
  return createImageBitmap(new Blob([bytes]), options);
}

async function decode(scene) {
  const { header } = scene;
  const [photo, back, alpha, front, behind] = await Promise.all([
    picture(scene.photo), picture(scene.back.length ? scene.back : scene.photo),
    picture(scene.alpha),
    inflate(scene.front_modes), inflate(scene.back_modes),
  ]);
  const { width, height } = header;
  const count = header.frequencies.length;
  const gain = new Gain(width, height);
  await pause();
  const opacity = pixels(alpha, width, height);
  await pause();
  const data = {
    header, photo, back, alpha, width, height, count, gain, opacity,
    front: new ModeField(front, count, header.front_size, width, height, gain),
    behind: new ModeField(behind, count, header.back_size, width, height, gain),
  };
  data.front.seen = coarse(alpha, data.front);
  data.behind.seen = coarse(alpha, data.behind).map((share) => 1 - share);
  return data;
}

/** Return a grey picture, such as the opacity of the front, at every grid point, 0 to 1. */
function coarse(picture, { columns, rows }) {
  const grey = pixels(picture, columns, rows);
  return Float32Array.from({ length: columns * rows }, (_, cell) => grey[4 * cell] / 255);
}

function pixels(bitmap, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// ---------------------------------------------------------------- drawing with WebGL2

const VERTEX = `#version 300 es
layout(location = 0) in vec2 place;
layout(location = 1) in vec3 target;
out vec2 source;
void main() {
  source = place;
  gl_Position = vec4(target, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
uniform sampler2D photo, back, opacity;
uniform bool soft;
in vec2 source;
out vec4 colour;
void main() {
  colour = texture(photo, source);
  if (!soft) return;
  float front = texture(opacity, source).r;
  if (front < 0.02) discard;
  // The front's own colour times its opacity: with the back under it, this gives the photo.
  colour = vec4(max(colour.rgb - (1.0 - front) * texture(back, source).rgb, 0.0), front);
}`;
const CLEAR = 0.02 * 255; // a lower opacity is not drawn

/** A sheet as a mesh, bent here: where the graphics card is a processor, too, that is cheaper. */
class Sheet {
  constructor(gl, field, largest, opacity) {
    Object.assign(this, { gl, field, largest, opacity, array: gl.createVertexArray() });
    gl.bindVertexArray(this.array);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bindBuffer(gl.ARRAY_BUFFER, (this.buffer = gl.createBuffer()));
    for (const [index, size, offset] of [[0, 2, 0], [1, 3, 8]]) {
      gl.enableVertexAttribArray(index);
      gl.vertexAttribPointer(index, size, gl.FLOAT, false, 20, offset);
    }
    // The modes are smooth; more triangles cost a software renderer more than they show.
    this.lay(...[field.columns, field.rows].map((n) => Math.ceil(0.6 * n)));
  }

  /** Lay a mesh of so many cells, each known by its first point. */
  lay(columns, rows) {
    const { field, field: { width, height } } = this;
    const [wide, high] = [width / columns, height / rows];
    Object.assign(this, { next: columns + 1, opaque: [], soft: [], covers: true });
    this.places = Array.from({ length: (columns + 1) * (rows + 1) }, (_, i) =>
      [(i % this.next) * wide - 0.5, Math.floor(i / this.next) * high - 0.5]);
    this.places.forEach(([x, y], cell) => {
      if (x + wide > width || y + high > height) return;
      const [least, most] = this.opacity(x, y, x + wide, y + high);
      this.covers &&= least === 255;
      if (most >= CLEAR) (least < 255 ? this.soft : this.opaque).push(cell);
    });
    const corners = this.places.flatMap(([x, y]) => field.corners(x, y));
    this.around = Uint32Array.from(corners, ([cell]) => cell);
    this.weights = Float32Array.from(corners, ([, weight]) => weight);
    // The splat metric: what moves more lies nearer.
    this.near = this.places.map(([x, y]) => {
      const power = field.shape(x, y, 1).reduce((sum, value) => sum + value * value, 0);
      return 1.8 * Math.sqrt(Math.min(power / this.largest, 1));
    });
    this.points = Float32Array.from(this.places.flatMap(
      ([x, y]) => [(x + 0.5) / width, (y + 0.5) / height, 0, 0, 0])); // from, to, depth
  }

  /** Take how much each place moves. */
  hold(gain) {
    this.shares = Float32Array.from(this.places, ([x, y]) => gain.at(x, y));
    const depth = (share, i) => Math.max(0.9 - share * this.near[i], -0.9); // else it is clipped
    this.shares.forEach((share, i) => (this.points[5 * i + 4] = depth(share, i)));
  }

  move(q) {
    const { gl, around, weights, shares, points, field: { width, height } } = this;
    const moved = this.field.motion(q);
    for (let i = 0, p = 0; i < shares.length; i++, p += 5) {
      let [dx, dy] = [0, 0];
      for (let j = 4 * i; j < 4 * i + 4; j++) {
        dx += weights[j] * moved[2 * around[j]];
        dy += weights[j] * moved[2 * around[j] + 1];
      }
      points[p + 2] = 2 * (points[p] + (shares[i] * dx) / width) - 1;
      points[p + 3] = 1 - 2 * (points[p + 1] + (shares[i] * dy) / height);
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, points, gl.STREAM_DRAW);
  }

  draw(cells) {
    const { gl, next } = this;
    const triangles = new Uint32Array(6 * cells.length);
    cells.forEach((i, n) => triangles.set([i, i + 1, i + next, i + 1, i + next + 1, i + next], 6 * n));
    gl.bindVertexArray(this.array);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STREAM_DRAW);
    gl.drawElements(gl.TRIANGLES, triangles.length, gl.UNSIGNED_INT, 0);
  }
}

/** Return the least and the largest opacity, 0 to 255, that smoothing sees in a part of a photo. */
function cover({ opacity, width, height }, left, top, right, below) {
  let [least, most] = [255, 0];
  for (let y = Math.max(0, Math.floor(top)); y <= Math.min(height - 1, Math.ceil(below)); y++) {
    for (let x = Math.max(0, Math.floor(left)); x <= Math.min(width - 1, Math.ceil(right)); x++) {
      const value = opacity[4 * (y * width + x)];
      [least, most] = [Math.min(least, value), Math.max(most, value)];
    }
  }
  return [least, most];
}

class GlPainter {
  constructor(canvas, data, largest) {
    const options = { antialias: false, alpha: false, powerPreference: "low-power" };
    const gl = canvas.getContext("webgl2", options);
    if (!gl) throw new Error("no WebGL2");
    Object.assign(this, { gl, data, canvas, name: "WebGL2" });
    const program = link(gl);
    gl.useProgram(program);
    const at = (name) => gl.getUniformLocation(program, name);
    this.at = { photo: at("photo"), soft: at("soft") };
    [data.photo, data.back, data.alpha].forEach((bitmap, unit) => texture(gl, unit, bitmap));
    gl.uniform1i(at("back"), 1);
    gl.uniform1i(at("opacity"), 2);
    this.front = new Sheet(gl, data.front, largest, (...part) => cover(data, ...part));
    this.back = new Sheet(gl, data.behind, largest, () => [255, 255]);
    gl.depthFunc(gl.LEQUAL);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.enable(gl.DEPTH_TEST);
  }

  /** Take how much each place moves; the edges of what is held need finer meshes. */
  hold(gain) {
    if (this.known === gain.values) return;
    this.known = gain.values;
    for (const sheet of [this.front, this.back]) {
      if (!gain.free && !this.fine) sheet.lay(gain.columns, gain.rows);
      sheet.hold(gain);
    }
    this.fine ||= !gain.free;
  }

  paint(q) {
    const { gl, at, front, back } = this;
    this.hold(this.data.gain);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    for (const sheet of [front, back]) sheet.move(q);
    const behind = front.covers ? [] : back.opaque;
    const passes = [[back, behind, 1, 0], [front, front.opaque, 0, 0], [front, front.soft, 0, 1]];
    for (const [sheet, cells, unit, soft] of passes) {
      if (!soft) gl.clear(gl.DEPTH_BUFFER_BIT);
      gl.uniform1i(at.photo, unit);
      gl.uniform1i(at.soft, soft);
      soft ? gl.enable(gl.BLEND) : gl.disable(gl.BLEND);
      sheet.draw(cells);
    }
  }

  destroy() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    throw new Error(gl.getProgramInfoLog(program) || "shaders do not link");
  }
  return program;
}

function texture(gl, unit, bitmap) {
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
    gl.texParameteri(gl.TEXTURE_2D, name, gl.LINEAR);
  }
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) {
    gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
  }
}

// ---------------------------------------------------------------- drawing without it

/** Reads the photo backwards at half size: the same two sheets, folds resolved by chance. */
class CanvasPainter {
  constructor(canvas, data) {
    this.context = canvas.getContext("2d");
    this.name = "2D canvas";
    this.width = Math.max(1, data.width >> 1);
    this.height = Math.max(1, data.height >> 1);
    this.canvas = canvas;
    const sized = (bitmap) => pixels(bitmap, this.width, this.height);
    Object.assign(this, {
      data, photo: sized(data.photo), back: sized(data.back), alpha: sized(data.alpha),
    });
    this.buffer = Object.assign(document.createElement("canvas"), {
      width: this.width, height: this.height,
    });
    this.output = new ImageData(this.width, this.height);
  }

  /** Return the displacement of every pixel of the buffer, in its px. */
  motion(field, q) {
    const gains = field.gains();
    const coarse = field.motion(q).map((value, i) => (value * gains[i >> 1]) / 2);
    const moved = new Float32Array(2 * this.width * this.height);
    for (let y = 0, i = 0; y < this.height; y++) {
      const row = between((y + 0.5) / this.height, field.rows);
      for (let x = 0; x < this.width; x++, i += 2) {
        const column = between((x + 0.5) / this.width, field.columns);
        const above = 2 * (row.from * field.columns + column.from);
        const below = 2 * (row.to * field.columns + column.from);
        const right = 2 * (column.to - column.from);
        for (let c = 0; c < 2; c++) {
          const upper = mix(coarse[above + c], coarse[above + right + c], column.share);
          const lower = mix(coarse[below + c], coarse[below + right + c], column.share);
          moved[i + c] = mix(upper, lower, row.share);
        }
      }
    }
    return moved;
  }

  /** Return where the pixel drawn at (x, y) comes from; short steps, as motion may be steep. */
  source(moved, x, y) {
    const { width, height } = this;
    let [u, v] = [x, y];
    let column = x;
    let row = y;
    for (let i = 0; i < 7; i++) {
      const cell = 2 * (row * width + column);
      u += 0.7 * (x - moved[cell] - u);
      v += 0.7 * (y - moved[cell + 1] - v);
      column = Math.min(Math.max(Math.round(u), 0), width - 1);
      row = Math.min(Math.max(Math.round(v), 0), height - 1);
    }
    return 4 * (row * width + column);
  }

  paint(q) {
    const { data, output, photo, back, alpha } = this;
    const [front, behind] = [data.front, data.behind].map((field) => this.motion(field, q));
    for (let y = 0, i = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, i += 4) {
        const f = this.source(front, x, y);
        const b = this.source(behind, x, y);
        const rest = 1 - alpha[f] / 255;
        for (let c = 0; c < 3; c++) {
          output.data[i + c] = Math.max(0, photo[f + c] - rest * back[f + c]) + rest * back[b + c];
        }
        output.data[i + 3] = 255;
      }
    }
    this.buffer.getContext("2d").putImageData(output, 0, 0);
    this.context.drawImage(this.buffer, 0, 0, this.canvas.width, this.canvas.height);
  }

  destroy() {}
}

/** Return the two of count grid points around a place from 0 to 1, and the share of the second. */
function between(place, count) {
  const at = Math.min(Math.max(place * count - 0.5, 0), count - 1);
  const from = Math.floor(at);
  return { from, to: Math.min(from + 1, count - 1), share: at - from };
}

function mix(one, other, share) {
  return one + share * (other - one);
}

// ---------------------------------------------------------------- the thing on the page

const SLIDERS = [
  // name, label, least, most, step, tip
  ["stiffness", "Stiffness", 0.1, 4, 0.05, "of every spring; 1 is the photo's own"],
  ["damping", "Damping", 0.005, 0.5, 0.005, "ratio; 0.02 to 0.06 is usual for plants"],
  ["gain", "Gain", 0, 3, 0.05, "how far things go and how hard a poke is"],
  ["wind", "Wind", 0, 3, 0.05, "1 moves as far as the photo's own motion, or just visibly"],
  ["attraction", "Attraction", 0, 3, 0.05, "how much things lean towards the pointer"],
];
const DEFAULTS = { stiffness: 1, damping: 0.05, gain: 1, wind: 0, attraction: 0 };
const SEEN = 0.1; // of the reach: what wind 1 moves the liveliest at least, where the photo is calmer
const STILL = 0.02; // px: less than this is rest
const REACH = 0.07; // of the photo's width: how far anything goes at gain 1
const NEAR = 0.08; // of the photo's width: where the pointer attracts most, and looks for a hold
const OTHERS = 1.5; // of the reach: how far what is drawn along goes at most
const CALM = 0.01; // of the liveliest's mobility: less is not worth holding
const BRUSH = 0.06; // of the photo's width: where the brush that holds still ends, softly
const HELD = 0.2; // a lower gain counts as a place that does not move
// What is told to move goes by so much of how far the liveliest go, or, should they be calmer, of so
// much of the width (RMS). Where a photo says that hardly anything moves, it hardly says in which
// way, so it goes no more than so many times as far.
const [LIVELY, LEAST_LIVELY, MOST_GAIN] = [0.7, 0.004, 20];

let serial = 0;

/** Build the explorer inside root. Returns a controller; call its destroy() to clean up. */
export async function mount(root, scene, settings = {}) {
  const started = performance.now();
  const data = await decode(scene);
  await pause();
  return new Explorer(root, data, { ...DEFAULTS, ...settings }, started);
}

class Explorer {
  constructor(root, data, settings, started) {
    Object.assign(this, { root, data, settings, frames: 0, started, held: null, past: [] });
    Object.assign(this, { drift: null, moment: 0 });
    this.mask = new Uint8Array();
    this.abort = new AbortController();
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.frequencies = data.header.frequencies;
    this.system = new ModalSystem(this.frequencies, settings.damping);
    this.mobility = data.front.mobility(this.system.omega);
    const sorted = this.mobility.slice().sort();
    this.largest = Math.max(sorted[sorted.length - 1], 1e-12);
    this.lively = Math.max(sorted[Math.floor(0.95 * sorted.length)], 1e-12);
    // |q| = 2 is the photo's own motion; the RMS along the way is |q| √(largest / 2) px.
    this.breeze = Math.max(2, (SEEN * REACH * data.width) / Math.sqrt(this.largest / 2));
    this.central = (x, y) => Math.min(x, data.width - x, y, data.height - y, 0.2 * data.width);
    this.touched = this.liveliest(this.central);
    this.lean = this.leaning();
    this.build();
    this.wanted = LIVELY ** 2 * Math.max(this.lively, (LEAST_LIVELY * data.width) ** 2 / 2);
    this.goals = { hold: () => 0, move: (cell) => this.enlivened(cell) };
    this.painter = this.makePainter();
    this.listen();
    this.apply(settings);
    this.painter.paint(this.system.q);
    this.firstFrame = performance.now() - started;
    this.say("Drag the picture, or press arrow keys; then let go.");
    this.wake();
  }

  /** Return the photo pixel in front that moves most, weighted by a function of its place. */
  liveliest(weight) {
    const { front, width, height } = this.data;
    const gains = front.gains();
    let best = { x: width / 2, y: height / 2, value: 0 };
    for (let row = 1; row < front.rows - 1; row++) {
      for (let column = 1; column < front.columns - 1; column++) {
        const x = ((column + 0.5) * width) / front.columns;
        const y = ((row + 0.5) * height) / front.rows;
        const cell = row * front.columns + column;
        const value = this.mobility[cell] * gains[cell] ** 2 * weight(x, y);
        if (value > best.value && this.sheet(x, y) === front) best = { x, y, value };
      }
    }
    return best;
  }

  build() {
    const { width, height, header } = this.data;
    const make = (tag, properties = {}, ...children) => {
      const element = Object.assign(document.createElement(tag), properties);
      element.append(...children);
      return element;
    };
    const id = `gidlite-${++serial}`;
    this.canvas = make("canvas", { width, height, tabIndex: 0, className: "gidlite-canvas" });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `${header.alt} Interactive: arrow keys push, space pokes, escape resets.`);
    this.overlay = make("canvas", { width, height, className: "gidlite-arrows" });
    this.overlay.setAttribute("aria-hidden", "true");
    this.tint = make("canvas", { className: "gidlite-tint" });
    this.stage = make("div", { className: "gidlite-stage" }, this.canvas, this.tint, this.overlay);
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.stage.style.maxWidth = `${2 * width}px`;
    this.inputs = {};
    const sliders = SLIDERS.map(([name, label, min, max, step, tip]) => {
      const input = make("input", { type: "range", min, max, step, id: `${id}-${name}`, title: tip });
      const output = make("output", { htmlFor: input.id });
      this.inputs[name] = { input, output };
      return make("label", { className: "gidlite-slider", title: tip }, label, input, output);
    });
    const button = (label, title = "") =>
      make("button", { type: "button", textContent: label, title });
    const [poke, reset] = [button("Poke"), button("Reset")];
    this.brushes = {
      hold: button("Hold still", "Brush over what should not move; Shift paints back"),
      move: button("Let move", "Brush over what should move more; Shift paints back"),
      release: button("Release", "Brush over what should move as before"),
    };
    this.undoButton = button("Undo", "Take the last stroke back");
    this.saveButton = button("Save mask", "Black where held: for gidlite animate --mask");
    this.saveButton.hidden = !this.settings.save;
    this.choice = make("select", { title: "Arrows along which the pixels of one mode swing" });
    this.choice.setAttribute("aria-label", "Arrows of a mode");
    this.choice.append(make("option", { value: "", textContent: "No arrows" }));
    this.frequencies.forEach((hertz, k) => {
      if (hertz > 0) {
        this.choice.append(make("option", { value: k, textContent: `Mode at ${hertz.toFixed(1)} Hz` }));
      }
    });
    // Where it lies on a page that has a line for messages, there they go.
    this.status = this.settings.status ?? make("output", { className: "gidlite-status" });
    this.status.setAttribute("aria-live", "polite");
    const painting = [...Object.values(this.brushes), this.undoButton, this.saveButton];
    const buttons = [poke, reset, ...painting];
    const bar = make("div", { className: "gidlite-bar" }, ...buttons, this.choice, ...sliders);
    this.box = make("div", { className: "gidlite-box" }, this.stage, bar);
    if (!this.settings.status) this.box.append(this.status);
    this.root.append(this.box);
    Object.assign(this, { pokeButton: poke, resetButton: reset });
    this.take(null);
    this.showHeld();
  }

  /** Return the gain with which a cell moves about as far as the liveliest do. */
  enlivened(cell) {
    const { gain } = this.data;
    const [x, y] = gain.pixel(cell);
    // The least of all around: on the outline of what moves, its own and not that of the wall.
    const [across, down] = [this.data.width / gain.columns, this.data.height / gain.rows];
    const around = [-1, 0, 1].flatMap((i) => [-1, 0, 1].map((j) => [x + i * across, y + j * down]));
    const able = Math.max(...around.map((place) => this.mobilityAt(...place)));
    return Math.min(Math.max(Math.sqrt(this.wanted / Math.max(able, 1e-12)), 1), MOST_GAIN);
  }

  /** Return the mobility of what is seen at a pixel of the photo. */
  mobilityAt(x, y) {
    const field = this.sheet(x, y);
    const all = field === this.data.front ? this.mobility
      : (this.behind ??= field.mobility(this.system.omega));
    return field.corners(x, y).reduce((sum, [cell, weight]) => sum + weight * all[cell], 0);
  }

  makePainter() {
    try {
      if (this.settings.canvas) throw new Error("asked for the canvas");
      return new GlPainter(this.canvas, this.data, this.largest);
    } catch {
      return this.makeCanvasPainter();
    }
  }

  /** A canvas that has had a WebGL context cannot have another kind, so it is exchanged. */
  makeCanvasPainter() {
    const fresh = this.canvas.cloneNode();
    const focused = document.activeElement === this.canvas;
    this.canvas.replaceWith(fresh);
    this.canvas = fresh;
    if (focused) fresh.focus();
    return new CanvasPainter(fresh, this.data);
  }

  on(target, type, handler) {
    target.addEventListener(type, handler, { signal: this.abort.signal });
  }

  listen() {
    this.listenToCanvas();
    this.on(this.pokeButton, "click", () => this.poke());
    this.on(this.resetButton, "click", () => this.reset());
    for (const [name, button] of Object.entries(this.brushes)) {
      this.on(button, "click", () => this.take(this.brush === name ? null : name));
    }
    this.on(this.undoButton, "click", () => this.undo());
    this.on(this.saveButton, "click", () => {
      const link = document.createElement("a");
      Object.assign(link, { href: this.maskAddress(), download: "mask.png" }).click();
    });
    this.on(this.choice, "change", () => this.arrows());
    for (const [name, { input }] of Object.entries(this.inputs)) {
      this.on(input, "input", () => this.apply({ [name]: Number(input.value) }, true));
    }
    this.on(this.calm, "change", () => this.apply({}));
    this.on(document, "visibilitychange", () => this.wake());
    this.visible = true;
    this.watcher = new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      this.wake();
    });
    this.watcher.observe(this.stage);
  }

  listenToCanvas() {
    const { canvas } = this;
    this.on(canvas, "pointerdown", (event) => this.grab(event));
    this.on(canvas, "pointermove", (event) => this.follow(event));
    this.on(canvas, "pointerleave", () => this.attract(null));
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
      this.on(canvas, type, () => this.letGo());
    }
    this.on(canvas, "keydown", (event) => this.key(event));
    // Browsers keep about 16 contexts and take the oldest away from a page with more photos.
    this.on(canvas, "webglcontextlost", () => {
      this.letGo();
      this.painter = this.makeCanvasPainter();
      this.listenToCanvas();
      this.painter.paint(this.coordinates());
    });
  }

  /** Take new settings; those who ask for reduced motion get no wind and a short ring. */
  apply(changes, byHand = false) {
    Object.assign(this.settings, changes);
    const { stiffness, damping, wind } = this.settings;
    const calm = this.calm.matches;
    const factor = 2 * Math.PI * Math.sqrt(stiffness);
    this.system.omega = Float64Array.from(this.frequencies, (hertz) => hertz * factor);
    this.system.damping = Math.min(Math.max(damping, calm ? 0.3 : 0), 0.99);
    this.wind = calm ? 0 : wind;
    for (const [name, { input, output }] of Object.entries(this.inputs)) {
      input.value = this.settings[name];
      output.textContent = Number(this.settings[name]).toFixed(name === "damping" ? 3 : 2);
    }
    this.inputs.wind.input.disabled = calm;
    if (byHand) this.onChange?.(this.settings);
    this.attract(this.pointer);
  }

  /** Return the acceleration that makes the liveliest pixel lean by half the reach. */
  leaning() {
    const { omega } = this.system;
    const shape = this.data.front.shape(this.touched.x, this.touched.y);
    const able = gram(shape, omega);
    const bent = gram(shape.map((value, i) => value / (omega[i >> 2] || 1)), omega);
    return (0.5 * REACH * this.data.width * (able[0] + able[2])) / Math.max(bent[0] + bent[2], 1e-12);
  }

  /** Let things lean towards the pointer, or no longer: where it is held, and where it is gone. */
  attract(pointer) {
    this.pointer = pointer;
    const { attraction, gain } = this.settings;
    const strength = pointer && !this.held ? attraction * gain * this.lean : 0;
    const { front, behind, width } = this.data;
    if (strength > 0) {
      this.system.attract([front, behind], ...pointer, strength, NEAR * width, this.largest);
      // No further than the hand could drag it.
      const leaning = Math.hypot(...this.system.balance()) * Math.sqrt(this.largest);
      const most = Math.max(gain, 1) * REACH * width;
      const { force } = this.system;
      if (leaning > most) this.system.force = force.map((value) => (value * most) / leaning);
    } else this.system.force.fill(0);
    this.wake();
  }

  /** Largest |q| for a pixel: it goes as far as the reach, unless others would fly off. */
  radius(place) {
    place.most ??= (REACH * this.data.width) / Math.max(this.farthest(place), 1e-12);
    return this.settings.gain * place.most;
  }

  /** Return how far |q| = 1 moves the pixel held, or others, those by 1 / OTHERS of it. */
  farthest(place) {
    const { front, behind } = this.data;
    const able = Math.sqrt(this.able(place));
    const [xx, xy, yy] = gram(gripped(place.shape, place.grip), this.system.omega);
    const angle = 0.5 * Math.atan2(2 * xy, xx - yy);
    const [dx, dy] = [able * Math.cos(angle), able * Math.sin(angle)];
    const q = this.system.leastNorm(place.shape, dx, dy, Infinity, place.grip);
    return Math.max(able, front.farthest(q) / OTHERS, behind.farthest(q) / OTHERS);
  }

  /** Return the square of how far the pixel moves per |q|, held with its grip. */
  able({ shape, grip }) {
    return eigenvalues(...gram(gripped(shape, grip), this.system.omega))[0];
  }

  /** Take a brush in hand, "hold", "move" or "release", or none. */
  take(brush) {
    this.brush = brush;
    this.arrows(); // no ring
    this.stage.classList.toggle("gidlite-brush", brush !== null);
    for (const [name, button] of Object.entries(this.brushes)) {
      button.setAttribute("aria-pressed", name === brush);
    }
    if (brush) this.attract(null);
    if (brush) this.say(`${this.brushes[brush].title}.`);
  }

  /** Paint with the brush in hand as far as the pointer. */
  stroke(event) {
    if (!this.painting || !event.isPrimary) return;
    const to = this.position(event);
    const goal = event.shiftKey ? null : this.goals[this.brush];
    const { gain, width } = this.data;
    gain.brush(this.painting, to, BRUSH * width, goal);
    this.painting = to;
    this.showHeld();
  }

  /** Tint what is held, and let pokes go to what is not. */
  showHeld() {
    const { gain } = this.data;
    gain.draw(this.tint, (value) => value < 1 ? [76, 159, 254, 110 * (1 - value)]
      : [255, 176, 32, 110 * (1 - 1 / value)]);
    this.saveButton.disabled = gain.free;
    this.undoButton.disabled = this.past.length === 0;
    if (gain.at(this.touched.x, this.touched.y) < HELD) this.touched = this.liveliest(this.central);
    if (this.painter) this.wake();
  }

  /** Return the mask as a data: address of a PNG, white may move. */
  maskAddress() {
    const grey = (value) => [255 * value, 255 * value, 255 * value, 255];
    return this.data.gain.draw(document.createElement("canvas"), grey).toDataURL();
  }

  /** Take the bytes of a picture in which white may move; without any, everything may. */
  async setMask(mask) {
    this.mask = mask;
    this.past = [];
    const bitmap = mask.length ? await picture(mask) : null;
    if (this.mask !== mask) return; // another came meanwhile
    const { gain } = this.data;
    if (bitmap) gain.values = coarse(bitmap, gain);
    else gain.clear();
    this.showHeld();
  }

  /** Take the last stroke back. */
  undo() {
    const values = this.past.pop();
    if (!values) return;
    this.data.gain.values = values;
    this.showHeld();
    this.tellMask();
  }

  tellMask() {
    this.mask = fromBase64(this.data.gain.free ? "" : this.maskAddress().split(",")[1]);
    this.onChange?.(this.settings);
  }

  position(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * this.data.width) / box.width - 0.5;
    return [x, ((event.clientY - box.top) * this.data.height) / box.height - 0.5];
  }

  /** Return the modes of the sheet to which a pixel of the photo belongs. */
  sheet(x, y) {
    const { front, behind, opacity, width, height } = this.data;
    const column = Math.min(Math.max(Math.round(x), 0), width - 1);
    const row = Math.min(Math.max(Math.round(y), 0), height - 1);
    return opacity[4 * (row * width + column)] > 127 ? front : behind;
  }

  /** Return a pixel of the photo, the modes of a sheet there and the grip on each. */
  place(field, u, v) {
    const shape = field.shape(u, v);
    return { u, v, shape, grip: gripOf(shape, this.system.omega), gain: field.gain.at(u, v) };
  }

  /** Return the pixel of the photo that is drawn at (x, y), with its modes; front first. */
  find(x, y) {
    const { front, behind } = this.data;
    const free = this.free();
    for (const field of [front, behind]) {
      let [u, v] = [x, y];
      for (let i = 0; i < 8; i++) {
        const [dx, dy] = this.system.at(field.shape(u, v), free);
        [u, v] = [x - dx, y - dy];
      }
      if (field === behind || this.sheet(u, v) === front) return this.place(field, u, v);
    }
  }

  grab(event) {
    if (event.button > 0) return;
    const [x, y] = this.position(event);
    if (this.brush) {
      this.canvas.setPointerCapture?.(event.pointerId);
      if (!this.painting) this.past.push(this.data.gain.values);
      this.painting ??= [x, y];
      return this.stroke(event);
    }
    this.arrows();
    const under = this.find(x, y);
    const still = under.gain < HELD;
    const found = this.moves(under) ? under : !still && this.beside(x, y);
    if (!found) return this.showLiveliest(still ? "This is held still" : "Nothing moves here");
    this.say(found === under ? "Let go, and it rings."
      : "Nothing moves here; you hold what moves beside it.");
    this.canvas.setPointerCapture?.(event.pointerId);
    this.touched = { x: found.u, y: found.v };
    const start = this.system.at(found.shape, this.free());
    this.held = { ...found, x, y, start, target: start, speed: [0, 0], last: performance.now() };
    this.canvas.classList.add("gidlite-held");
    this.attract(null);
  }

  moves(place) {
    return place.gain >= HELD && this.able(place) >= CALM * this.lively;
  }

  /** Return the liveliest place not far from (x, y), or nothing. */
  beside(x, y) {
    const near = NEAR * this.data.width;
    const found = this.liveliest((u, v) => {
      const away = Math.hypot(u - x, v - y) / near;
      return away < 1.5 ? Math.exp(-away * away / 2) : 0;
    });
    const place = this.place(this.data.front, found.x, found.y);
    return found.value > 0 && this.moves(place) ? place : null;
  }

  /** Say why nothing moves here, and ring what moves most. */
  showLiveliest(why) {
    const { x, y } = this.liveliest(this.central);
    const context = this.overlay.getContext("2d");
    this.overlay.hidden = false;
    for (const [colour, thick] of [["#000", 5], ["#fff", 2]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: thick });
      context.beginPath();
      context.arc(x, y, 0.5 * NEAR * this.data.width, 0, 2 * Math.PI);
      context.stroke();
    }
    this.say(`${why}; try inside the ring.`);
  }

  follow(event) {
    if (this.brush) return this.stroke(event);
    const [x, y] = this.position(event);
    if (!this.held) {
      if (event.pointerType !== "touch") this.attract([x, y]); // a finger does not hover
      return;
    }
    const { held } = this;
    const now = performance.now();
    const next = [held.start[0] + x - held.x, held.start[1] + y - held.y];
    const span = Math.max(now - held.last, 1) / 1000;
    const share = 1 - Math.exp(-span / 0.05);
    held.speed = held.speed.map(
      (old, i) => old + share * ((next[i] - held.target[i]) / span - old));
    Object.assign(held, { target: next, last: now });
    this.wake();
  }

  /** Let go, with the pointer's own speed. */
  letGo() {
    const { held, system } = this;
    if (this.painting) {
      this.painting = null;
      this.tellMask();
    }
    if (!held) return;
    const swaying = this.swaying();
    system.q = this.coordinates().map((value, i) => value - swaying[i]);
    const idle = (performance.now() - held.last) / 1000;
    const fade = Math.exp(-idle / 0.05);
    const [vx, vy] = held.speed.map((value) => value * fade);
    // No faster than a swing through the whole reach at 1.5 Hz.
    const most = this.radius(held) * 2 * Math.PI * 1.5;
    this.unhold(system.rate, held);
    system.impulse(held.shape, vx, vy, most, held.grip);
    system.tame(1.2 * this.radius(held));
    this.held = null;
    this.canvas.classList.remove("gidlite-held");
    this.wake();
  }

  /** Remove from coordinates (or rates) what moves the held pixel. */
  unhold(values, { shape, grip }) {
    const [dx, dy] = this.system.at(shape, values);
    this.system.leastNorm(shape, dx, dy, Infinity, grip)
      .forEach((value, i) => (values[i] -= value));
  }

  /**
   * Sway by a loop from now on, { fps, frames, q }: coordinates (re, im per mode) of one frame
   * after the other. The slider of the wind is then a factor on them.
   */
  sway(drift) {
    Object.assign(this, { drift, moment: 0 });
    this.wake();
  }

  /** Return the coordinates of a frame of the loop, which may lie between two. */
  loopFrame(frame, factor = this.wind * this.settings.gain) {
    const { q, frames } = this.drift;
    const size = 2 * this.system.count;
    const [from, share] = [Math.floor(frame), frame % 1];
    const [one, other] = [from % frames, (from + 1) % frames].map((i) => i * size);
    return Float64Array.from(
      { length: size }, (_, i) => factor * mix(q[one + i], q[other + i], share));
  }

  /** Paint a frame of the loop, which nobody touches; without wind, as with wind 1. */
  paintLoop(frame) {
    this.painter.paint(this.loopFrame(frame, (this.wind || 1) * this.settings.gain));
  }

  /** Keep the canvas to those who paint the loop, or take it back. */
  record(on) {
    this.recording = on;
    this.wake();
  }

  /** Return what the loop adds now. */
  swaying() {
    if (!this.drift) return new Float64Array(2 * this.system.count);
    return this.loopFrame(this.moment * this.drift.fps);
  }

  /** Return the q of motion that no hand holds. */
  free() {
    return this.swaying().map((value, i) => value + this.system.q[i]);
  }

  /** Return the q to draw: free motion, except that a held pixel is at the pointer. */
  coordinates() {
    const q = this.free();
    if (!this.held) return q;
    const { shape, grip, target } = this.held;
    this.unhold(q, this.held);
    this.system.leastNorm(shape, ...target, this.radius(this.held), grip)
      .forEach((value, i) => (q[i] += value));
    return q;
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in steps) this.push(...steps[event.key]);
    else if (event.key === " " || event.key === "Enter") this.poke();
    else if (event.key === "Escape") this.reset();
    else return;
    event.preventDefault();
  }

  /** Tap the pixel last touched (or the liveliest) in a direction. */
  push(x, y, strength = 1) {
    const place = this.find(this.touched.x, this.touched.y);
    if (place.gain < HELD) return;
    const radius = this.radius(place) * 2 * Math.PI * Math.sqrt(this.settings.stiffness);
    const speed = 0.8 * strength * radius * Math.sqrt(this.able(place));
    this.system.impulse(place.shape, speed * x, speed * y, radius, place.grip);
    this.system.tame(this.radius(place)); // however often it is pushed
    this.wake();
  }

  poke() {
    const { shape } = this.find(this.touched.x, this.touched.y);
    const [xx, xy, yy] = gram(shape, this.system.omega);
    const angle = 0.5 * Math.atan2(2 * xy, xx - yy);
    this.push(Math.cos(angle), Math.sin(angle), 1.25);
    this.say("Poked.");
  }

  reset() {
    this.held = this.painting = null;
    this.system.reset();
    this.take(null);
    this.setMask(new Uint8Array());
    this.apply({ ...DEFAULTS, damping: this.data.header.damping }, true);
    this.say("Reset.");
  }

  say(text) {
    this.status.textContent = text;
  }

  /** Draw, for the chosen mode, the line along which each pixel swings. */
  arrows() {
    const context = this.overlay.getContext("2d");
    const { width, height } = this.data;
    context.clearRect(0, 0, width, height);
    this.overlay.hidden = this.choice.value === ""; // even empty, it would be blended every frame
    if (this.overlay.hidden) return;
    const k = Number(this.choice.value);
    const spacing = width / 24;
    const list = [];
    for (let y = spacing / 2; y < height; y += spacing) {
      for (let x = spacing / 2; x < width; x += spacing) {
        const [a, b, c, d] = this.sheet(x, y).shape(x, y).slice(4 * k, 4 * k + 4);
        const angle = 0.5 * Math.atan2(2 * (a * b + c * d), a * a + c * c - b * b - d * d);
        const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
        list.push([x, y, a * cos + b * sin, c * cos + d * sin]);
      }
    }
    const most = Math.max(...list.map(([, , dx, dy]) => Math.hypot(dx, dy)), 1e-9);
    for (const [colour, thick] of [["#000", 3], ["#fff", 1.25]]) {
      context.strokeStyle = colour;
      context.lineWidth = (thick * width) / 640;
      context.beginPath();
      for (const [x, y, dx, dy] of list) arrow(context, x, y, (dx * spacing) / most, (dy * spacing) / most);
      context.stroke();
    }
  }

  get busy() {
    if (this.held || this.wind > 0) return true;
    return this.system.unrest() * Math.sqrt(this.largest) > STILL;
  }

  wake() {
    const seen = this.visible && document.visibilityState !== "hidden";
    if (this.dead || this.recording || this.pending || !seen) return;
    this.pending = requestAnimationFrame((time) => this.frame(time));
  }

  frame(time) {
    this.pending = 0;
    if (this.recording) return;
    // After a pause the motion goes on where it was instead of leaping ahead.
    const dt = Math.min(Math.max((time - (this.clock ?? time)) / 1000, 0), 0.1);
    this.clock = time;
    this.system.step(dt, this.drift ? 0 : this.breeze * this.wind * this.settings.gain);
    this.moment += dt;
    if (!this.busy) {
      this.system.settle();
      this.clock = undefined;
    }
    this.painter.paint(this.coordinates());
    this.frames++;
    if (this.busy) this.wake();
  }

  destroy() {
    this.dead = true;
    cancelAnimationFrame(this.pending);
    this.abort.abort();
    this.watcher.disconnect();
    this.painter.destroy();
    this.box.remove();
  }
}

function arrow(context, x, y, dx, dy) {
  const [left, top] = [x - dx / 2, y - dy / 2];
  const [right, below] = [x + dx / 2, y + dy / 2];
  context.moveTo(left, top);
  context.lineTo(right, below);
  context.lineTo(right - 0.3 * dx + 0.2 * dy, below - 0.3 * dy - 0.2 * dx);
  context.moveTo(right, below);
  context.lineTo(right - 0.3 * dx - 0.2 * dy, below - 0.3 * dy + 0.2 * dx);
}

// ---------------------------------------------------------------- pages and notebooks

function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Bring every <figure data-gidlite> of a page to life; its photo is the <img> inside. */
export function mountAll(page = document) {
  return [...page.querySelectorAll("figure[data-gidlite]")].map(async (figure) => {
    const image = figure.querySelector("img");
    const scene = JSON.parse(figure.querySelector("script").textContent);
    for (const name of ["back", "alpha", "front_modes", "back_modes"]) {
      scene[name] = fromBase64(scene[name]);
    }
    scene.photo = fromBase64(image.src.slice(image.src.indexOf(",") + 1));
    scene.header.alt = image.alt;
    const { damping } = scene.header;
    const canvas = new URLSearchParams(location.search).has("canvas");
    figure.explorer = await mount(figure, scene, { damping, canvas, save: true });
    image.hidden = true;
    return figure.explorer;
  });
}

const SYNCED = Object.keys(DEFAULTS);

async function render({ model, el }) {
  const bytes = (name) => {
    const view = model.get(name);
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  };
  const names = ["photo", "back", "alpha", "front_modes", "back_modes"];
  const scene = { header: model.get("header") };
  for (const name of names) scene[name] = bytes(name);
  const settings = Object.fromEntries(SYNCED.map((name) => [name, model.get(name)]));
  const explorer = await mount(el, scene, settings);
  const masked = () => {
    const mask = bytes("mask");
    // A stroke comes back from Python as it went.
    return String(mask) === String(explorer.mask) ? null : explorer.setMask(mask);
  };
  explorer.onChange = (now) => {
    for (const name of SYNCED) model.set(name, now[name]);
    const { mask } = explorer;
    if (String(mask) !== String(bytes("mask"))) model.set("mask", new DataView(mask.buffer));
    model.save_changes();
  };
  const changed = () => explorer.apply(
    Object.fromEntries(SYNCED.map((name) => [name, model.get(name)])));
  const told = ({ kind }) => {
    if (kind === "poke") explorer.poke();
    if (kind === "reset") explorer.reset();
  };
  for (const name of SYNCED) model.on(`change:${name}`, changed);
  model.on("change:mask", masked);
  model.on("msg:custom", told);
  await masked();
  return () => {
    for (const name of SYNCED) model.off(`change:${name}`, changed);
    model.off("change:mask", masked);
    model.off("msg:custom", told);
    explorer.destroy();
  };
}

export default { render };
