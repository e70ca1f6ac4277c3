// What pages do beyond links and forms: every page also works without it.
"use strict";

const FETCH = { headers: { "X-Console": "fetch" }, credentials: "same-origin" };
const REFRESH_MS = 500, CHECK_MS = 300;

function byId(id) { return document.getElementById(id); }

// --- theme ---------------------------------------------------------------------------------------

function setUpTheme() {
  const root = document.documentElement, button = byId("theme");
  const stored = localStorage.getItem("theme");
  if (stored) root.dataset.theme = stored;
  button.hidden = false;
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const show = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  show();
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    show();
  });
}

// --- as-of slider --------------------------------------------------------------------------------

function setUpSlider() {
  const form = document.querySelector(".as-of");
  if (!form) return;
  const ends = form.dataset.ends.split(" ").map(Number);
  const slider = byId("slider"), at = byId("at");
  const text = (ms) => new Date(ms).toISOString().slice(0, 19);
  slider.hidden = false;
  slider.setAttribute("aria-valuetext", text(ends[slider.value]));
  slider.addEventListener("input", () => {
    at.value = text(ends[slider.value]);
    slider.setAttribute("aria-valuetext", at.value);
  });
  slider.addEventListener("change", () => form.requestSubmit());
}

// --- alerts --------------------------------------------------------------------------------------

class Queue {
  constructor(section, detail, status) {
    this.section = section; this.detail = detail; this.status = status;
    this.shown = ""; this.known = new Set(this.flags()); this.asked = 0; this.busy = false;
    this.acting = Promise.resolve(); this.posting = false;
    this.loading = Promise.resolve(); this.awaitsNote = false; this.acted = null;
    const current = section.querySelector("tr[aria-current]");
    this.selected = current ? current.dataset.flag : "";
  }

  rows() { return [...this.section.querySelectorAll("tr[data-flag]")]; }
  flags() { return this.rows().map((row) => row.dataset.flag); }

  async refresh() {
    const query = new URLSearchParams(location.search);
    query.set("selected", this.selected);
    let text;
    try {
      const answer = await fetch(`/alerts/queue?${query}`, FETCH);
      if (answer.status === 401) { location.reload(); return; }
      if (!answer.ok) throw new Error(answer.status);
      text = await answer.text();
    } catch {
      this.say("Not refreshed: the data cannot be read now. Trying again.");
      return;
    }
    if (text !== this.shown) this.replace(text);
    else if (this.status.textContent.startsWith("Not refreshed")) this.say("Refreshed again.");
  }

  replace(text) {
    const focused = this.section.contains(document.activeElement);
    this.shown = text;
    this.section.innerHTML = text;
    const fresh = this.flags().filter((flag) => !this.known.has(flag));
    fresh.forEach((flag) => this.known.add(flag));
    if (fresh.length) this.say(`${fresh.length} new alert${fresh.length > 1 ? "s" : ""}.`);
    else if (this.status.textContent.startsWith("Not refreshed")) this.say("Refreshed again.");
    this.mark(focused);
  }

  say(text) { if (this.status.textContent !== text) this.status.textContent = text; }

  mark(focus) {
    for (const row of this.rows()) {
      const chosen = row.dataset.flag === this.selected;
      row.toggleAttribute("aria-current", chosen);
      if (chosen) row.setAttribute("aria-current", "true");
      if (chosen && focus) row.querySelector("a").focus();
    }
  }

  select(flag) {
    if (!flag) return this.loading;
    this.selected = flag;
    this.mark(true);
    this.loading = this.load(flag);
    return this.loading;
  }

  async load(flag) {
    const number = ++this.asked;
    try {
      const answer = await fetch(`/alerts/detail?flag_id=${encodeURIComponent(flag)}`, FETCH);
      const text = await answer.text();
      if (number === this.asked) this.detail.innerHTML = text;
    } catch {
      this.say("Not refreshed: the console does not answer.");
    }
  }

  next(step, from = this.flags()) {
    const at = from.indexOf(this.selected);
    return at < 0 ? from[0] : from[Math.min(Math.max(at + step, 0), from.length - 1)];
  }

  // A second press while the first is sent would repeat it. One that comes later waits until the
  // queue is read again, and does nothing if another alert is shown by then.
  act(form, button) {
    if (!this.posting) this.acting = this.acting.then(() => this.send(form, button));
    return this.acting;
  }

