// The page's hands: what is sent, what is replaced while something runs, and what is told about a token.
// HTML comes from the console itself, made by its templates; nothing here builds any.

const trouble = document.getElementById("trouble");

function complain(sentence) {
  trouble.textContent = sentence;
  trouble.hidden = !sentence;
  if (sentence) trouble.scrollIntoView({ block: "nearest" });
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The console does not answer. Is it still running? Nothing that was sent is lost.");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail || `The console answered with HTTP ${answer.status}.`);
  return body;
}

// Colours

const theme = document.getElementById("theme");
const themes = ["system", "light", "dark"];

function showTheme() {
  theme.textContent = `Colours: ${document.documentElement.dataset.theme || "system"}`;
}

theme.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || "system";
  const next = themes[(themes.indexOf(now) + 1) % themes.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try { localStorage.setItem("theme", next); } catch { /* it holds until the page is left */ }
  showTheme();
});
showTheme();

// Tables that can be sorted: a button in every head, and the order kept when the rows are replaced

const orders = new Map();

function sortRows(table, column, direction) {
  const rows = [...table.tBodies[0].rows];
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  rows.sort((one, other) => {
    const a = key(one), b = key(other);
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = Number(a) - Number(b);
    return direction * (Number.isNaN(numbers) ? a.localeCompare(b) : numbers);
  });
  table.tBodies[0].append(...rows);
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    if (index === column) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
}

function makeSortable(root) {
  root.querySelectorAll("table.sortable").forEach((table, index) => {
    const name = `${root.dataset?.part ?? ""}${index}`;
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const direction = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        orders.set(name, [column, direction]);
        sortRows(table, column, direction);
      });
    });
    if (orders.has(name)) sortRows(table, ...orders.get(name));
  });
}
makeSortable(document);

// Sending

function chosenCodes(form) {
  return [...form.querySelectorAll("input[name=code]:checked")].map((one) => one.value);
}

function post(address, wish) {
  return ask(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish) });
}

// A form whose button does something: `act` is given a way to say what is being done, and its errors are told.
function doing(form, act) {
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button[type=submit]");
    const said = form.querySelector("output");
    const say = (sentence) => { said.textContent = sentence; };
    complain("");
    button.disabled = true;
    try {
      await act(say);
    } catch (error) {
      complain(error.message);
      say("");
    }
    button.disabled = false;
  });
}

function sending(form, source) {
  doing(form, async (say) => {
    const codes = chosenCodes(form);
    if (!codes.length) throw new Error("Choose at least one code.");
    const dataset = await source(say);
    say("Asking Alice to transmit …");
    location.assign((await post("/transmissions", { dataset, codes })).location);
  });
}

const send = document.getElementById("send");
if (send) {
  const drop = document.getElementById("drop");
  const file = document.getElementById("file");
  const sample = document.getElementById("sample");
  const typed = document.getElementById("typed");
  const take = (wanted) => sample.setAttribute("aria-pressed", String(wanted));
  sample.addEventListener("click", () => take(sample.getAttribute("aria-pressed") !== "true"));
  file.addEventListener("change", () => take(false));
  for (const name of ["dragover", "dragenter"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) {
      file.files = event.dataTransfer.files;
      take(false);
    }
  });
  sending(send, async (say) => {
    const query = new URLSearchParams();
    let body;
    if (sample.getAttribute("aria-pressed") === "true") {
      say("Giving Alice the sample …");
      return (await ask("/sample", { method: "POST" })).id;
    } else if (file.files.length) {
      body = file.files[0];
      query.set("name", body.name);
      query.set("form", document.getElementById("form").value);
      const m = document.getElementById("m").value.trim();
      if (m) query.set("vocabulary_size", m);
    } else if (typed.value) {
      body = typed.value;
      query.set("name", typed.value.slice(0, 24));
    } else {
      throw new Error("Choose a file, take the sample, or write something first.");
    }
    say("Giving Alice the data …");
    const headers = { "Content-Type": "application/octet-stream" };
    return (await ask(`/datasets?${query}`, { method: "POST", body, headers })).id;
  });
}
const again = document.getElementById("again");
sending(again, async () => again.dataset.dataset);

// The step curve, and samples

const curve = document.getElementById("steps");
if (curve) {
  const { corpus, file, steps } = curve.elements;
  const show = () => { document.getElementById("corpus-file").hidden = corpus.value !== "file"; };
  corpus.addEventListener("change", show);
  show();
  doing(curve, async (say) => {
    const codes = chosenCodes(curve);
    if (!codes.length) throw new Error("Choose at least one code.");
    let chosen = corpus.value || null;
    if (chosen === "file") {
      if (!file.files.length) throw new Error("Choose the file that both are to train on.");
      const query = new URLSearchParams({ name: file.files[0].name });
      if (curve.dataset.m) query.set("vocabulary_size", curve.dataset.m);
      say("Giving Alice and Bob the corpus …");
      chosen = (await ask(`/corpora?${query}`, { method: "POST", body: file.files[0] })).id;
    }
    say("Asking Alice for the points …");
    const begun = await post("/curve", { dataset: curve.dataset.dataset, codes, corpus: chosen, steps: steps.value });
    if (!begun.begun) return say("All these points are there already.");
    location.hash = "curve";
    location.reload();
  });
}

