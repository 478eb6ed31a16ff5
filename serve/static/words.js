// Scores in the words of the report: their names, and their numbers.
import { distance, h, percent } from "./parts.js";

const MINUS = "\u2212";
const FORMS = { share: percent, plain: (x) => x.toFixed(3), distance };
const CHANGES = { share: (x) => `${(100 * x).toFixed(1)} points`, plain: (x) => x.toFixed(3), distance: (x) => Number(x).toPrecision(3) };

// What speaks of scores, by the words that `report` gives.
export function wordsOf(words) {
  const word = (score) => words[score] || { label: score.replaceAll("_", " "), says: "", form: "plain" };
  const number = (score, x) => FORMS[word(score).form](x).replace("-", MINUS);
  const interval = (score, low, high) => (low === null || high === null ? null
    : h("span", { class: "sub" }, `${number(score, low)} to ${number(score, high)}`));
  return {
    word,
    // A number with its interval below it.
    cell: (score, value, low, high) => (value === null ? "–" : [number(score, value), interval(score, low, high)].filter(Boolean)),
    // A difference with its sign; of shares in points.
    change: (score, x) => (x === null ? "–" : `${x > 0 ? "+" : ""}${CHANGES[word(score).form](x)}`.replace("-", MINUS)),
  };
}
