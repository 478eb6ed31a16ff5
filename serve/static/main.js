// The frame of the page: which view is shown, the set, the theme. The address holds all that is shown.
import { bringing } from "./bring.js";
import { ask, count, failed, h, isolated, link, prose, Refusal, replace, say, select, sentences, useStore, waiting } from "./parts.js";

const VIEWS = ["ask", "map", "classes", "scores", "data"];
const OF_ALL = ["store", "features", "measure"]; // what an address of every view may say
const TITLES = { ask: "Ask", map: "Map", classes: "Classes", scores: "Scores", data: "Data" };
const at = (id) => document.getElementById(id);
let facts = null, shown = null, stores = null;
let back = history.state?.top || 0; // pixels above the window, of an entry of the history to which somebody comes back
let turns = 0; // of showing what the address says: the answer to an older address is passed over
const further = new Map(); // name of a store that is not shown to its facts

// #map?colour=split; addresses of older versions, #image=17&with=33, are those of Ask.
function state() {
  const text = location.hash.slice(1), [first, ...rest] = text.split("?");
  const [name, query] = VIEWS.includes(first) ? [first, rest.join("?")] : ["ask", text];
  return { name, values: Object.fromEntries(new URLSearchParams(query)) };
}

function go(changes, { replace = false } = {}) {
  const { name, values } = state();
  const next = link(name, { ...values, ...changes });
  if (replace) {
    history.replaceState(history.state, "", next);
    follow();
  } else location.hash = next;
}

// Whose network and measure the address names.
function askedNow() {
  const { store, features, measure } = state().values;
  return JSON.stringify([store, { features, measure }]);
}

