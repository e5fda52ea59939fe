// The page of `unifashion demo`. All that it knows of a session lives here; the server remembers nothing between two requests.
import { Pad } from "./pad.js";

const $ = (id) => document.getElementById(id);
const accepted = document.body.dataset.accepted;
const most = Number(document.body.dataset.most);
let state;

function made(tag, about = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...inside.filter((part) => part !== null));
  return node;
}

// ---- asking, and what is said meanwhile -------------------------------------------------------------------------------
class Problem extends Error {
  constructor(about) { super(about.found); this.about = about; }
}

async function asked(path, body, type = "application/json") {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", body: type === "application/json" ? JSON.stringify(body) : body, headers: { "Content-Type": type } });
  } catch {
    throw new Problem({ found: "The page’s server does not answer", expected: "unifashion demo running", cure: "Start it again, and load the page anew" });
  }
  let content;
  try { content = await answer.json(); } catch { content = { error: { found: `The server failed (${answer.status})`, expected: "", cure: "Its terminal says why" } }; }
  if (content.error) throw new Problem(content.error);
  return content;
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1).replace(/[.?]?$/, (end) => end || ".") : "");

function problem(error) {
  const about = error instanceof Problem ? error.about : { found: `The page failed: ${error.message}`, expected: "", cure: "" };
  if (!(error instanceof Problem)) console.error(error);
  return made("div", { class: "error", role: "alert" }, made("b", {}, sentence(about.found)),
    about.expected ? ` Expected: ${about.expected.replace(/\.$/, "")}.` : "", about.cure ? ` ${sentence(about.cure)}` : "",
    about.picture ? made("img", { src: about.picture, alt: "What shows the problem" }) : null);
}

const note = (text) => made("div", { class: "note" }, sentence(text));
const seconds = (number) => `${number < 10 ? number.toFixed(1) : Math.round(number)} s`;

/** Does something slow with the time shown in `place`; gives its result, or null after an error, which is shown. */
async function working(place, text, work, buttons = []) {
  const clock = made("span", {}, text), since = performance.now();
  const tick = setInterval(() => { clock.textContent = `${text} ${seconds((performance.now() - since) / 1000)}`; }, 200);
  place.replaceChildren(made("div", { class: "busy" }, clock));
  buttons.forEach((button) => { button.disabled = true; });
  try {
    const result = await work();
    place.replaceChildren(...(result.notes || []).map(note));
    return result;
  } catch (error) {
    place.replaceChildren(problem(error));
    return null;
  } finally {
    clearInterval(tick);
    buttons.forEach((button) => { button.disabled = false; });
  }
}

// ---- a photo: chosen, dropped, pasted, or an example -----------------------------------------------------------------
function photoField(root, { what, examples = [], keep = true, chosen }) {
  const shown = made("div", { class: "chosen", hidden: true }), status = made("div", { class: "status", "aria-live": "polite" });
  const input = made("input", { type: "file", accept: accepted, "aria-label": `${what}: choose a file` });
  const drop = made("label", { class: "drop" }, made("span", {}, made("b", {}, "Choose a photo"), " or drop it here"), made("span", { class: "dim" }, what), input);
  const buttons = examples.map((example) => made("button", { type: "button", title: example.said, "aria-label": `Example: ${example.said}`, "aria-pressed": "false",
    onclick: () => take(example.source ?? `example:${example.name}`, example.picture, example.said, example) }, made("img", { src: example.picture, alt: "" })));
  function take(source, picture, said, example = null, notes = []) {
    status.replaceChildren(...notes.map(note));
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(examples[i] === example)));
    if (keep) { shown.replaceChildren(made("img", { src: picture, alt: said })); shown.hidden = false; }
    chosen({ source, picture, said, example });
  }
  async function upload(file) {
    if (!file) return;
    await working(status, `Looking at ${file.name} …`, async () => {
      if (file.size > most) throw new Problem({ found: `The file ${file.name} has ${(file.size / 1048576).toFixed(1)} MB`, expected: `at most ${document.body.dataset.limit}`, cure: "Save it smaller, e.g. as JPEG with a longer side of 2,000 pixels" });
      const looked = await asked("/look", file, "application/octet-stream");
      take(looked.picture, looked.picture, file.name, null, looked.notes);
      return looked;
    });
    input.value = "";
  }
  input.addEventListener("change", () => upload(input.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.toggle("over", kind === "dragover"); if (kind === "drop") upload(event.dataTransfer.files[0]); });
  }
  root.append(shown, drop, status, made("div", { class: "examples" }, ...buttons));
  return { take, pick: (number) => buttons[number]?.click() };
}

// ---- search: a session of steps, each with its reference and the wishes since then ------------------------------------
const steps = [];

function step(image, thumb, texts, said) {
  return { image, thumb, texts, said };
}

