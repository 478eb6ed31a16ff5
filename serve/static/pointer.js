// Choosing a place of one of two images: by the mouse while it passes, by a click or the keys until it is let go.

// `shapes` gives the (rows, columns) of each canvas, or null while no place can be chosen; `show(here, cell, words)` draws what goes
// with a place, or without one; `hold(at)` takes the held place into the address, as SIDE.NUMBER.
export function pointer(canvases, { shapes, show, hold }) {
  const names = ["", ""];
  let at = null, cursor = null; // the held place of the address; the one that the keys are at: [here, [y, x]]

  const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);
  const keep = (here, [y, x]) => hold(`${here}.${y * shapes()[here][1] + x}`);

  function cell() {
    const [here, number] = (at || "").split(".").map(Number), all = shapes();
    if (!all || !all[here] || !(number >= 0 && number < all[here][0] * all[here][1])) return null;
    return [here, [Math.floor(number / all[here][1]), number % all[here][1]]];
  }

  canvases.forEach((canvas, here) => {
    const under = (event) => {
      const [rows, columns] = shapes()[here], box = canvas.getBoundingClientRect();
      return [clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), rows), clamp(Math.floor(((event.clientX - box.left) / box.width) * columns), columns)];
    };
    canvas.addEventListener("pointermove", (event) => { if (shapes()) show(here, under(event), false); });
    canvas.addEventListener("pointerleave", () => {
      const back = document.activeElement === canvas && cursor && cursor[0] === here && shapes();
      show(here, back ? cursor[1] : null);
    });
    canvas.addEventListener("click", (event) => {
      if (!shapes()) return;
      const [y, x] = under(event), now = cell();
      if (now && now[0] === here && now[1][0] === y && now[1][1] === x) hold(undefined);
      else keep(here, [y, x]);
    });
    canvas.addEventListener("focus", () => { if (cursor && cursor[0] === here && shapes()) show(here, cursor[1]); });
    canvas.addEventListener("blur", () => show(here, null));
    canvas.addEventListener("keydown", (event) => {
      if (!shapes() || event.ctrlKey || event.metaKey || event.altKey) return;
      const [rows, columns] = shapes()[here], step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      const held = cell(), from = cursor && cursor[0] === here ? cursor[1] : held && held[0] === here ? held[1] : null;
      if (step) {
        const [y, x] = from || [rows >> 1, columns >> 1];
        cursor = [here, from ? [clamp(y + step[0], rows), clamp(x + step[1], columns)] : [y, x]];
        show(...cursor);
      } else if (event.key === "Enter" && from) keep(here, from);
      else if (event.key === "Escape") {
        cursor = null;
        hold(undefined);
      } else return;
      event.preventDefault();
    });
  });

  return {
    cell,
    set: (value) => { at = value || null; cursor = value ? cell() : cursor; },
    name: (here, text) => { names[here] = text; cursor = null; },
    // What a screen reader says, and whether the keys reach a picture.
    dress: () => canvases.forEach((canvas, here) => {
      const all = shapes();
      canvas.tabIndex = all ? 0 : -1;
      canvas.setAttribute("role", all ? "application" : "img");
      canvas.setAttribute("aria-label", all ? `${names[here]}. ${all[here][0]} by ${all[here][1]} places: arrow keys choose one, Enter holds it, Escape lets it go.` : names[here]);
    }),
  };
}
