// The story editor and the chat. Talks to the server it came from, and to nobody else.
"use strict";

const $ = (id) => document.getElementById(id);

// One line a setting: section, field of the request, label, step, what it is when left empty.
const SETTINGS = [
  ["Length", "n_predict", "New tokens", 1, "200"],
  ["Length", "seed", "Seed", 1, "random"],
  ["Choice", "temperature", "Temperature", 0.05, "model's"],
  ["Choice", "top_k", "Top k", 1, "model's"],
  ["Choice", "top_p", "Top p", 0.01, "model's"],
  ["Choice", "min_p", "Min p", 0.01, "model's"],
  ["Choice", "typical_p", "Typical p", 0.01, "model's"],
  ["Choice", "top_n_sigma", "Top n sigma", 0.1, "off"],
  ["Choice", "xtc_probability", "XTC probability", 0.05, "off"],
  ["Choice", "xtc_threshold", "XTC threshold", 0.01, "0.1"],
  ["Choice", "mirostat", "Mirostat (1 or 2)", 1, "off"],
  ["Choice", "mirostat_tau", "Mirostat tau", 0.1, "5"],
  ["Choice", "mirostat_eta", "Mirostat eta", 0.05, "0.1"],
  ["Repetition", "repeat_penalty", "Penalty", 0.01, "model's"],
  ["Repetition", "repeat_last_n", "Last tokens", 1, "model's"],
  ["Repetition", "presence_penalty", "Presence", 0.05, "off"],
  ["Repetition", "frequency_penalty", "Frequency", 0.05, "off"],
  ["Repetition", "dry_multiplier", "DRY multiplier", 0.1, "off"],
];

const store = {
  get(name, otherwise) {
    try { return JSON.parse(localStorage.getItem("katari." + name)) ?? otherwise; } catch { return otherwise; }
  },
  set(name, value) {
    try { localStorage.setItem("katari." + name, JSON.stringify(value)); } catch { /* private window */ }
  },
};

const state = {
  tab: "story",
  settings: store.get("settings", {}),
  said: store.get("said", []),
  // Texts before each answer, for undo and retry.
  story: [],
  writing: null, // an AbortController
  key: "",
  nCtx: 0,
  hasTemplate: false,
};
try { state.key = sessionStorage.getItem("katari.key") ?? ""; } catch { /* private window */ }

async function call(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (state.key) headers.Authorization = "Bearer " + state.key;
  const reply = await fetch(path, {
    method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
  });
  if (reply.status === 401) {
    await askKey();
    return call(path, body, signal);
  }
  if (!reply.ok) {
    const error = await reply.json().catch(() => ({}));
    throw new Error(error.error?.message ?? `the server answered ${reply.status}`);
  }
  return reply;
}