async function follow() {
  const { name, values } = state(), top = back, turn = (turns += 1);
  back = 0;
  entitle(name);
  const source = { features: values.features, measure: values.measure };
  useStore(values.store);
  for (const one of document.querySelectorAll("nav a[data-view]")) {
    one.href = link(one.dataset.view, source);
    if (one.dataset.view === name) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  const asked = askedNow();
  const fresh = !facts || facts.asked !== asked;
  if (fresh) {
    let own, answer;
    // What is shown is of another store or network, and no answer says for how long yet.
    const late = setTimeout(() => {
      if (turn !== turns) return;
      leave();
      fillView(waiting());
    }, 150);
    try {
      stores ??= await ask("stores");
      const names = stores.map((one) => one.name);
      if (values.store && !names.includes(values.store)) throw new Refusal(`This server has no store “${values.store}”, but: ${names.join(", ")}.`, 404);
      own = await ask("set", source);
      answer = { ...own, store: values.store || "" };
      answer.networks = await networksOf(answer, values.store || names[0], names);
    } catch (error) {
      clearTimeout(late);
      if (turn !== turns) return;
      leave();
      facts = null;
      at("set").replaceChildren();
      at("notes").hidden = at("changed").hidden = true;
      const first = values.store || source.features || source.measure ? h("a", { class: "button", href: "#ask" }, "Open the first store") : null;
      fillView(failed(error, follow, first));
      // No link repeats what there is not; a server that is away may have it.
      if (!(error instanceof Refusal)) return;
      useStore("");
      for (const one of document.querySelectorAll("nav a[data-view]")) one.href = link(one.dataset.view);
      return;
    }
    clearTimeout(late);
    if (turn !== turns) return;
    facts = { ...answer, asked, source, said: JSON.stringify([own, ...further.values()]) };
    at("changed").hidden = true;
    showSet(values);
    leave();
  }
  entitle(name);
  if (!shown || shown.name !== name) {
    leave();
    const life = new AbortController();
    shown = { name, life, update: null, parameters: {}, doubts: new Map(), subject: "" };
    const mine = shown;
    // What of the view is shown, such as an image or two classes.
    const about = (subject) => {
      mine.subject = subject;
      if (shown === mine) entitle(name);
    };
    fillView(waiting());
    const module = await import(`./${name}.js`).catch(() => null);
    if (shown !== mine) return;
    if (!module) {
      leave();
      fillView(withoutScript(name));
      return;
    }
    const place = h("div", { class: `view ${name}` });
    at("view").replaceChildren(place);
    shown.parameters = module.parameters(facts);
    shown.update = module.view(place, { facts, go, source, doubt, about, life: life.signal });
    say(`${TITLES[name]} is shown`);
    scrollTo({ top: 0 });
    // Nothing is lost yet: what a command has made since is shown at once.
    if (!fresh) outdated().then((old) => { if (old && shown === mine) renew(); });
  }
  if (!shown.update) return;
  showNotes(state().values, shown.parameters);
  shown.update(state().values);
  if (top) goBackTo(top, shown.life.signal);
}

// The keyboard stays in the view if it was there: the next Tab is in what is shown now.
function fillView(content) {
  const view = at("view"), inside = view.contains(document.activeElement);
  view.replaceChildren(content);
  if (inside) view.focus({ preventScroll: true });
}

// The title says first what differs most, since a tab shows its begin: image or class, view, network and store if there are several.
function entitle(name) {
  const several = facts?.asked === askedNow() && facts.extractions.length > 1, { store } = state().values;
  const whose = [several && facts.title, stores?.length > 1 && (store || stores[0].name)];
  document.title = [shown?.name === name && shown.subject, TITLES[name], ...whose.filter(Boolean).map(isolated), "Alike"].filter(Boolean).join(" · ");
}

// Whether a command has changed what the views rest on: images, an index, an analysis, a map, also of another store.
async function outdated() {
  const mine = facts;
  const now = await Promise.all([ask("set", { ...mine.source, store: mine.store }), ...[...further.keys()].map((name) => ask("set", { store: name }))]).catch(() => null);
  return now !== null && facts === mine && JSON.stringify(now) !== mine.said;
}

function renew() {
  facts = null;
  further.clear();
  leave();
  follow();
}

// Somebody who comes back, for example from the command that the page advised, is told; the view stays until they ask for another.
let looking = false;
async function lookAgain() {
  if (!facts || looking || document.hidden) return;
  looking = true;
  if (await outdated()) {
    const show = () => { at("view").focus({ preventScroll: true }); renew(); };
    at("changed").replaceChildren("The store has changed since this was shown. ", h("button", { type: "button", onclick: show }, "Show it as it is now"));
    at("changed").hidden = false;
  }
  looking = false;
}

// Where somebody was on the page of an entry of the history, as soon as it is as high; unless they move themselves.
function goBackTo(top, life) {
  const until = performance.now() + 5000, own = new AbortController();
  for (const kind of ["wheel", "keydown", "pointerdown"]) addEventListener(kind, () => own.abort(), { signal: own.signal });
  const step = () => {
    if (own.signal.aborted || life.aborted) return;
    if (document.documentElement.scrollHeight - innerHeight >= top) scrollTo({ top, behavior: "instant" });
    if (performance.now() < until && (scrollY !== top || document.querySelector("#view [aria-busy]"))) requestAnimationFrame(step);
    else own.abort();
  };
  requestAnimationFrame(step);
}

// Every network that can stand beside the one that is shown: of its store by the key, of another by STORE/KEY.
async function networksOf(own, shownStore, names) {
  const others = names.filter((name) => name !== shownStore);
  await Promise.all(others.filter((name) => !further.has(name)).map(async (name) => {
    // A store that does not answer is not offered; the page of the one that is shown does without.
    const its = await ask("set", { store: name }).catch(() => null);
    if (its) further.set(name, its);
  }));
  const entry = (one, its, prefix, measure, store) => ({ ...one, value: prefix + one.key, store, labelled: Object.keys(its.classes).length > 0, title: (store ? `${store}: ` : "") + one.title,
    // The measure that is shown if it can answer there, else one that can.
    measure: one.indexes.includes(measure) ? measure : one.indexes[0] });
  return [...own.extractions.map((one) => ({ ...entry(one, own, "", own.measure), store: own.store })),
    ...others.filter((name) => further.has(name)).flatMap((name) => further.get(name).extractions.map((one) => entry(one, further.get(name), `${name}/`, own.measure, name)))];
}

// A browser remembers that a script did not arrive, so the page is loaded anew as soon as the server gives the script.
function withoutScript(name) {
  const again = async () => {
    const there = await fetch(`static/${name}.js`, { cache: "reload" }).then((answer) => answer.ok, () => false);
    if (there) location.reload();
    else say(`${TITLES[name]} did not arrive`);
  };
  return failed(new Error(`The part of the page for ${TITLES[name]} did not arrive. Is \`alike serve\` still running?`), again);
}

function leave() {
  if (shown) shown.life.abort();
  shown = null;
}

function showSet(values) {
  const classes = Object.keys(facts.classes).length;
  const options = facts.extractions;
  const own = facts.extractions.find((one) => one.key === facts.key);
  const parts = [stores.length > 1 ? select("store", stores.map((one) => [one.name, one.name]), values.store || stores[0].name, other) : null,
    h("span", {}, `${count(facts.images)} ${facts.images === 1 ? "image" : "images"}`),
    h("span", {}, classes ? `${count(classes)} ${classes === 1 ? "class" : "classes"}` : "no labels")];
  parts.push(options.length > 1
    ? select("network", options.map((one) => [one.key, one.title]), facts.key, (features) => go(theNetwork(features, values)))
    : h("span", { title: facts.key }, facts.title));
  const measures = [...new Set([...(own ? own.indexes : []), facts.measure])];
  parts.push(measures.length > 1
    ? select("measure", measures.map((one) => [one, one]), facts.measure, (measure) => go({ measure, view: undefined }))
    : h("span", { title: facts.about }, facts.measure));
  replace(at("set"), h("div", { class: "in" }, parts));
}

// What the answers lack, and what of the address is passed over.
function showNotes(values, parameters) {
  const doubts = Object.entries(values).filter(([name]) => !OF_ALL.includes(name)).map(([name, value]) => {
    if (!Object.hasOwn(parameters, name)) return `“${name}” in the address says nothing to this view, which knows: ${[...OF_ALL, ...Object.keys(parameters)].join(", ")}.`;
    const known = parameters[name], late = shown.doubts.get(`${name}=${value}`);
    if (late) return `${name}=${isolated(value)} in the address: ${late}.`;
    if (!known || !value || (Array.isArray(known) && known.includes(value))) return "";
    const why = Array.isArray(known) ? known.length === 0 ? "this set has none" : `known are ${known.slice(0, 20).map(isolated).join(", ")}${known.length > 20 ? " …" : ""}` : known(value);
    return why && `${name}=${isolated(value)} in the address: ${why}.`;
  });
  const lines = [...facts.notes.map((one) => sentences([one])), ...doubts.filter(Boolean)];
  at("notes").replaceChildren(...prose(lines.join(" ")));
  at("notes").hidden = !lines.length;
}

// What a view finds to be unknown in the address only from answers of the server; without `why` it is known.
function doubt(name, value, why) {
  if (!shown || !value || (shown.doubts.get(`${name}=${value}`) || "") === why) return;
  shown.doubts.set(`${name}=${value}`, why);
  showNotes(state().values, shown.parameters);
}

// Another network of the store, by the measure that is shown, or by one that it has an index of; without any the server chooses.
function theNetwork(features, values) {
  const { measure } = facts.networks.find((one) => one.value === features);
  return { features, measure: measure === facts.measure ? values.measure : measure, view: undefined };
}

// The same view of another store: what belongs to this store alone is left out of the address.
function other(name) {
  const { name: view, values } = state();
  const stays = ["relation", "k", "colour", "kind"].map((one) => [one, values[one]]);
  // A row is another image there; the hash is the same one, even if it is not stored there.
  const image = /^[0-9a-f]{64}$/.test(values.image || "") ? values.image : undefined;
  location.hash = link(view, { ...Object.fromEntries(stays), image, store: name === stores[0].name ? undefined : name });
}

// Light, dark, or as the system has it.
function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)"), button = document.querySelector("button.theme");
  let choice = "auto", printing = false;
  try { choice = localStorage.getItem("theme") || "auto"; } catch { /* a browser that stores nothing */ }
  const set = () => {
    document.documentElement.dataset.theme = printing ? "light" : choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
    button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[choice];
    button.setAttribute("aria-label", `Colours: ${choice}`);
    document.querySelectorAll(".plot").forEach((box) => Shown.redress(box));
    dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    choice = { auto: "light", light: "dark", dark: "auto" }[choice];
    try { localStorage.setItem("theme", choice); } catch { /* as above */ }
    set();
  });
  dark.addEventListener("change", set);
  // Chosen in another tab.
  addEventListener("storage", (event) => { if (event.key === "theme") { choice = event.newValue || "auto"; set(); } });
  for (const kind of ["beforeprint", "afterprint"]) addEventListener(kind, () => { printing = kind === "beforeprint"; set(); });
  set();
}

theme();
at("skip").addEventListener("click", (event) => { event.preventDefault(); at("view").focus(); });
bringing((image) => {
  const { name, values } = state(), { features, measure } = values;
  if (name === "ask") go({ image, with: undefined, relation: undefined, by: undefined });
  else location.hash = link("ask", { features, measure, image });
});
let resting = 0;
history.scrollRestoration = "manual";
// Browsers allow few changes of the history in a second.
const rest = () => history.replaceState({ top: Math.round(scrollY) }, "");
addEventListener("scroll", () => {
  clearTimeout(resting);
  resting = setTimeout(rest, 150);
}, { passive: true });
addEventListener("click", rest, { capture: true });
addEventListener("popstate", () => {
  clearTimeout(resting);
  back = history.state?.top || 0;
});
addEventListener("focus", lookAgain);
document.addEventListener("visibilitychange", lookAgain);
addEventListener("hashchange", follow);
follow();
