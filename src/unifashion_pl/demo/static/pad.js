// A picture that is drawn upon: with a finger, a pen, a mouse, or the keyboard.
const STEP = 12, KEPT = 20;

export class Pad {
  /** `tint` is the colour of what is drawn over a picture; null = white strokes on black, without a picture. */
  constructor(root, { what, tint, size = 26 }) {
    this.tint = tint;
    this.ink = document.createElement("canvas");
    this.ink.getContext("2d", { willReadFrequently: true });
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `Draw ${what}. Arrow keys move the brush, Space paints, Shift with arrows paints along, Delete erases, Control Z takes a stroke back. The four numbers of a box below do the same.`);
    this.kept = [];
    this.erasing = false;
    this.cursor = null;
    this.root = root;
    root.append(this.canvas, this.tools(size), this.box());
    this.listen();
  }

  get empty() {
    const data = this.ink.width ? this.ink.getContext("2d").getImageData(0, 0, this.ink.width, this.ink.height).data : [];
    for (let i = 3; i < data.length; i += 4) if (data[i]) return false;
    return true;
  }

  /** Show a picture (its address, or null for black), with what is drawn already: white on black. */
  async show(address, mask = null) {
    this.picture = address ? await loaded(address) : null;
    const width = this.picture?.naturalWidth ?? 288, height = this.picture?.naturalHeight ?? 384;
    for (const canvas of [this.canvas, this.ink]) { canvas.width = width; canvas.height = height; }
    this.kept = [];
    this.cursor = null;
    if (mask) this.put(await loaded(mask));
    this.draw();
  }

  /** White on black, in the picture's size, as a PNG. */
  mask() {
    const made = document.createElement("canvas");
    made.width = this.ink.width;
    made.height = this.ink.height;
    const to = made.getContext("2d");
    to.fillStyle = "black";
    to.fillRect(0, 0, made.width, made.height);
    to.drawImage(this.ink, 0, 0);
    return made.toDataURL("image/png");
  }

  put(mask) {
    const to = this.ink.getContext("2d");
    to.drawImage(mask, 0, 0, this.ink.width, this.ink.height);
    const found = to.getImageData(0, 0, this.ink.width, this.ink.height);
    for (let i = 0; i < found.data.length; i += 4) { found.data[i + 3] = found.data[i] > 127 ? 255 : 0; found.data[i] = found.data[i + 1] = found.data[i + 2] = 255; }
    to.putImageData(found, 0, 0);
  }

  draw() {
    const { canvas, ink } = this, to = canvas.getContext("2d");
    to.globalAlpha = 1;
    if (this.picture) to.drawImage(this.picture, 0, 0); else { to.fillStyle = "black"; to.fillRect(0, 0, canvas.width, canvas.height); }
    if (this.tint) {
      const shade = document.createElement("canvas");
      shade.width = ink.width;
      shade.height = ink.height;
      const over = shade.getContext("2d");
      over.drawImage(ink, 0, 0);
      over.globalCompositeOperation = "source-in";
      over.fillStyle = this.tint;
      over.fillRect(0, 0, shade.width, shade.height);
      to.globalAlpha = 0.5;
      to.drawImage(shade, 0, 0);
      to.globalAlpha = 1;
    } else to.drawImage(ink, 0, 0);
    if (this.cursor && document.activeElement === canvas) {
      for (const [colour, wide] of [["black", 3], ["white", 1.5]]) {
        to.strokeStyle = colour;
        to.lineWidth = wide;
        to.beginPath();
        to.arc(...this.cursor, this.reach() / 2, 0, 7);
        to.stroke();
      }
    }
  }

  /** Width of the brush in the picture's pixels. */
  reach() {
    return (Number(this.brush.value) * this.canvas.width) / 288;
  }

  stroke(from, to, erase = this.erasing) {
    const on = this.ink.getContext("2d");
    on.globalCompositeOperation = erase ? "destination-out" : "source-over";
    on.strokeStyle = "white";
    on.lineWidth = this.reach();
    on.lineCap = on.lineJoin = "round";
    on.beginPath();
    on.moveTo(...from);
    on.lineTo(...to);
    on.stroke();
    on.globalCompositeOperation = "source-over";
  }

  keep() {
    this.kept.push(this.ink.getContext("2d").getImageData(0, 0, this.ink.width, this.ink.height));
    if (this.kept.length > KEPT) this.kept.shift();
  }

  back() {
    const before = this.kept.pop();
    if (before) this.ink.getContext("2d").putImageData(before, 0, 0);
    this.draw();
  }

  listen() {
    const { canvas } = this;
    const place = (event) => { const box = canvas.getBoundingClientRect(); return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height]; };
    let last = null;
    canvas.addEventListener("pointerdown", (event) => { event.preventDefault(); canvas.setPointerCapture(event.pointerId); this.cursor = null; this.keep(); last = place(event); this.stroke(last, last); this.draw(); });
    canvas.addEventListener("pointermove", (event) => { if (!last) return; const now = place(event); this.stroke(last, now); last = now; this.draw(); });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
    canvas.addEventListener("blur", () => this.draw());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const here = this.cursor ?? [this.canvas.width / 2, this.canvas.height / 2];
    if (by) {
      const step = (STEP * this.canvas.width) / 288, to = here.map((value, i) => Math.min(Math.max(value + by[i] * step, 0), i ? this.canvas.height : this.canvas.width));
      if (event.shiftKey) { this.keep(); this.stroke(here, to); }
      this.cursor = to;
    } else if (event.key === " " || event.key === "Enter") { this.keep(); this.stroke(here, here, false); this.cursor = here; }
    else if (event.key === "Delete" || event.key === "Backspace") { this.keep(); this.stroke(here, here, true); this.cursor = here; }
    else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) this.back();
    else return;
    event.preventDefault();
    this.draw();
  }

  tools(size) {
    const tools = node("div", { class: "tools" }), press = (text, work) => { const button = node("button", { type: "button" }, text); button.addEventListener("click", () => work(button)); tools.append(button); return button; };
    const paint = press("Paint", () => mode(false)), erase = press("Erase", () => mode(true));
    const mode = (erasing) => { this.erasing = erasing; paint.setAttribute("aria-pressed", String(!erasing)); erase.setAttribute("aria-pressed", String(erasing)); };
    mode(false);
    press("Undo", () => this.back());
    press("Clear", () => { this.keep(); this.ink.getContext("2d").clearRect(0, 0, this.ink.width, this.ink.height); this.draw(); });
    this.brush = node("input", { type: "range", min: "3", max: "70", value: String(size) });
    tools.append(node("label", { class: "size" }, "Brush", this.brush));
    return tools;
  }

  box() {
    const sides = [["Left", 20], ["Top", 25], ["Right", 80], ["Bottom", 85]].map(([name, value]) => [name, node("input", { type: "number", min: "0", max: "100", value: String(value) })]);
    const fill = node("button", { type: "button" }, "Fill the box");
    fill.addEventListener("click", () => {
      const [left, top, right, bottom] = sides.map(([, input]) => Math.min(Math.max(Number(input.value) || 0, 0), 100) / 100), { width, height } = this.ink;
      this.keep();
      const on = this.ink.getContext("2d");
      on.fillStyle = "white";
      on.fillRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
      this.draw();
    });
    return node("details", {}, node("summary", {}, "A box by numbers"), node("div", { class: "four" }, ...sides.map(([name, input]) => node("label", {}, `${name} %`, input))), fill);
  }
}

function node(tag, about, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

async function loaded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}