const sampling = document.getElementById("sampling");
doing(sampling, async (say) => {
  const { tokens, seed } = sampling.elements;
  say("Bob decodes once more, then draws …");
  const wish = { tokens: Number(tokens.value), seed: seed.value === "" ? null : Number(seed.value) };
  document.getElementById("drawn").innerHTML = (await post(`/runs/${document.body.dataset.run}/sample`, wish)).html;
  say("");
});

// What is replaced

const parts = new Map();
document.querySelectorAll("[data-part]").forEach((one) => parts.set(one.dataset.part, one));
const text = document.getElementById("text");
let heldText = null; // Bob's newest text, while somebody reads the one that is shown
let follow = true;

function reading() {
  return text.matches(":hover") || text === document.activeElement;
}

function showText(html) {
  heldText = null;
  text.innerHTML = html;
  at = null;
  text.scrollTop = follow && running ? text.scrollHeight : 0;
}

function replace(name, html) {
  const place = parts.get(name);
  if (!place) return;
  if (name === "text") {
    if (!follow) return;
    if (running && reading()) heldText = html;
    else showText(html);
    return;
  }
  const unfolded = [...place.querySelectorAll("details")].map((one) => one.open);
  const folds = [...place.querySelectorAll("summary")];
  const focused = folds.indexOf(document.activeElement);
  place.innerHTML = html;
  place.querySelectorAll("details").forEach((one, index) => { one.open = unfolded[index] ?? one.open; });
  if (focused >= 0) place.querySelectorAll("summary")[focused]?.focus();
  makeSortable(place);
}

let live = document.body.dataset.live === "yes"; // whether parts will be replaced
let running = live; // whether the transmission itself goes on
let at = null;
if (document.body.dataset.events && live) {
  const source = new EventSource(document.body.dataset.events);
  source.addEventListener("parts", (event) => {
    for (const [name, html] of Object.entries(JSON.parse(event.data))) replace(name, html);
  });
  source.addEventListener("state", (event) => {
    const state = JSON.parse(event.data);
    running = ["queued", "running", "paused"].includes(state);
    document.getElementById("draw").hidden = state !== "verified";
    const show = { pause: state === "running", resume: state === "paused" };
    document.querySelectorAll("[data-action]").forEach((button) => {
      button.hidden = button.dataset.action in show ? !show[button.dataset.action] : !running;
    });
  });
  source.addEventListener("trouble", (event) => complain(JSON.parse(event.data)));
  source.onopen = () => complain("");
  source.addEventListener("end", () => {
    live = false;
    source.close();
    if (heldText !== null && !reading()) showText(heldText);
    const newest = document.getElementById("newest");
    if (newest) newest.hidden = true;
  });
  source.onerror = () => complain("The console does not answer; this page goes on as soon as it does.");
}

document.querySelectorAll("[data-action]").forEach((button) => {
  button.addEventListener("click", async () => {
    complain("");
    try {
      await ask(`/runs/${document.body.dataset.run}/${button.dataset.action}`, { method: "POST" });
    } catch (error) {
      complain(error.message);
    }
  });
});

// A token's cost, by pointer and by keys

if (text) {
  const readout = document.getElementById("readout");
  const tell = (span) => {
    at?.classList.remove("at");
    at = span;
    span.classList.add("at");
    const first = Number(span.dataset.p);
    const many = Number(span.dataset.n || 1);
    const shown = span.textContent.replace("\n", "") .replace(" ", "␣");
    const place = many > 1 ? `tokens ${first.toLocaleString("en")} to ${(first + many - 1).toLocaleString("en")}` : `token ${first.toLocaleString("en")}`;
    const checked = span.classList.contains("p") ? ", not checked yet" : "";
    readout.textContent = `“${shown}”, ${place}: ${span.dataset.b} bits${checked}`;
  };
  text.addEventListener("pointerover", (event) => {
    if (event.target.closest("[data-b]")) tell(event.target.closest("[data-b]"));
  });
  const leave = () => { if (heldText !== null) showText(heldText); };
  text.addEventListener("pointerleave", leave);
  text.addEventListener("blur", leave);
  text.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 40, ArrowUp: -40, Home: -1e9, End: 1e9 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const spans = [...text.querySelectorAll("[data-b]")];
    if (!spans.length) return;
    const now = spans.indexOf(at);
    const next = Math.min(Math.max(now + steps[event.key], 0), spans.length - 1);
    tell(spans[next]);
    spans[next].scrollIntoView({ block: "nearest" });
  });

  const from = document.getElementById("from");
  const value = document.getElementById("from-value");
  const newest = document.getElementById("newest");
  let asked = 0;
  from.addEventListener("input", async () => {
    follow = false;
    newest.hidden = !live;
    value.textContent = Number(from.value).toLocaleString("en");
    const mine = ++asked;
    try {
      const part = await ask(`/runs/${document.body.dataset.run}/text?first=${from.value}`);
      if (mine === asked) showText(part.html);
    } catch (error) {
      complain(error.message);
    }
  });
  newest.addEventListener("click", () => { follow = true; newest.hidden = true; });
  newest.hidden = true;
}