async function search(next) {
  const buttons = [$("search-go"), $("undo"), $("anew")];
  const result = await working($("search-status"), "Searching …", () => asked("/search", { image: next.image, texts: next.texts, where: $("search-where").value || null }), buttons);
  if (result) $("search-status").append(made("p", { class: "found" }, `${result.hits.length} best of ${state.catalogue}, in ${seconds(result.seconds)}`));
  return result;
}

async function go(next) {
  const result = await search(next);
  if (!result) return;
  steps.push({ ...next, hits: result.hits });
  $("search-text").value = "";
  show();
}

function backTo(place) {
  steps.length = place + 1;
  $("search-status").replaceChildren();
  show();
}

function show() {
  const now = steps.at(-1), begun = Boolean(now);
  $("session").hidden = !begun;
  $("search-empty").hidden = begun;
  document.body.classList.toggle("begun", begun);
  $("search-new").hidden = !begun;
  $("undo").disabled = steps.length < 2;
  $("search-go").textContent = begun ? "Refine" : "Search";
  $("search-label").textContent = begun ? "What should be different?" : "What are you looking for?";
  $("history").replaceChildren(...steps.map((one, place) => made("li", {}, made("button", { type: "button", ...(one === now ? { "aria-current": "step" } : {}), onclick: () => backTo(place) },
    one.thumb && !one.texts.length ? made("img", { src: one.thumb, alt: "" }) : null, one.said))));
  if (begun && matchMedia("(max-width: 720px)").matches) $("panel-search").scrollIntoView();
  chips($("search-chips"), begun ? state.changes : state.searches, (text) => { $("search-text").value = text; $("search-form").requestSubmit(); });
  $("hits").replaceChildren(...(now?.hits ?? []).map(card));
}

function card(hit) {
  const from = () => go(step(`hit:${hit.id}`, hit.picture, [], `like ${hit.title || "this one"}`)).then(() => $("search-text").focus({ preventScroll: true }));
  const picture = hit.picture ? made("img", { src: hit.picture, alt: hit.title, loading: "lazy" }) : made("i", {}, "no picture");
  const about = Object.entries(hit.columns ?? {}).filter(([name]) => name === "described").map(([, value]) => value).join(", ");
  return made("li", { "data-id": hit.id }, made("button", { class: "pic", type: "button", ...(hit.explanation ? { title: hit.explanation } : {}), "aria-label": `Go on from ${hit.title || hit.id}`, disabled: !hit.picture, onclick: from }, picture, made("span", {}, "Go on from this one")),
    !hit.place ? null : made("div", { class: "about" }, made("b", {}, hit.title), about ? made("span", {}, about) : null, made("div", { class: "score" }, `${hit.place}. score ${hit.score.toFixed(3)}`)));
}

function chips(place, texts, chosen) {
  place.replaceChildren(...texts.map((text) => made("button", { type: "button", onclick: () => chosen(text) }, text)));
}

function startSearch() {
  $("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("search-text").value.trim(), now = steps.at(-1);
    if (!text) { $("search-text").focus(); return; }
    go(now ? step(now.image, now.thumb, [...now.texts, text], `and ${text}`) : step(null, null, [text], text));
  });
  $("search-new").addEventListener("click", () => {
    const text = $("search-text").value.trim();
    steps.length = 0;
    show();
    $("search-status").replaceChildren();
    if (text) { $("search-text").value = text; $("search-form").requestSubmit(); } else $("search-text").focus();
  });
  $("undo").addEventListener("click", () => backTo(steps.length - 2));
  $("anew").addEventListener("click", () => { backTo(-1); $("search-text").focus(); });
  photoField($("search-photo"), { what: "what looks like it is searched", keep: false, chosen: ({ source, picture, said }) => go(step(source, picture, [], said)) });
  const columns = Object.entries(state.columns);
  $("search-filter").hidden = !columns.length;
  $("search-columns").textContent = `e.g. ${columns[0]?.[1] === "number" ? `${columns[0][0]} < 50` : "category == 'dress' and colour == 'red'"}. Columns: ${columns.map(([name]) => name).join(", ")}`;
  $("shelf").replaceChildren(...state.shelf.map(card));
  show();
}

// ---- captions ----------------------------------------------------------------------------------------------------------
const STYLES = { fashion200k: "as in Fashion200K: a few words", fashiongen: "as in FashionGen: a stylist’s sentences", fashioniq: "as in Fashion-IQ-Cap: one detailed sentence" };

function startCaptions() {
  const shelf = state.shelf.slice(0, 8).map((hit) => ({ source: `hit:${hit.id}`, picture: hit.picture, said: hit.title }));
  const examples = shelf.length ? shelf : state.clothes;
  photoField($("caption-photo"), { what: "a garment", examples, chosen: async ({ source }) => {
    $("captions").replaceChildren();
    $("caption-empty").hidden = true;
    const result = await working($("caption-status"), "Describing …", () => asked("/caption", { image: source }));
    if (result) $("captions").replaceChildren(...Object.entries(result.captions).map(([style, text]) => made("div", {}, made("dt", {}, STYLES[style] ?? style), made("dd", {}, text || "(nothing)"))));
  } });
}

