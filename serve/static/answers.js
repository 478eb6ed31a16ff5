// What one network answers to a query: its prediction, the votes of the neighbours, the neighbours.
import { ask, askIfThere, count, empty, h, imagePath, isolated, link, pictureLink, rounded, sentences, wholeDistance } from "./parts.js";

export const MOST = 200; // neighbours of one answer, as in the API
const USUAL = 12, LINES = 4; // neighbours, and lines of votes

// Whom to ask: the network that is shown, or one beside it by its value in the address (KEY, STORE/KEY); null for an unknown one.
// With it what is not there: `needs` of neighbours and of the map, and whether it is stored how typical distances are.
export function sideOf(value, { facts, source }) {
  // The store by its name: another one may be chosen before the answer is there.
  const one = facts.networks.find((each) => each.value === (value || facts.key));
  if (!one) return null;
  const analysed = (measure) => one.labelled && one.measures.includes(measure);
  if (!value) return { value: "", store: facts.store, features: source.features, measure: source.measure, named: facts.measure, title: facts.title, needs: facts.needs,
    typical: analysed(facts.measure), map: { measure: source.measure, needs: facts.map_needs } };
  const mapped = one.maps.includes(facts.measure) ? facts.measure : one.maps[0];
  return { value, store: one.store, features: one.key, measure: one.measure, named: one.measure, title: one.title,
    needs: one.needs,
    typical: analysed(one.measure), map: { measure: mapped, needs: one.map_needs } };
}

// How many neighbours an address asks for, as far as the server gives them.
export function wantedNumber({ k }) {
  return Math.min(MOST, Math.max(1, Math.round(Number(k)) || USUAL));
}

// Without an index the query alone, and what neighbours need.
export async function askNeighbours(image, { store, features, measure, needs }, { values, life }) {
  if (needs) return { query: await ask(`images/${image}`, { store, features }, { signal: life }), neighbours: [], needs };
  const relation = values.relation || "any", k = wantedNumber(values);
  return ask(imagePath(image, "neighbours"), { store, features, measure, k, relation }, { signal: life });
}

// What the network takes the query for; empty where no logits are stored.
export function prediction(query, { store, features }, life) {
  const line = h("div", { class: "predicted small soft" });
  askIfThere(imagePath(query.image, "prediction"), { store, features }, { signal: life }).then((told) => {
    if (!told) return;
    const sure = told.shares.map((share, i) => [told.classes[i], share]).filter(([, share], i) => i === 0 || share > 0.01);
    line.replaceChildren("The network says ", ...sure.flatMap(([name, share], i) =>
      [i ? ", " : "", h("b", {}, name), " ", h("span", { class: "nowrap" }, rounded(share))]), ".");
  }).catch(() => {});
  return line;
}

// How the neighbours vote for classes.
export function votes(reply, relation) {
  const { query, neighbours: near } = reply, counts = new Map();
  for (const one of near) if (one.label !== null) counts.set(one.label, (counts.get(one.label) || 0) + 1);
  if (!counts.size || relation !== "any") return null;
  // Of five classes and more the last line counts those that have the fewest, so that the lines sum to all votes.
  const all = [...counts].sort((a, b) => b[1] - a[1]), rest = all.length > LINES ? all.splice(LINES - 1) : [];
  const sum = rest.reduce((total, [, n]) => total + n, 0), sorted = [...all, ...(rest.length ? [[`${count(rest.length)} more classes`, sum]] : [])];
  return h("div", { class: "votes", role: "img", "aria-label": `Votes of ${near.length} neighbours: ${sorted.map(([name, n]) => `${isolated(name)} ${n}`).join(", ")}` },
    sorted.map(([name, n], i) => [h("span", { class: "t", title: name }, name),
      bar(n / near.length, query.label === null || i === all.length ? "plain" : name === query.label ? "same" : "other"), h("span", {}, `${n} of ${near.length}`)]).flat());
}

export function bar(share, kind = "") {
  const inner = h("i", { class: kind });
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return h("span", { class: "track" }, inner);
}

export function summary({ query, neighbours: near, exact, missing, notes, needs }) {
  if (needs) return "";
  const text = !near.length ? ""
    : exact ? "These are exactly the nearest." : "Found by an approximate index.";
  const lacking = missing ? ` ${count(missing)} images are not in the index: none of them can be here.` : "";
  const fewer = near.length && notes.length ? ` ${sentences(notes)}` : "";
  return text + fewer + lacking + (query.label === null ? " The class of the query is not known." : "");
}

export const noIndex = (needs) => (needs.startsWith("an index") ? empty("No index yet", `Neighbours need ${needs}. The other views need no index.`)
  : empty("No neighbours yet", `Neighbours need ${needs}.`));

// The neighbours as pictures, each a link to the pair.
export function nearest({ query, neighbours: near, needs }, side, { values }) {
  if (needs) return noIndex(needs);
  if (!near.length) return empty("No neighbours", (values.relation || "any") === "any" ? "No other image is stored." : "No stored image may answer. Allow any class.");
  const grid = h("div", { class: "grid" }, near.map((one) => {
    const known = query.label !== null && one.label !== null;
    const kind = !known ? "plain" : one.label === query.label ? "same" : "other";
    const chosen = [one.image, String(one.row)].includes(values.with) && (values.by || "") === side.value;
    const tile = pictureLink(one, [wholeDistance(one.distance), one.label ?? ""], kind, link("ask", { ...values, with: one.image, by: side.value, at: undefined }), chosen);
    tile.dataset.image = one.image;
    tile.dataset.by = side.value;
    return tile;
  }));
  return [grid, query.label === null ? null : h("p", { class: "soft small key" },
    h("i", { class: "dot same" }), "its class", h("i", { class: "dot other" }), "another class")].filter(Boolean);
}

// One of two networks beside each other.
export function column(reply, side, context) {
  const { query } = reply, relation = context.values.relation || "any", shown = context.facts.measure;
  const apart = side.needs || side.named === shown ? null : h("p", { class: "soft small" }, `By ${side.named}: this network has no index of ${shown}.`);
  return [h("div", {}, h("h2", {}, side.title), apart, prediction(query, side, context.life), votes(reply, relation),
    h("p", { class: "soft small" }, summary(reply), query.row < 0 && side.value ? " The query is not in this store." : "")),
  h("div", {}, nearest(reply, side, context))];
}

// In both lists: how many of the neighbours. Those of one list alone are dashed.
export function compareLists(place, replies) {
  if (replies.some((reply) => reply.needs)) return "";
  const lists = replies.map((reply) => new Set(reply.neighbours.map((one) => one.image)));
  const shared = [...lists[0]].filter((image) => lists[1].has(image)).length;
  for (const tile of place.querySelectorAll(".near .pic")) {
    tile.classList.toggle("alone", !lists.every((list) => list.has(tile.dataset.image)));
  }
  return `${shared} of ${Math.max(lists[0].size, lists[1].size)} neighbours are in both lists. Those of one list alone have a dashed frame.`;
}
