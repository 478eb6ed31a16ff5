"use strict";
// The page asks its own server only. Its state is the address: #image=17&with=33&relation=other&k=12

const API = "api/v1"; // relative: a proxy may serve the page below another path
const at = (id) => document.getElementById(id);
const SMALL = 48; // images of so few pixels look best with hard edges
let facts = null, state = {}, pair = null, what = "likeness", asked = 0;

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error || `${path}: ${answer.status} ${answer.statusText}`);
  return body;
}

function say(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

function named(image) {
  if (image.row < 0) return "the image that you brought";
  return image.path.split("/").pop();
}

function go(changes) {
  const next = { ...state, ...changes };
  const entries = Object.entries(next).filter(([, value]) => value !== undefined && value !== "");
  location.hash = new URLSearchParams(entries).toString();
}

function picture(image, side) {
  const img = new Image();
  img.loading = "lazy";
  img.alt = image.label === null ? named(image) : `${image.label}: ${named(image)}`;
  img.onload = () => img.classList.toggle("few", Math.max(img.naturalWidth, img.naturalHeight) <= SMALL);
  img.src = `${API}/images/${image.image}/thumbnail?side=${side}`;
  return img;
}

function tile(image, lines, kind, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = `tile ${kind}`;
  button.title = image.path;
  button.append(picture(image, 192));
  for (const line of lines) {
    const span = document.createElement("span");
    span.textContent = line;
    button.append(span);
  }
  button.onclick = act;
  return button;
}

function pressed(group, value) {
  for (const button of at(group).children) button.setAttribute("aria-pressed", button.dataset.value === value);
}

async function showNeighbours(number) {
  const relation = state.relation || "any", k = Number(state.k) || 12;
  const reply = await ask(`${API}/images/${state.image}/neighbours?k=${k}&relation=${relation}`);
  if (number !== asked) return null;
  const query = reply.query, near = reply.neighbours;
  at("answer").hidden = false;
  at("query-picture").replaceWith(Object.assign(picture(query, 384), { id: "query-picture" }));
  at("query-name").textContent = query.label === null ? named(query) : query.label;
  const which = query.row < 0 ? "not stored" : `${query.path}, row ${query.row}`;
  at("query-about").textContent = query.split ? `${which}, ${query.split.replace("_", " ")}` : which;
  const same = near.filter((one) => one.label === query.label).length;
  const share = query.label === null || relation !== "any" ? "" : `${same} of ${near.length} have its class. `;
  const sure = reply.exact ? "These are exactly the nearest." : "Found by an approximate index.";
  const lacking = reply.missing ? ` ${reply.missing} images are not in the index: none of them can be here.` : "";
  at("summary").textContent = (near.length ? share + sure : "No stored image may answer.") + lacking;
  at("near").replaceChildren(...near.map((one) => {
    const labelled = query.label !== null && one.label !== null;
    const kind = !labelled ? "plain" : one.label === query.label ? "same" : "other";
    const button = tile(one, [one.distance.toFixed(4), one.label ?? ""], kind, () => go({ with: one.image }));
    button.setAttribute("aria-current", [one.image, String(one.row)].includes(state.with));
    return button;
  }));
  pressed("relation", relation);
  for (const button of at("relation").children) button.disabled = query.label === null && button.dataset.value !== "any";
  at("k").value = k;
  return reply;
}

async function showPair(number) {
  const load = (name) => new Promise((good, bad) => {
    const img = new Image();
    img.onload = () => good(img);
    img.onerror = () => bad(new Error("one of the two images cannot be shown"));
    img.src = `${API}/images/${name}/input?transform=${facts.transform}`;
  });
  const comparison = await ask(`${API}/images/${state.image}/alike/${state.with}`);
  const pictures = await Promise.all([load(comparison.first.image), load(comparison.second.image)]);
  if (number !== asked) return;
  pair = { ...comparison, pictures };
  at("pair").hidden = false;
  at("hint").hidden = !comparison.pairs;
  at("pair-title").textContent = "Where are the two alike?";
  at("pair-about").textContent =
    `The cosine of their mean features is ${comparison.value.toFixed(4)}. On each image the colours sum to ` +
    `it without remainder; where they differ, both together sum to ${(1 - comparison.value).toFixed(4)}.` +
    (comparison.in_measure ? "" : ` The neighbours are ordered by ${facts.measure}, which is another measure.`);
  for (const side of ["first", "second"]) {
    const label = comparison[side].label === null ? "" : `${comparison[side].label}: `;
    at(`${side}-name`).textContent = label + named(comparison[side]);
  }
  draw();
}

// Colours of analysis/overlay.py, which the server tells; grey is the image.
function colour(share) {
  const size = Math.abs(share), [weak, strong] = share < 0 ? facts.colours.against : facts.colours.for;
  return [weak.map((value, i) => value * (1 - size) + strong[i] * size), 0.8 * size ** 0.7];
}

function paint(canvas, img, heat, top, mark) {
  const scale = 420 / Math.max(img.naturalWidth, img.naturalHeight);
  canvas.width = Math.round(img.naturalWidth * scale);
  canvas.height = Math.round(img.naturalHeight * scale);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = Math.max(img.naturalWidth, img.naturalHeight) > SMALL;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(img, 0, 0, canvas.width, canvas.height);
  if (!heat) return;
  const shown = pen.getImageData(0, 0, canvas.width, canvas.height), data = shown.data;
  const high = heat.length, wide = heat[0].length;
  const place = (x, size, cells) => {
    const exact = Math.min(Math.max(((x + 0.5) * cells) / size - 0.5, 0), cells - 1), low = Math.floor(exact);
    return [low, Math.min(low + 1, cells - 1), exact - low];
  };
  const across = Array.from({ length: canvas.width }, (_, x) => place(x, canvas.width, wide));
  for (let y = 0, i = 0; y < canvas.height; y++) {
    const [up, down, v] = place(y, canvas.height, high);
    for (let x = 0; x < canvas.width; x++, i += 4) {
      const [left, right, u] = across[x];
      const above = heat[up][left] * (1 - u) + heat[up][right] * u;
      const below = heat[down][left] * (1 - u) + heat[down][right] * u;
      const share = top > 0 ? Math.min(Math.max((above * (1 - v) + below * v) / top, -1), 1) : 0;
      const [ink, opacity] = colour(share);
      const grey = (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) * 0.75 + 40;
      for (let c = 0; c < 3; c++) data[i + c] = grey * (1 - opacity) + ink[c] * opacity;
    }
  }
  pen.putImageData(shown, 0, 0);
  if (!mark) return;
  pen.lineWidth = 3;
  pen.strokeStyle = "#fff";
  const cell = [canvas.width / wide, canvas.height / high];
  pen.strokeRect(mark[1] * cell[0] + 1, mark[0] * cell[1] + 1, cell[0] - 2, cell[1] - 2);
  pen.lineWidth = 1;
  pen.strokeStyle = "#000";
  pen.strokeRect(mark[1] * cell[0] + 3, mark[0] * cell[1] + 3, cell[0] - 6, cell[1] - 6);
}

// The largest magnitude in lists of numbers.
function largest(...maps) {
  return Math.max(...maps.flat(2).map(Math.abs), 0);
}

function draw(side, mark) {
  if (!pair) return;
  pressed("what", what);
  const maps = what === "none" ? [null, null] : [...pair[what]];
  let top = what === "none" ? 0 : largest(...maps), marks = [null, null], near = top;
  if (mark && what === "likeness") {
    const here = side === "first" ? 0 : 1, shape = pair.likeness[1 - here], wide = shape[0].length;
    const number = mark[0] * pair.likeness[here][0].length + mark[1];
    const flat = here === 0 ? pair.pairs[number] : pair.pairs.map((row) => row[number]);
    maps[1 - here] = shape.map((_, y) => flat.slice(y * wide, (y + 1) * wide));
    marks[here] = mark;
    near = largest(maps[1 - here]);
    paint(at(side), pair.pictures[here], maps[here], top, mark);
    paint(at(here ? "first" : "second"), pair.pictures[1 - here], maps[1 - here], near, null);
    scale(near);
    return;
  }
  paint(at("first"), pair.pictures[0], maps[0], top, null);
  paint(at("second"), pair.pictures[1], maps[1], top, null);
  scale(top);
}

function scale(top) {
  const canvas = at("scale"), pen = canvas.getContext("2d");
  canvas.parentElement.hidden = what === "none";
  for (let x = 0; x < canvas.width; x++) {
    const [ink, opacity] = colour((2 * x) / (canvas.width - 1) - 1);
    pen.fillStyle = `rgb(${ink.map((value) => 140 * (1 - opacity) + value * opacity).join(",")})`;
    pen.fillRect(x, 0, 1, canvas.height);
  }
  at("scale-low").textContent = `against, ${(-top).toPrecision(2)}`;
  at("scale-high").textContent = `${top.toPrecision(2)}, for`;
}

async function showSome() {
  const label = at("label").value, seed = Number(at("shuffle").dataset.seed || 0);
  const chosen = label ? `&label=${encodeURIComponent(label)}` : "";
  const images = await ask(`${API}/images?count=27&seed=${seed}${chosen}`);
  at("gallery").replaceChildren(...images.map((one) =>
    tile(one, [one.label ?? ""], "", () => go({ image: one.image, with: undefined }))));
}

async function follow() {
  const number = ++asked, before = state;
  state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  say(null);
  try {
    if (!state.image) at("answer").hidden = true;
    else await showNeighbours(number);
    if (!state.image || !state.with) {
      at("pair").hidden = true;
      pair = null;
    } else await showPair(number);
  } catch (error) {
    if (number === asked) say(error);
  }
  if (state.image !== before.image) scrollTo({ top: 0 });
  else if (pair && state.with !== before.with) at("pair").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

async function bring(file) {
  if (!file) return;
  try {
    const image = await ask(`${API}/images`, { method: "POST", body: file });
    go({ image: image.image, with: undefined, relation: undefined });
  } catch (error) {
    say(error);
  }
}

function listen() {
  const drop = at("drop");
  at("file").onchange = (event) => bring(event.target.files[0]).then(() => { event.target.value = ""; });
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    bring(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => bring(event.clipboardData.files[0]));
  at("relation").onclick = (event) => { if (event.target.dataset.value) go({ relation: event.target.dataset.value }); };
  at("k").onchange = (event) => go({ k: event.target.value });
  at("what").onclick = (event) => { if (event.target.dataset.value) { what = event.target.dataset.value; draw(); } };
  at("ask-other").onclick = () => go({ image: state.with, with: undefined });
  at("label").onchange = () => showSome().catch(say);
  at("shuffle").onclick = () => {
    at("shuffle").dataset.seed = Number(at("shuffle").dataset.seed || 0) + 1;
    showSome().catch(say);
  };
  at("theme").onclick = () => {
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  };
  for (const side of ["first", "second"]) {
    at(side).onpointermove = (event) => {
      if (!pair || !pair.pairs || what !== "likeness") return;
      const map = pair.likeness[side === "first" ? 0 : 1], box = at(side).getBoundingClientRect();
      const cell = (share, cells) => Math.min(Math.max(Math.floor(share * cells), 0), cells - 1);
      draw(side, [cell((event.clientY - box.top) / box.height, map.length),
        cell((event.clientX - box.left) / box.width, map[0].length)]);
    };
    at(side).onpointerleave = () => draw();
  }
  addEventListener("hashchange", follow);
}

async function start() {
  if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.dataset.theme = "dark";
  listen();
  try {
    facts = await ask(`${API}/set`);
  } catch (error) {
    say(error);
    return;
  }
  const classes = Object.keys(facts.classes);
  at("facts").textContent = `${facts.images.toLocaleString("en")} images, ${classes.length} classes, ` +
    `${facts.network.split("/").pop()} (${facts.weights}), ${facts.measure}`;
  at("facts").title = facts.about;
  at("notes").textContent = facts.notes.join(" ");
  at("notes").hidden = !facts.notes.length;
  at("label").append(...classes.map((name) => new Option(`${name} (${facts.classes[name]})`, name)));
  showSome().catch(say);
  follow();
}

start();
