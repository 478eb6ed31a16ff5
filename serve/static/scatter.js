// Points in WebGL: pan, zoom, the point under the pointer, a lasso. Smooth at 100,000 points.

const VERTEX = `
attribute vec2 place; attribute vec4 ink; uniform vec2 scale, shift; uniform float size; varying vec4 colour;
void main() { gl_Position = vec4(place * scale + shift, 0., 1.); gl_PointSize = size * (ink.a > .5 ? 1. : .7); colour = ink; }`;
const FRAGMENT = `
precision mediump float; varying vec4 colour;
void main() {
  float r = length(gl_PointCoord - .5) * 2.;
  float a = colour.a * (1. - smoothstep(.8, 1., r));
  gl_FragColor = vec4(colour.rgb * a, a);
}`;
const CELLS = 128; // a side of the grid in which points are looked up
const MOVING = 20000; // points that are drawn while the view moves; all of them once it rests
const REST = 120; // milliseconds after which it rests
const LEAST_ZOOM = 0.5, MOST_ZOOM = 400, ALL = { x: 0, y: 0, zoom: 1 };

export class Scatter {
  // `on`: hover(number or -1, event), click(number), lasso(numbers), moved().
  constructor(place, label, on) {
    this.place = place;
    this.on = on;
    this.canvas = Object.assign(document.createElement("canvas"), { tabIndex: 0 });
    this.over = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", label);
    this.over.setAttribute("aria-hidden", "true");
    this.over.className = "over";
    place.replaceChildren(this.canvas, this.over);
    this.gl = this.canvas.getContext("webgl", { antialias: false, premultipliedAlpha: true });
    if (this.gl) this.prepare();
    this.count = 0;
    this.rings = [];
    this.tool = "move";
    this.view = { ...ALL };
    this.listen();
    this.resizer = new ResizeObserver(() => this.draw());
    this.resizer.observe(place);
  }

  prepare() {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.buffers = { place: gl.createBuffer(), ink: gl.createBuffer(), some: gl.createBuffer() };
    this.indexed = Boolean(gl.getExtension("OES_element_index_uint"));
    this.at = Object.fromEntries(["place", "ink"].map((name) => [name, gl.getAttribLocation(program, name)]));
    this.uniform = Object.fromEntries(["scale", "shift", "size"].map((name) => [name, gl.getUniformLocation(program, name)]));
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  // Places as [[x, y], …]; they are scaled to -1…1, and the same in both directions.
  setPoints(points) {
    const bounds = [0, 1].map((axis) => {
      let low = Infinity, high = -Infinity;
      for (const point of points) { low = Math.min(low, point[axis]); high = Math.max(high, point[axis]); }
      return [low, high];
    });
    const reach = Math.max(...bounds.map(([low, high]) => high - low), 1e-12) / 2;
    const centre = bounds.map(([low, high]) => (low + high) / 2);
    this.count = points.length;
    this.places = new Float32Array(2 * points.length);
    points.forEach((point, i) => { for (const axis of [0, 1]) this.places[2 * i + axis] = (point[axis] - centre[axis]) / reach; });
    this.grid = new Map();
    for (let i = 0; i < this.count; i++) {
      const cell = this.cell(this.places[2 * i]) * CELLS + this.cell(this.places[2 * i + 1]);
      if (!this.grid.has(cell)) this.grid.set(cell, []);
      this.grid.get(cell).push(i);
    }
    this.view = { ...ALL };
    if (this.gl) {
      this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffers.place);
      this.gl.bufferData(this.gl.ARRAY_BUFFER, this.places, this.gl.STATIC_DRAW);
      // Evenly over all rows: a fair part of every class.
      const some = new Uint32Array(this.count > MOVING ? MOVING : 0);
      for (let i = 0; i < some.length; i++) some[i] = Math.floor((i * this.count) / MOVING);
      this.gl.bindBuffer(this.gl.ELEMENT_ARRAY_BUFFER, this.buffers.some);
      this.gl.bufferData(this.gl.ELEMENT_ARRAY_BUFFER, some, this.gl.STATIC_DRAW);
    }
  }

