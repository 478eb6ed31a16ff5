// Images that somebody brings: dropped, pasted or chosen. Dropped and pasted ones are taken in every view, and asked in Ask.
import { ask, h, link, named, picture, prose, say } from "./parts.js";

const brought = []; // images of this visit that were uploaded
const NO_FETCH = "This page asks no other server: save the image, then drop the file.";
let note = "", list = null; // what went wrong, and what writes it where Ask is shown

// `open` shows an image in Ask, or Ask alone.
export function bringing(open) {
  const mark = (name, on) => document.body.classList.toggle(name, on);
  const refuse = (text) => {
    note = text;
    if (list) list();
    else open();
  };
  const bring = async (files) => {
    if (!files.length) return;
    mark("busy", true);
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
    mark("busy", false);
    if (last && !list) note = wrong.join(" ");
    else refuse(wrong.join(" "));
    if (last) open(last.image);
  };
  for (const kind of ["dragenter", "dragover"]) addEventListener(kind, (event) => { event.preventDefault(); mark("over", true); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark("over", false); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark("over", false);
    const files = [...event.dataTransfer.files];
    if (files.length) bring(files);
    else if (list) refuse(`What you dropped is an address, not a file. ${NO_FETCH}`);
  });
  addEventListener("paste", (event) => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) && event.target.type !== "file") return;
    const files = [...event.clipboardData.files];
    if (files.length) bring(files);
    else if (list) refuse(/^\s*(https?|ftp|file|data):/i.test(event.clipboardData.getData("text"))
      ? `What you pasted is an address, not an image. ${NO_FETCH}` : "What you pasted is text, not an image: copy the image itself.");
  });
  addEventListener("change", (event) => { if (event.target.id === "file") bring([...event.target.files]).then(() => { event.target.value = ""; }); });
}

export function dropZone(source, life) {
  const told = h("div", { class: "brought", role: "status" });
  const zone = h("section", { class: "dropzone", "aria-label": "Bring an image" },
    h("label", { class: "drop" }, h("input", { type: "file", accept: "image/*", multiple: true, id: "file" }), h("b", {}, "Drop an image, paste one, or choose a file"),
      h("span", { class: "soft small" }, "It goes to this server only, which keeps it in memory for a while. The network of the store looks at it.")), told);
  const write = () => {
    told.replaceChildren(...[
      note ? h("p", { class: "wrongline" }, prose(note)) : null,
      brought.length > 1 ? h("div", { class: "strip" }, h("span", { class: "soft small" }, "You brought "),
        brought.map((one) => h("a", { href: link("ask", { ...source, image: one.image }), title: named(one) }, picture(one, 96)))) : null,
    ].filter(Boolean));
    note = "";
  };
  list = write;
  life.addEventListener("abort", () => { if (list === write) list = null; });
  write();
  return zone;
}
