// What all views share: questions to the server, elements, pictures, the states of a view.

const API = "api/v1"; // relative: a proxy may serve the page below another path
const SMALL = 48; // images of so few pixels look best with hard edges

let store = ""; // that is shown; empty for the first of the server
export function useStore(name) {
  store = name || "";
}

// A question to the store that is shown, or to `values.store`; the other values become the query, those that are missing are
// left out, lists are repeated.
export function address(path, { store: asked = store, ...values } = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") query.append(name, one);
    }
  }
  const of = asked && path !== "stores" ? `stores/${encodeURIComponent(asked)}/` : "";
  return `${API}/${of}${path}${query.size ? `?${query}` : ""}`;
}

// A path of the API: each name is one part of it, whatever stands in the name.
export const pathOf = (...names) => names.map(encodeURIComponent).join("/");

// What is asked of images, which are named by row or hash: nothing else of the address reaches the server as a path.
export function imagePath(image, ...rest) {
  return pathOf("images", nameOfImage(image), ...rest);
}

export function nameOfImage(text) {
  if (/^(0|[1-9]\d{0,17}|[0-9a-f]{64})$/.test(text)) return text;
  throw new Refusal(`No image is named “${text}”: images are named by their row or their hash.`, 404);
}

export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, values, options) {
  const answer = await fetch(address(path, values), options).catch(gone);
  const body = await answer.json().catch(answer.ok ? gone : () => ({}));
  if (!answer.ok) throw new Refusal(body.error || `${path}: ${answer.status} ${answer.statusText}`, answer.status);
  return body;
}

// An answer that does not arrive, or not whole; one that nobody waits for any more stays what it is.
function gone(error) {
  throw error.name === "AbortError" ? error : new Error("The server does not answer. Is `alike serve` still running?");
}

// The answer, or null where something has not been computed or does not exist.
export function askIfThere(path, values, options) {
  return ask(path, values, options).catch((error) => {
    if (error.status === 404 || error.status === 422) return null;
    throw error;
  });
}

// An element. Attributes that begin with `on` are listeners; `class`, `data-…`, `aria-…` as in HTML.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// The address of a view, as people share it.
export function link(view, values = {}) {
  const entries = Object.entries({ store, ...values }).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(entries).toString();
  return `#${view}${query ? `?${query}` : ""}`;
}

// A network in a list of those that can be asked for neighbours; without an index it cannot.
export function networkOption(value, title, indexed) {
  return indexed ? [value, title] : [value, `${title}: no index`, { disabled: true }];
}

// A name as part of a text that takes no elements: one that is written from right to left turns nothing beside it around.
export const isolated = (text) => (/[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u.test(text) ? `\u2068${text}\u2069` : text);

// An image in a few words, for the title of the page.
export const titleOf = (image) => [image.label, named(image)].filter((one) => one !== null).map(isolated).join(" ");

export function named(image) {
  if (image.row < 0 && !image.path) return "the image that you brought";
  return image.path.split("/").pop();
}

// `gone` is called if it does not arrive.
export function picture(image, side = 192, gone = null) {
  const alt = [image.label, named(image)].filter((one) => one !== null).map(isolated).join(": ");
  if (!image.image) return h("span", { class: "nopicture", role: "img", "aria-label": `${alt}: cannot be shown` }, "no picture");
  const img = h("img", { alt, loading: "lazy", decoding: "async" });
  img.onload = () => img.classList.toggle("few", Math.max(img.naturalWidth, img.naturalHeight) <= SMALL);
  img.onerror = () => {
    img.replaceWith(picture({ ...image, image: "" }, side));
    gone?.();
  };
  img.src = address(imagePath(image.image, "thumbnail"), { side });
  return img;
}

// Why an image does not arrive, in the words of the server.
export async function whyGone(path, values) {
  const answer = await fetch(address(path, values)).catch(() => null);
  if (!answer) return "The server does not answer. Is `alike serve` still running?";
  return answer.ok ? "The image is there again: load the page again." : (await answer.json().catch(() => ({}))).error || `${answer.status} ${answer.statusText}`;
}

// A picture that leads somewhere, with lines below it.
export function pictureLink(image, lines, kind, href, current = false) {
  return h("a", { class: `pic ${kind}`, href, title: image.path, "aria-current": current ? "true" : undefined },
    picture(image), lines.map((line) => h("span", { class: line instanceof Node ? "whole" : undefined }, line)));
}

// A distance below a picture: in two lines rather than cut, since cut ones look the same.
export const wholeDistance = (value) => document.createTextNode(distance(value));

// Names in the figures of the server are written so that plotly shows them as they are.
export const plainText = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
export const figureText = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// The measure that an analysis is asked for: the chosen one, or that on which it rests if it was not analysed by that.
export function analysedMeasure({ key, measure, extractions }) {
  const { measures } = extractions.find((one) => one.key === key);
  return !measures.length || measures.includes(measure) ? measure : undefined;
}

// Which measure is shown in place of the chosen one, and why; null if it is the chosen one.
export function otherMeasure(shown, { measure, measure_needs: needs }, why = needs || `the analysis has no ${measure}`) {
  return shown === measure ? null : h("p", { class: "soft othermeasure" }, prose(`Shown by ${shown}, not by ${measure}: ${why}.`));
}

export function choices(label, options, chosen, act) {
  return h("span", { class: "choices", role: "group", "aria-label": label }, options.map(([value, text, extra = {}]) =>
    h("button", { type: "button", "data-value": value, "aria-pressed": String(value === chosen), onclick: () => act(value), ...extra }, text)));
}

export function press(group, value) {
  for (const button of group.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.value === value));
}