function askKey() {
  return new Promise((done) => {
    const dialog = $("ask-key");
    dialog.addEventListener("close", () => {
      state.key = $("key").value.trim();
      try { sessionStorage.setItem("katari.key", state.key); } catch { /* private window */ }
      done();
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

// The JSON values of a streamed answer, as they come.
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function status(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function speed(tokens, since) {
  const seconds = (performance.now() - since) / 1000;
  return `${tokens} tokens · ${(tokens / Math.max(seconds, 0.001)).toFixed(1)}/s`;
}

function request() {
  const body = { stream: true, n_predict: 200 };
  for (const [, name] of SETTINGS) {
    const value = state.settings[name];
    if (value !== undefined && value !== "" && Number.isFinite(Number(value))) body[name] = Number(value);
  }
  const stops = (state.settings.stop ?? "").split("\n").filter((line) => line !== "");
  if (stops.length) body.stop = stops;
  return body;
}

function refresh() {
  const busy = state.writing !== null;
  const story = state.tab === "story";
  const back = story ? state.story.length > 0 : state.said.length > 0;
  $("write").disabled = busy || (!story && !state.hasTemplate);
  $("write").textContent = story ? "Write" : "Send";
  $("stop").disabled = !busy;
  $("undo").disabled = busy || !back;
  $("retry").disabled = busy || !back;
  $("text").readOnly = busy;
}

// Runs `work` as the one thing that writes; Stop aborts it.
async function writing(work) {
  if (state.writing) return;
  state.writing = new AbortController();
  refresh();
  status("…");
  try {
    await work(state.writing.signal);
  } catch (error) {
    if (error.name === "AbortError") status("stopped · " + $("status").textContent);
    else status(error.message, true);
  }
  state.writing = null;
  refresh();
  countTokens();
}

const ends = { eos: "the end", word: "stop string", limit: "length reached", none: "nothing to write" };

function writeStory() {
  return writing(async (signal) => {
    const area = $("text");
    state.story.push(area.value);
    if (state.story.length > 200) state.story.shift();
    const since = performance.now();
    const reply = await call("/completion", { ...request(), prompt: area.value }, signal);
    for await (const event of events(reply)) {
      const atEnd = area.scrollTop + area.clientHeight >= area.scrollHeight - 40;
      area.value += event.content;
      if (atEnd) area.scrollTop = area.scrollHeight;
      if (event.stop) {
        const rate = event.timings.predicted_per_second.toFixed(1);
        status(`${event.tokens_predicted} tokens · ${rate}/s · ${ends[event.stop_type]}`);
      } else {
        status(speed(event.tokens_predicted, since));
      }
    }
  }).finally(() => store.set("text", $("text").value));
}

function undoStory() {
  if (state.writing || !state.story.length) return;
  $("text").value = state.story.pop();
  store.set("text", $("text").value);
  refresh();
  countTokens();
}

function showSaid() {
  const log = $("log");
  log.replaceChildren(...state.said.map(({ role, content }) => {
    const item = document.createElement("li");
    item.className = role;
    item.textContent = content;
    return item;
  }));
  log.scrollTop = log.scrollHeight;
  store.set("said", state.said);
}

function answer() {
  return writing(async (signal) => {
    const messages = state.said.map(({ role, content }) => ({ role, content }));
    state.said.push({ role: "assistant", content: "" });
    const told = state.said.at(-1);
    showSaid();
    const since = performance.now();
    let pieces = 0;
    const { n_predict: max_tokens, ...rest } = request();
    const body = { ...rest, max_tokens, messages, stream_options: { include_usage: true } };
    const reply = await call("/v1/chat/completions", body, signal);
    for await (const event of events(reply)) {
      const text = event.choices[0]?.delta?.content;
      if (text) {
        pieces += 1;
        told.content += text;
        $("log").lastChild.textContent = told.content;
        $("log").scrollTop = $("log").scrollHeight;
      }
      status(speed(event.usage?.completion_tokens ?? pieces, since));
    }
  }).finally(showSaid);
}

function send() {
  const said = $("say").value.trim();
  if (!said || state.writing || !state.hasTemplate) return;
  $("say").value = "";
  state.said.push({ role: "user", content: said });
  return answer();
}

// Takes the last question and its answer back; gives the question.
function undoChat() {
  if (state.writing) return "";
  let question = "";
  while (state.said.length && !question) {
    const last = state.said.pop();
    if (last.role === "user") question = last.content;
  }
  showSaid();
  refresh();
  return question;
}

const act = {
  write: () => (state.tab === "story" ? writeStory() : send()),
  stop: () => state.writing?.abort(),
  undo() {
    if (state.tab === "story") undoStory();
    else $("say").value = undoChat() || $("say").value;
  },
  retry() {
    if (state.writing) return;
    if (state.tab === "story") {
      if (!state.story.length) return;
      undoStory();
      return writeStory();
    }
    const question = undoChat();
    if (question) {
      state.said.push({ role: "user", content: question });
      return answer();
    }
  },
};

let counting;
function countTokens() {
  clearTimeout(counting);
  counting = setTimeout(async () => {
    if (state.tab !== "story") { $("count").textContent = ""; return; }
    try {
      const reply = await call("/tokenize", { content: $("text").value });
      const { tokens } = await reply.json();
      $("count").textContent = `${tokens.length} of ${state.nCtx} tokens`;
    } catch { /* the status tells when something is asked for */ }
  }, 400);
}

function show(tab) {
  state.tab = tab;
  for (const name of ["story", "chat"]) {
    $(name).hidden = name !== tab;
    $("tab-" + name).setAttribute("aria-selected", String(name === tab));
    $("tab-" + name).tabIndex = name === tab ? 0 : -1;
  }
  $(tab === "story" ? "text" : "say").focus();
  refresh();
  countTokens();
}

function buildSettings() {
  const aside = $("settings");
  let section = "";
  const heading = (name) => {
    const h2 = document.createElement("h2");
    h2.textContent = section = name;
    aside.append(h2);
  };
  const field = (kind, name, label, more) => {
    const box = document.createElement("label");
    const input = Object.assign(document.createElement(kind), more);
    input.name = name;
    input.value = state.settings[name] ?? "";
    input.addEventListener("input", () => {
      state.settings[name] = input.value;
      store.set("settings", state.settings);
    });
    box.append(label, input);
    aside.append(box);
    return box;
  };
  for (const [of, name, label, step, empty] of SETTINGS) {
    if (of !== section) heading(of);
    field("input", name, label, { type: "number", step, placeholder: empty });
  }
  heading("Ends");
  field("textarea", "stop", "Stop strings, a line each", { rows: 3 }).className = "wide";
}

async function connect() {
  for (;;) {
    try {
      const props = await (await call("/props")).json();
      const models = await (await call("/v1/models")).json();
      state.nCtx = props.default_generation_settings.n_ctx;
      state.hasTemplate = props.chat_template !== "";
      $("model").textContent = models.data[0].id;
      $("no-template").hidden = state.hasTemplate;
      status("");
      refresh();
      countTokens();
      return;
    } catch (error) {
      status(error.message, true);
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

document.addEventListener("keydown", (event) => {
  const ctrl = event.ctrlKey || event.metaKey;
  const keys = { z: act.undo, r: act.retry };
  if (event.isComposing) return; // an input method is at work
  if (event.key === "Enter" && ctrl) act.write();
  else if (event.key === "Escape" && state.writing) act.stop();
  else if (event.altKey && keys[event.key]) keys[event.key]();
  else if (event.target.getAttribute("role") === "tab" && /^Arrow(Left|Right)$/.test(event.key)) {
    show(state.tab === "story" ? "chat" : "story");
    $("tab-" + state.tab).focus();
  } else return;
  event.preventDefault();
});

for (const name of Object.keys(act)) $(name).addEventListener("click", act[name]);
$("tab-story").addEventListener("click", () => show("story"));
$("tab-chat").addEventListener("click", () => show("chat"));
$("text").addEventListener("input", () => { store.set("text", $("text").value); countTokens(); });
$("toggle").addEventListener("click", () => {
  $("settings").hidden = !$("settings").hidden;
  $("toggle").setAttribute("aria-expanded", String(!$("settings").hidden));
});
$("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  store.set("theme", document.documentElement.dataset.theme);
});

const theme = store.get("theme", "");
if (theme) document.documentElement.dataset.theme = theme;
$("text").value = store.get("text", "");
if (innerWidth < 700) $("toggle").click();
buildSettings();
showSaid();
show("story");
connect();