// ---- persons: try-on and design ------------------------------------------------------------------------------------------
function personField(name) {
  const pad = new Pad($(`${name}-pad`), { what: "the region that is repainted", tint: "rgb(220 30 80)" });
  const field = { pad, person: null };
  field.photo = photoField($(`${name}-person`), { what: "a person, seen from the front", examples: state.persons, keep: false, chosen: async ({ source, picture, example }) => {
    field.person = source;
    await pad.show(picture, example?.mask);
  } });
  return field;
}

function painting(name, fields, request) {
  const root = $(`${name}-paint`), status = made("div", { class: "status", "aria-live": "polite" }), shown = made("figure", {}, made("p", { class: "empty" }, "What is painted appears here."));
  const seed = made("input", { type: "number", value: "0", min: "0", max: "999999", id: `${name}-seed` });
  const sampler = made("select", { id: `${name}-sampler` }, made("option", { value: "few" }, "quick (8 steps)"), made("option", { value: "paper" }, "as in the paper (50 steps)"));
  const whole = made("input", { type: "checkbox", id: `${name}-whole` });
  const button = made("button", { class: "main", type: "button", id: `${name}-go` }, "Paint");
  button.addEventListener("click", async () => {
    const body = { seed: Number(seed.value) || 0, sampler: sampler.value, paste_back: !whole.checked };
    const result = await working(status, "Painting …", () => {
      if (!fields.person) throw new Problem({ found: "No person is chosen", expected: "a photo of one", cure: "Choose an example, or a photo of your own" });
      return asked(`/${name}`, { ...body, ...request(), person: fields.person, mask: fields.pad.empty ? null : fields.pad.mask() });
    }, [button]);
    if (!result) return;
    shown.replaceChildren(made("img", { src: result.picture, alt: "What was painted" }), made("figcaption", {}, `painted in ${seconds(result.seconds)}, seed ${body.seed} · `, made("a", { href: result.picture, download: `${name}.png` }, "save it")));
    shown.scrollIntoView({ block: "nearest" });
  });
  root.append(made("div", { class: "settings" }, made("label", { for: seed.id }, "Seed", seed), made("label", { for: sampler.id }, "Sampler", sampler), made("label", { class: "check", for: whole.id }, whole, "show the whole picture as painted")), button, status, shown);
}

function startPersons() {
  const worn = personField("tryon");
  let garment = null;
  const clothes = photoField($("tryon-garment"), { what: "a garment, laid flat", examples: state.clothes, chosen: ({ source }) => { garment = source; } });
  painting("tryon", worn, () => ({ garment }));
  worn.photo.pick(0);
  clothes.pick(2);
  const drawn = personField("design"), sketch = new Pad($("sketch-pad"), { what: "the garment’s outline, as light strokes on black", tint: null, size: 6 });
  chips($("design-chips"), state.designs, (text) => { $("design-text").value = text; });
  painting("design", drawn, () => ({ text: $("design-text").value, sketch: sketch.empty ? null : sketch.mask() }));
  drawn.photo.pick(1);
  sketch.show(null);
}

// ---- the page ----------------------------------------------------------------------------------------------------------
function choose(tab, focus = false) {
  for (const one of document.querySelectorAll("[role=tab]")) {
    const now = one === tab;
    one.setAttribute("aria-selected", String(now));
    one.tabIndex = now ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !now;
  }
  if (focus) tab.focus();
  history.replaceState(null, "", `#${tab.id.slice(4)}`);
}

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
      if (to !== undefined) { event.preventDefault(); choose(tabs[to % tabs.length], true); }
    });
  });
  choose($(`tab-${location.hash.slice(1)}`) ?? tabs[0]);
}

function sayWhatIsMissing() {
  for (const name of ["search", "caption", "tryon", "design"]) {
    const text = state.missing[name] || (name === "search" && !state.catalogue ? "There is nothing to search in: start the page with --index FOLDER" : "");
    if (text) $(`panel-${name}`).prepend(made("div", { class: "note whole" }, sentence(text)));
  }
}

async function start() {
  startTabs();
  try {
    const answer = await fetch("/state");
    state = await answer.json();
  } catch (error) {
    $("main").prepend(problem(new Problem({ found: "The page’s server does not answer", expected: "unifashion demo running", cure: "Start it again, and load the page anew" })));
    return;
  }
  $("model").textContent = sentence(state.model);
  startSearch();
  startCaptions();
  startPersons();
  sayWhatIsMissing();
  document.body.dataset.ready = "yes";
}

start();