export function select(label, options, chosen, act) {
  // What does not fit into the list is its title.
  const whole = () => { list.title = list.selectedOptions[0]?.textContent ?? ""; };
  const list = h("select", { onchange: (event) => { whole(); act(event.target.value); } },
    options.map(([value, text, extra = {}]) => h("option", { value, selected: value === chosen, ...extra }, text)));
  whole();
  return h("label", { class: "select" }, `${label} `, list);
}

export const count = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
export const distance = (value) => (value === null ? "–" : Number(value).toPrecision(4));
// Never "100.0 %" of what is less, nor "0.0 %" of what is more.
export function rounded(share) {
  if (share >= 1 || share <= 0) return `${share <= 0 ? 0 : 100} %`;
  if (share > 0.999) return "> 99.9 %";
  return share < 0.001 ? "< 0.1 %" : percent(share);
}

// Notes of an answer as sentences.
export const sentences = (notes) => notes.map((one) => `${one[0].toUpperCase()}${one.slice(1)}.`).join(" ");

// Text in which `backticks` mark what is typed, and “quotes” a name: one that is written from right to left turns nothing around.
export function prose(text) {
  return text.split("`").flatMap((part, i) => (i % 2 ? h("code", {}, part)
    : part.split(/(?<=“)([^”]+)(?=”)/).map((piece, j) => (j % 2 ? h("bdi", {}, piece) : piece))));
}

// The three states of what is not there.
export function waiting(lines = 3, label = "Loading") {
  return h("div", { class: "waiting", role: "status" }, h("p", { class: "soft small" }, `${label} …`), Array.from({ length: lines }, () => h("i")));
}

export function empty(title, text, ...more) {
  return h("div", { class: "empty card" }, h("h2", {}, title), h("p", {}, prose(text)), more);
}

// What needs labels says so, and of a set whose images could not be read, that.
export function unlabelled(facts, text, ...more) {
  return facts.images ? empty("This set has no labels", text, ...more) : empty("No image to look at", `This needs ${facts.needs}.`);
}

export function failed(error, again, ...more) {
  const missing = error.status === 404, fault = error instanceof TypeError;
  if (fault) console.error(error);
  return h("div", { class: `empty card ${missing ? "" : "wrong"}`, role: "alert" },
    h("h2", {}, missing ? "Not there yet" : "That did not work"),
    h("p", {}, prose(fault ? `The page has a fault: ${error.message}. The console of the browser has more.` : error.message)),
    h("button", { type: "button", onclick: again }, "Try again"), more.map((one) => [" ", one]).flat());
}

