// Images that somebody brings: dropped, pasted or chosen.
import { ask, h, link, named, picture, prose, say } from "./parts.js";

const brought = []; // images of this visit that were uploaded
const NO_FETCH = "This page asks no other server: save the image, then drop the file.";

export function dropZone(go, source, life) {
  const input = h("input", { type: "file", accept: "image/*", multiple: true, id: "file" });
  const told = h("div", { class: "brought", role: "status" });
  const zone = h("section", { class: "dropzone", "aria-label": "Bring an image" },
    h("label", { class: "drop" }, input, h("b", {}, "Drop an image, paste one, or choose a file"),
      h("span", { class: "soft small" }, "It goes to this server only, which keeps it in memory for a while. The network of the store looks at it.")), told);
  const list = (note = "") => told.replaceChildren(...[
    note ? h("p", { class: "wrongline" }, prose(note)) : null,
    brought.length > 1 ? h("div", { class: "strip" }, h("span", { class: "soft small" }, "You brought "),
      brought.map((one) => h("a", { href: link("ask", { ...source, image: one.image }), title: named(one) }, picture(one, 96)))) : null,
  ].filter(Boolean));
  const bring = async (files) => {
    if (!files.length) return;
    zone.classList.add("busy");
    say("The image is sent");
    const wrong = [];
    let last = null;
    for (const file of files) {
      try {
        last = await ask("images", {}, { method: "POST", body: file });
        if (!brought.some((one) => one.image === last.image)) brought.push(last);
      } catch (error) {
        wrong.push(`${file.name || "the image"}: ${error.message}`);
      }
    }
    zone.classList.remove("busy");
    list(wrong.join(" "));
    if (last) go({ image: last.image, with: undefined, relation: undefined, by: undefined });
  };
  input.addEventListener("change", () => bring([...input.files]).then(() => { input.value = ""; }));
  const on = (kind, act) => addEventListener(kind, act, { signal: life });
  for (const kind of ["dragenter", "dragover"]) on(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
  on("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
  on("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) bring(files);
    else list(`What you dropped is an address, not a file. ${NO_FETCH}`);
  });
  on("paste", (event) => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) && event.target !== input) return;
    const files = [...event.clipboardData.files];
    if (files.length) bring(files);
    else list(/^\s*(https?|ftp|file|data):/i.test(event.clipboardData.getData("text"))
      ? `What you pasted is an address, not an image. ${NO_FETCH}` : "What you pasted is text, not an image: copy the image itself.");
  });
  list();
  return zone;
}