  async send(form, button) {
    if (!form.isConnected) return;
    this.busy = this.posting = true;
    const before = this.flags(), flag = this.selected;
    const body = new URLSearchParams(new FormData(form));
    body.set("action", button.value);
    try {
      // Not form.action: the form has controls of this name.
      const answer = await fetch(form.getAttribute("action"), { ...FETCH, method: "POST", body });
      const text = await answer.text();
      this.posting = false;
      if (!answer.ok) {
        this.detail.querySelectorAll(".notice").forEach((each) => each.remove());
        this.detail.insertAdjacentHTML("afterbegin", text);
        return;
      }
      this.detail.innerHTML = text;
      this.say(this.detail.querySelector(".notice")?.textContent ?? "");
      this.acted = { flag, later: before.slice(before.indexOf(flag) + 1) };
      await this.refresh();
      if (this.flags().includes(flag)) this.mark(true);
      await this.moveOn();
    } catch {
      this.say("Not done: the console does not answer. Try again.");
    } finally {
      this.busy = this.posting = false;
    }
  }

  // The alert of an act leaves the queue with this reading or, if that failed, with a later one.
  async moveOn() {
    const left = this.flags();
    if (this.acted?.flag !== this.selected || left.includes(this.selected)) return;
    const next = this.acted.later.find((each) => left.includes(each)) ?? left[left.length - 1];
    this.acted = null;
    await this.select(next);
  }

  // Letters that follow an n belong to the note, also before its field is there.
  async startNote() {
    this.awaitsNote = true;
    await this.loading;
    byId("note")?.focus();
    this.awaitsNote = false;
  }

  // The detail may still be that of the alert before.
  async press(key) {
    const flag = this.selected;
    await this.loading;
    const button = this.detail.querySelector(`button[data-key="${CSS.escape(key)}"]`);
    if (!button || button.disabled || button.form.elements.flag_id.value !== flag) return;
    this.act(button.form, button);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const writes = event.target.matches("input, textarea, select");
    if (writes) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (this.awaitsNote) { event.preventDefault(); return; }
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (step) this.select(this.next(step));
    else if (event.key === "n") this.startNote();
    else if (event.key === "u" && byId("user-link")) location.assign(byId("user-link").href);
    else if (/^[aflcs]$/.test(event.key)) this.press(event.key);
    else return;
    event.preventDefault();
  }
}

function setUpAlerts() {
  const section = byId("queue");
  if (!section) return;
  const queue = new Queue(section, byId("detail"), byId("live"));
  document.addEventListener("keydown", (event) => queue.key(event));
  section.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-flag]");
    if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    queue.select(row.dataset.flag);
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form.act") || !event.submitter) return;
    event.preventDefault();
    queue.act(event.target, event.submitter);
  });
  if (section.dataset.live !== "yes") return;
  const turn = async () => {
    if (!document.hidden && !queue.busy) {
      await queue.refresh();
      await queue.moveOn();
    }
    setTimeout(turn, REFRESH_MS);
  };
  setTimeout(turn, REFRESH_MS);
}

// --- rules and segments --------------------------------------------------------------------------

function setUpEditor() {
  const form = byId("editor");
  if (!form) return;
  const text = byId("text");
  let timer, asked = 0;
  const show = async (address, target) => {
    const number = ++asked;
    const body = new URLSearchParams(new FormData(form));
    try {
      const answer = await fetch(address, { ...FETCH, method: "POST", body });
      const part = await answer.text();
      if (number === asked) target.innerHTML = part;
    } catch {
      if (number === asked) target.textContent = "The console does not answer.";
    }
  };
  text.addEventListener("input", () => {
    clearTimeout(timer);
    byId("changes").textContent = "";
    timer = setTimeout(() => show(form.dataset.check, byId("checked")), CHECK_MS);
  });
  form.querySelectorAll("button[data-into]").forEach((button) => {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      const target = byId(button.dataset.into);
      target.textContent = "Reading …";
      show(form.getAttribute("action"), target);
    });
  });
}

// --- parts that are read by themselves -----------------------------------------------------------

function setUpParts() {
  document.querySelectorAll("[data-part]").forEach(async (part) => {
    part.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(part.dataset.part, FETCH);
      part.innerHTML = await answer.text();
    } catch {
      part.textContent = "The console does not answer.";
    }
    part.removeAttribute("aria-busy");
  });
}

setUpTheme();
setUpParts();
setUpSlider();
setUpAlerts();
setUpEditor();