// Called before what is in a place is replaced; what it gives is called after. The keyboard stays at the control that says the same,
// or in the place: without it the next Tab would begin at the top of the page.
function holdFocus(place) {
  const held = document.activeElement, words = (one) => `${one.tagName} ${one.labels?.[0]?.firstChild.textContent ?? one.dataset.value ?? one.textContent}`;
  if (held === place || !place.contains(held)) return () => {};
  const name = words(held);
  return () => {
    if (document.activeElement !== document.body) return;
    const same = [...place.querySelectorAll("a, button, input, select")].find((one) => words(one) === name);
    if (same) same.focus({ preventScroll: true });
    else goTo(place);
  };
}

// Take the keyboard to a part of the page that is no control.
export function goTo(place) {
  place.tabIndex = -1;
  place.focus({ preventScroll: true });
}

// A button that cannot be pressed while its work is done; browsers take the keyboard away from it meanwhile.
export async function whileBusy(button, work) {
  const held = document.activeElement === button;
  button.disabled = true;
  try {
    return await work();
  } finally {
    button.disabled = false;
    if (held && document.activeElement === document.body) button.focus({ preventScroll: true });
  }
}

export function replace(place, ...children) {
  const back = holdFocus(place);
  place.replaceChildren(...children);
  back();
}

// Fill a place with what a promise gives; a newer call, or leaving the view, wins over an older one: `make` is given what says
// whether it still counts.
export async function fill(place, life, make, shape = waiting()) {
  const turn = (place.turn = (place.turn || 0) + 1);
  const live = () => place.turn === turn && !life.aborted, back = holdFocus(place);
  const late = setTimeout(() => { if (live()) place.replaceChildren(shape); }, 150);
  place.setAttribute("aria-busy", "true");
  try {
    const made = await make(live);
    if (live()) place.replaceChildren(...[made].flat(Infinity).filter((one) => one !== null && one !== undefined));
    return live();
  } catch (error) {
    if (live() && error.name !== "AbortError") place.replaceChildren(failed(error, () => fill(place, life, make, shape)));
    return false;
  } finally {
    clearTimeout(late);
    if (live()) {
      place.removeAttribute("aria-busy");
      back();
    }
  }
}

export function say(text) {
  document.getElementById("status").textContent = text;
}

let plotly = null;
function withPlotly() {
  plotly ??= new Promise((good, bad) => {
    const script = h("script", { src: "static/plotly.min.js" });
    script.onload = good;
    script.onerror = () => { plotly = null; bad(new Error("the figures cannot be drawn: plotly.min.js did not arrive")); };
    document.head.append(script);
  });
  return plotly;
}

// A figure of the server; drawn when it is in the page.
export async function figure(box, spec) {
  box.classList.add("plot");
  box.style.minHeight = `${spec.layout.height || 360}px`;
  await withPlotly();
  if (box.isConnected) await Shown.draw(box, spec);
}

// A section of the report. Written by this server, in which every text is escaped; no script in it can run.
export function written(html, life) {
  const section = h("div");
  section.innerHTML = html;
  Shown.tables(section);
  later(section, life);
  return section;
}

// Figures are drawn when they come into view.
function later(section, life) {
  const watcher = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      const spec = section.querySelector(`script[data-for="${CSS.escape(target.id)}"]`);
      figure(target, JSON.parse(spec.textContent)).catch((error) => { target.textContent = error.message; });
    }
  }, { rootMargin: "300px" });
  for (const box of section.querySelectorAll(".plot")) {
    box.style.minHeight = `${box.dataset.height}px`;
    watcher.observe(box);
  }
  life.addEventListener("abort", () => watcher.disconnect());
}

export function saveFile(name, text, kind = "text/csv") {
  const url = URL.createObjectURL(new Blob(["\ufeff", text], { type: kind }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export function csv(rows) {
  // A spreadsheet runs text that begins so: an apostrophe makes it text.
  const inert = (value) => (typeof value === "string" && /^'*[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? ""));
  const cell = (value) => (/[",\n\r]/.test(inert(value)) ? `"${inert(value).replaceAll('"', '""')}"` : inert(value));
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}
