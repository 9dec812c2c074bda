"use strict";
// The token view. Every text is written with textContent: whatever a model wrote, it stays text.
(() => {
  const runs = JSON.parse(document.getElementById("data").textContent);
  if (!runs.length) return;
  const byId = (id) => document.getElementById(id);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const logRatio = (r, t) => minus(r.teacher_log_probs[t], r.student_log_probs[t]);
  const minus = (a, b) => (a === null || b === null ? null : a - b);
  const kind = (r, t) => (!r.mask[t] ? "not sampled, not trained on" : r.teacher_mask[t] ? r.kind[t] : "no teacher's score");
  const at = (values, t) => (values === null ? null : values[t]);  // a weight of the user's own may lack gate and ratio weight

  // value(response, t) is shown; shade maps it to -1 (orange) ... 0 (nothing) ... 1 (blue); the scale has these ends, so named.
  const MODES = {
    gate: {
      label: "gate", needs: ["gate"], value: (r, t) => r.gate[t], shade: (v) => v - 1, from: -1, to: 0,
      ends: ["0: not trusted", "1"], text: "trust in the teacher, with lookahead",
    },
    without: {
      label: "gate without lookahead", needs: ["gate_without_lookahead"], value: (r, t) => r.gate_without_lookahead[t], shade: (v) => v - 1, from: -1, to: 0,
      ends: ["0: not trusted", "1"], text: "what the gate would be at W = 0",
    },
    restored: {
      label: "restored", needs: ["gate", "gate_without_lookahead"], from: 0, to: 1,
      value: (r, t) => minus(r.gate[t], r.gate_without_lookahead[t]), shade: (v) => 3 * v,
      ends: ["0", "≥ 0.33"], text: "gate with lookahead minus gate without",
    },
    entropy: {
      label: "entropy", value: (r, t) => r.teacher_entropy[t], from: 0, to: -1,
      shade: (v, r) => -v / r.entropy_scale, ends: ["0", "the batch's scale"], text: "the teacher's entropy, nats",
    },
    ratio: {
      label: "log ratio", value: logRatio, shade: (v) => v, from: -1, to: 1, ends: ["≤ −1", "≥ 1"],
      text: "log p_T − log p_S, nats: blue where the teacher likes the token more than the student does",
    },
    weight: {
      label: "final weight", value: (r, t) => r.token_weight[t], from: -1, to: 1, shade: (v) => (v > 1 ? 3 * (v - 1) : v - 1),
      ends: ["0", "≥ 1.33"], text: "what the advantage is multiplied by",
    },
  };
  const view = { run: 0, step: 0, response: 0, mode: "gate", here: 0 };
  const current = () => runs[view.run].steps[view.step].responses[view.response];

  const color = (shade) => {
    const strength = Math.min(1, Math.abs(shade)) ** 0.8 * 0.72;
    return strength < 0.01 ? "" : `rgba(var(--${shade < 0 ? "less" : "more"}), ${strength.toFixed(3)})`;
  };

  const fill = (id, labels) => {
    byId(id).replaceChildren(...labels.map((text, value) => make("option", { value, textContent: text })));
    byId(id).value = view[id];
  };

  const short = (text) => (text.length > 34 ? text.slice(0, 33) + "…" : text);

  function choose(changes) {
    Object.assign(view, changes);
    const { steps } = runs[view.run];
    view.step = Math.min(view.step, steps.length - 1);
    view.response = Math.min(view.response, steps[view.step].responses.length - 1);
    view.here = 0;
    fill("run", runs.map((run) => run.run));
    fill("step", steps.map((step) => `${step.step}`));
    fill("response", steps[view.step].responses.map((r, i) => `${i + 1}: reward ${r.reward.toFixed(2)}, ${r.tokens.length} tokens`));
    const response = current();
    for (const name of ["prompt", "teacher_prompt", "solution"]) byId(name).textContent = response[name] ?? "not at hand";
    byId("text").replaceChildren(...response.tokens.map(token));
    const missing = (mode) => (mode.needs ?? []).some((name) => response[name] === null);
    if (missing(MODES[view.mode])) view.mode = "weight";
    for (const input of byId("modes").querySelectorAll("input")) {
      input.disabled = missing(MODES[input.value]);
      input.checked = input.value === view.mode;
    }
    for (const id of ["strip", "strip-note"]) byId(id).style.display = response.gate === null ? "none" : "";
    if (response.gate !== null) drawStrip(response);
    paint();
  }

  function token(text, t) {
    const response = current();
    const span = make("span", { textContent: text.replaceAll("\n", "⏎\n") || "·" });
    span.dataset.t = t;
    span.className = !response.mask[t] ? "unread" : response.teacher_mask[t] ? response.kind[t] : "unscored";
    return span;
  }

  function paint() {
    const response = current(), mode = MODES[view.mode];
    [...byId("text").children].forEach((span, t) => {
      const value = mode.value(response, t);
      span.style.backgroundColor = response.teacher_mask[t] && value !== null ? color(mode.shade(value, response)) : "";
    });
    const stops = [0, 0.25, 0.5, 0.75, 1].map((x) => color(mode.from + x * (mode.to - mode.from)) || "transparent");
    byId("scale").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    [byId("low").textContent, byId("high").textContent] = mode.ends;
    byId("explanation").textContent = mode.text;
    inspect(view.here);
  }

  function inspect(t) {
    const response = current();
    byId("text").children[view.here]?.classList.remove("here");
    view.here = t;
    if (!response.tokens.length) return byId("numbers").replaceChildren("The response is empty.");
    byId("text").children[t].classList.add("here");
    const n = (value, digits = 4) => (value === null ? "–" : value.toFixed(digits));
    const rows = [
      ["position", `${t + 1} of ${response.tokens.length}`], ["token id", `${response.token_ids[t]}`],
      ["kind", kind(response, t)],
      ["log p_S, student", n(response.student_log_probs[t])], ["log p_T, teacher", n(response.teacher_log_probs[t])],
      ["log ratio", n(logRatio(response, t))], ["teacher's entropy, nats", n(response.teacher_entropy[t])],
      ["with lookahead", n(response.lookahead_entropy[t])], ["entropy scale", n(response.entropy_scale)],
      ["gate", n(at(response.gate, t))], ["without lookahead", n(at(response.gate_without_lookahead, t))],
      ["ratio weight", n(at(response.ratio_weight, t))], ["final weight", n(response.token_weight[t])],
      ["advantage A", n(response.advantage[t])], ["reward", n(response.reward)],
    ];
    const list = make("dl", {}, ...rows.flatMap(([name, value]) => [
      make("dt", { textContent: name }), make("dd", { textContent: value }),
    ]));
    byId("numbers").replaceChildren(make("h3", { textContent: JSON.stringify(response.tokens[t]) }), list);
    byId("strip").querySelector(".here")?.setAttribute("transform", `translate(${t + 0.5} 0)`);
  }

  function drawStrip(response) {
    const length = Math.max(1, response.tokens.length), height = (g) => (1 - (g ?? 1)).toFixed(4);
    const steps = (values) => values.map((g, t) => `${t} ${height(g)} ${t + 1} ${height(g)}`);
    const line = (values) => `M ${steps(values).join(" L ")}`;
    const shape = (name, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return element;
    };
    const without = response.gate_without_lookahead ?? response.gate;
    const back = without.map((g, t) => `${t + 1} ${height(g)} ${t} ${height(g)}`).reverse();
    byId("strip").setAttribute("viewBox", `0 -0.05 ${length} 1.1`);
    byId("strip").replaceChildren(
      ...(response.tokens.length ? [
        shape("path", { class: "between", d: `${line(response.gate)} L ${back.join(" L ")} Z` }),
        shape("path", { class: "without", d: line(without) }),
        shape("path", { class: "with", d: line(response.gate) }),
      ] : []),
      shape("line", { class: "here", x1: 0, x2: 0, y1: -0.05, y2: 1.05 }),
    );
  }

  for (const [name, mode] of Object.entries(MODES)) {
    const input = make("input", { type: "radio", name: "mode", value: name, checked: name === view.mode });
    input.addEventListener("change", () => { view.mode = name; paint(); });
    byId("modes").append(make("label", {}, input, ` ${mode.label}`));
  }
  byId("run").addEventListener("change", (event) => choose({ run: +event.target.value, step: 0, response: 0 }));
  byId("step").addEventListener("change", (event) => choose({ step: +event.target.value }));
  byId("response").addEventListener("change", (event) => choose({ response: +event.target.value }));
  byId("marks").addEventListener("change", (event) => byId("text").classList.toggle("marked", event.target.checked));
  byId("text").classList.add("marked");
  // Not pointerover: text that scrolls below a resting pointer would move the choice away from the arrow keys.
  for (const moved of ["pointermove", "click"]) {
    byId("text").addEventListener(moved, (event) => event.target.dataset.t && inspect(+event.target.dataset.t));
  }
  byId("text").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const target = view.here + move;
    if (!move || target < 0 || target >= current().tokens.length) return;
    event.preventDefault();
    inspect(target);
    byId("text").children[target].scrollIntoView({ block: "nearest" });
  });
  byId("strip").addEventListener("pointermove", (event) => {
    const box = byId("strip").getBoundingClientRect(), length = current().tokens.length;
    if (length) inspect(Math.min(length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * length))));
  });
  choose({});
})();