  // Draw while the view moves: a part of the points, and all of them soon after.
  move() {
    this.moving = this.indexed && this.count > MOVING;
    this.draw();
    if (!this.moving) return;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => { this.moving = false; this.draw(); }, REST);
  }

  // Points with a ring around them: the others stay as they are drawn.
  ring(numbers) {
    this.rings = numbers;
    if (this.waiting || this.ringing) return;
    this.ringing = requestAnimationFrame(() => { this.ringing = 0; if (this.ink) this.drawOver(this.size, devicePixelRatio || 1); });
  }

  // Four numbers from 0 to 255 a point.
  setInk(ink) {
    this.ink = ink;
    if (this.gl) {
      this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffers.ink);
      this.gl.bufferData(this.gl.ARRAY_BUFFER, ink, this.gl.STATIC_DRAW);
    }
    this.draw();
  }

  cell(value) {
    return Math.min(CELLS - 1, Math.max(0, Math.floor(((value + 1) / 2) * CELLS)));
  }

  // Pixels of CSS from the middle, for one unit.
  get unit() {
    return (0.47 * Math.min(this.place.clientWidth, this.place.clientHeight)) * this.view.zoom;
  }

  toScreen(i) {
    const { clientWidth: wide, clientHeight: high } = this.place;
    return [wide / 2 + (this.places[2 * i] - this.view.x) * this.unit, high / 2 - (this.places[2 * i + 1] - this.view.y) * this.unit];
  }

  toData(x, y) {
    const { clientWidth: wide, clientHeight: high } = this.place;
    return [this.view.x + (x - wide / 2) / this.unit, this.view.y - (y - high / 2) / this.unit];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.drawNow(); });
  }

  drawNow() {
    const { clientWidth: wide, clientHeight: high } = this.place, ratio = devicePixelRatio || 1;
    if (!wide || !high || !this.ink) return;
    for (const canvas of [this.canvas, this.over]) {
      if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio)) {
        canvas.width = Math.round(wide * ratio);
        canvas.height = Math.round(high * ratio);
      }
    }
    const size = this.size = Math.min(14, Math.max(2.2, (this.count > 20000 ? 2.6 : this.count > 4000 ? 4.5 : 7) * this.view.zoom ** 0.35));
    if (this.gl) this.drawPoints(wide, high, size * ratio);
    else this.drawFlat(size, ratio);
    this.drawOver(size, ratio);
    this.on.moved?.();
  }

  drawPoints(wide, high, size) {
    const gl = this.gl, sx = (2 * this.unit) / wide, sy = (2 * this.unit) / high;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(this.uniform.scale, sx, sy);
    gl.uniform2f(this.uniform.shift, -this.view.x * sx, -this.view.y * sy);
    gl.uniform1f(this.uniform.size, size);
    for (const [name, parts, kind, whole] of [["place", 2, gl.FLOAT, false], ["ink", 4, gl.UNSIGNED_BYTE, true]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.enableVertexAttribArray(this.at[name]);
      gl.vertexAttribPointer(this.at[name], parts, kind, whole, 0, 0);
    }
    if (this.moving) gl.drawElements(gl.POINTS, MOVING, gl.UNSIGNED_INT, 0);
    else gl.drawArrays(gl.POINTS, 0, this.count);
  }

  // Without WebGL: slower, but the same picture.
  drawFlat(size, ratio) {
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.place.clientWidth, this.place.clientHeight);
    for (let i = 0; i < this.count; i++) {
      const [x, y] = this.toScreen(i), [r, g, b, a] = this.ink.subarray(4 * i, 4 * i + 4);
      pen.fillStyle = `rgba(${r},${g},${b},${a / 255})`;
      pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
  }

  drawOver(size, ratio) {
    const pen = this.over.getContext("2d"), ink = getComputedStyle(this.place).color;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.place.clientWidth, this.place.clientHeight);
    pen.strokeStyle = ink;
    pen.lineWidth = 1.6;
    for (const i of this.rings) {
      if (i < 0) continue;
      const [x, y] = this.toScreen(i);
      pen.beginPath();
      pen.arc(x, y, size / 2 + 4, 0, 7);
      pen.stroke();
    }
    if (!this.path || this.path.length < 2) return;
    pen.setLineDash([5, 4]);
    pen.beginPath();
    this.path.forEach(([x, y]) => pen.lineTo(x, y));
    pen.closePath();
    pen.stroke();
    pen.setLineDash([]);
  }

  // What is in view as an SVG, with the meaning of its colours, [colour, text], below it.
  svg(colours) {
    const { clientWidth: wide, clientHeight: high } = this.place, ink = getComputedStyle(this.place).color, marks = [];
    for (let i = 0; i < this.count; i++) {
      const [x, y] = this.toScreen(i), [r, g, b, a] = this.ink.subarray(4 * i, 4 * i + 4);
      if (x < 0 || y < 0 || x > wide || y > high) continue;
      marks.push(`<circle cx="${x.toFixed(2)}" cy="${y.toFixed(2)}" r="${((a > 127 ? 0.5 : 0.35) * this.size).toFixed(2)}" fill="rgb(${r},${g},${b})" fill-opacity="${(a / 255).toFixed(2)}"/>`);
    }
    const columns = Math.max(1, Math.floor(wide / 170));
    // Characters that XML has not are left out.
    const safe = (text) => text.replace(/[^\t\u0020-\ud7ff\ue000-\ufffd]|[&<]/gu, (one) => ({ "&": "&amp;", "<": "&lt;" })[one] || "");
    colours.forEach(([colour, text], i) => {
      const x = 16 + 170 * (i % columns), y = high + 20 * Math.floor(i / columns) + 10;
      marks.push(`<circle cx="${x}" cy="${y}" r="5" fill="${colour}"/><text x="${x + 10}" y="${y + 4}">${safe(text.length > 24 ? `${text.slice(0, 23)}…` : text)}</text>`);
    });
    const height = high + 20 * Math.ceil(colours.length / columns) + 10;
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${height}" viewBox="0 0 ${wide} ${height}" font-family="sans-serif" font-size="12" fill="${ink}">`
      + `<rect width="100%" height="100%" fill="${Shown.css("--card")}"/>${marks.join("\n")}</svg>\n`;
  }

  // The point within 12 pixels, or -1.
  pick(x, y) {
    if (!this.grid) return -1;
    const reach = 12 / this.unit, [dx, dy] = this.toData(x, y);
    let best = -1, nearest = reach * reach;
    for (let column = this.cell(dx - reach); column <= this.cell(dx + reach); column++) {
      for (let row = this.cell(dy - reach); row <= this.cell(dy + reach); row++) {
        for (const i of this.grid.get(column * CELLS + row) || []) {
          const off = (this.places[2 * i] - dx) ** 2 + (this.places[2 * i + 1] - dy) ** 2;
          if (off < nearest && this.ink[4 * i + 3] > 40) { best = i; nearest = off; }
        }
      }
    }
    return best;
  }

  inside(path) {
    const places = path.map(([x, y]) => this.toData(x, y)), chosen = [];
    for (let i = 0; i < this.count; i++) {
      const x = this.places[2 * i], y = this.places[2 * i + 1];
      let within = false;
      for (let a = 0, b = places.length - 1; a < places.length; b = a++) {
        const [ax, ay] = places[a], [bx, by] = places[b];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
      }
      if (within && this.ink[4 * i + 3] > 40) chosen.push(i);
    }
    return chosen;
  }

  inView() {
    const { clientWidth: wide, clientHeight: high } = this.place;
    return this.inside([[0, 0], [wide, 0], [wide, high], [0, high]]);
  }

  zoomBy(factor, x = this.place.clientWidth / 2, y = this.place.clientHeight / 2) {
    const [dx, dy] = this.toData(x, y);
    this.view.zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, this.view.zoom * factor));
    const [nx, ny] = this.toData(x, y);
    this.view.x += dx - nx;
    this.view.y += dy - ny;
    this.move();
  }

  show({ x, y, zoom }) {
    this.view = { x, y, zoom: Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, zoom)) };
    this.draw();
  }

  reset() {
    this.show(ALL);
  }

  listen() {
    const canvas = this.canvas, held = new Map();
    let moved = 0, apart = 0;
    const where = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...where(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, where(event));
      moved = 0;
      if (held.size === 2) { const [a, b] = [...held.values()]; apart = Math.hypot(a[0] - b[0], a[1] - b[1]); this.path = null; }
      else if (this.tool === "lasso") this.path = [where(event)];
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = where(event), before = held.get(event.pointerId);
      if (!before) { this.on.hover?.(this.pick(x, y), event); return; }
      held.set(event.pointerId, [x, y]);
      moved += Math.hypot(x - before[0], y - before[1]);
      if (held.size === 2) {
        const [a, b] = [...held.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (apart) this.zoomBy(now / apart, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
        apart = now;
      } else if (this.path) { this.path.push([x, y]); this.draw(); }
      else {
        this.view.x -= (x - before[0]) / this.unit;
        this.view.y += (y - before[1]) / this.unit;
        this.move();
      }
    });
    const up = (event) => {
      if (!held.delete(event.pointerId)) return;
      const [x, y] = where(event);
      if (moved < 5 && event.type === "pointerup") {
        const i = this.pick(x, y);
        if (i >= 0) this.on.click?.(i, event);
      } else if (this.path && this.path.length > 4) this.on.lasso?.(this.inside(this.path));
      this.path = null;
      this.draw();
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", (event) => this.on.hover?.(-1, event));
    canvas.addEventListener("keydown", (event) => {
      const step = 0.15 / this.view.zoom;
      const act = {
        ArrowLeft: () => { this.view.x -= step; }, ArrowRight: () => { this.view.x += step; },
        ArrowUp: () => { this.view.y += step; }, ArrowDown: () => { this.view.y -= step; },
        "+": () => this.zoomBy(1.3), "=": () => this.zoomBy(1.3), "-": () => this.zoomBy(1 / 1.3), 0: () => this.reset(),
        Enter: () => this.on.lasso?.(this.inView()),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
      this.draw();
    });
  }

  close() {
    clearTimeout(this.rest);
    this.resizer.disconnect();
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
