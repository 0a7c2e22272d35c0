"use strict";
/* The moving parts of a report: theme, tabs, tables, charts and confusion matrices. Text from files goes through
   textContent alone. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const make = (tag, attributes = {}, text = "") => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== "") element.textContent = text;
    return element;
  };
  const draw = (tag, attributes = {}, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== "") element.textContent = text;
    return element;
  };
  const onTheme = [];

  // ------------------------------------------------------------------ theme
  const themes = ["auto", "light", "dark"];
  const setTheme = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", theme);
    document.getElementById("theme-name").textContent = theme;
    onTheme.forEach((redraw) => redraw());
  };
  let theme = "auto";
  try { theme = localStorage.getItem("mvidx-theme") || "auto"; } catch (error) { /* not allowed for files */ }
  setTheme(themes.includes(theme) ? theme : "auto");
  document.getElementById("theme").addEventListener("click", () => {
    const current = root.getAttribute("data-theme") || "auto";
    const next = themes[(themes.indexOf(current) + 1) % themes.length];
    setTheme(next);
    try { localStorage.setItem("mvidx-theme", next); } catch (error) { /* not allowed for files */ }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => onTheme.forEach((redraw) => redraw()));

  // ------------------------------------------------------------------ tabs
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const select = (chosen) => {
    tabs.forEach((tab) => {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
    });
    onTheme.forEach((redraw) => redraw());
  };
  tabs.forEach((tab, index) => {
    tab.tabIndex = index ? -1 : 0;
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      select(next);
      next.focus();
    });
  });

  // ------------------------------------------------------------------ tables
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const cellValue = (row, column, numeric) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (!numeric) return text;
    const number = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(number) ? null : number;
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      const numeric = button.dataset.kind === "number";
      button.addEventListener("click", () => {
        const first = numeric && !/label/i.test(button.textContent) ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const direction = head.getAttribute("aria-sort") === first ? other : first;
        const sign = direction === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows].map((row) => [cellValue(row, column, numeric), row]);
        rows.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null); // what is missing stands last
          return sign * (numeric ? a - b : collator.compare(a, b));
        });
        table.tBodies[0].append(...rows.map(([, row]) => row));
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction);
      });
    });
  });

  const applyFilter = (input, pair = null) => {
    const table = document.getElementById(input.dataset.table);
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const keep = pair !== null ? row.dataset.pair === pair : words.every((word) => text.includes(word));
      row.hidden = !keep;
      shown += keep;
    }
    const all = table.tBodies[0].rows.length;
    const note = input.parentElement.querySelector(".count");
    note.textContent = shown === all ? "" : `${shown} of ${all}`;
  };
  document.querySelectorAll("input.filter").forEach((input) => input.addEventListener("input", () => applyFilter(input)));

  // ------------------------------------------------------------------ charts
  const several = data.runs.length > 1;
  const niceTicks = (low, high, count) => {
    const span = high - low || 1;
    const power = 10 ** Math.floor(Math.log10(span / count));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => span / size <= count) || 10 * power;
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i++) ticks.push(i * step);
    return ticks;
  };
  const format = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace(/\.0e/, "e").replace("e+", "e");
    return String(parseFloat(value.toPrecision(size >= 1000 ? 5 : 4)));
  };
  const strokeOf = (curve) => {
    const colour = several ? `var(--c${curve.run % 8})` : { steps: "var(--c0)", train: "var(--c0)", val: "var(--c1)" }[curve.kind];
    const alone = { steps: 1, train: 0, val: 0 };
    return { colour, width: curve.kind === "steps" ? 1.1 : 2, alone };
  };

  function Chart(holder, chart) {
    const box = make("div", { class: "chart" });
    const head = make("div", { class: "chart-head" });
    const title = make("b", {}, chart.title);
    if (chart.unit) title.append(make("span", { class: "unit" }, ` ${chart.unit}`));
    head.append(title);
    const values = chart.curves.flatMap((curve) => curve.y).filter((value) => value !== null);
    let log = false;
    if (values.every((value) => value > 0) && Math.max(...values) > 20 * Math.min(...values)) {
      const toggle = make("button", { type: "button", "aria-pressed": "false" }, "log");
      toggle.addEventListener("click", () => { log = !log; toggle.setAttribute("aria-pressed", log); render(); });
      head.append(toggle);
    }
    const svg = draw("svg", { role: "img", "aria-label": `${chart.title} over epochs` });
    const tip = make("div", { class: "tip" });
    tip.hidden = true;
    const legend = make("div", { class: "legend-row" });
    box.append(head, svg, legend, tip);
    holder.append(box);

    const kinds = new Set(chart.curves.map((curve) => curve.kind));
    const names = { steps: "training, by step", train: "training", val: "validation" };
    chart.curves.forEach((curve) => {
      const stroke = strokeOf(curve);
      curve.on = true;
      curve.colour = stroke.colour;
      curve.faint = curve.kind === "steps" && kinds.size > 1;
      curve.name = (several ? data.runs[curve.run].name + (kinds.size > 1 ? " · " : "") : "")
        + (several && kinds.size === 1 ? "" : names[curve.kind]);
      const button = make("button", { type: "button", "aria-pressed": "true" });
      const line = draw("svg", { viewBox: "0 0 20 8" });
      line.append(draw("path", {
        d: "M1 4H19", stroke: curve.colour, "stroke-width": curve.faint ? 1.2 : 2.2, "stroke-opacity": curve.faint ? 0.45 : 1,
        "stroke-dasharray": several && curve.kind === "val" ? "5 3" : "",
      }));
      button.append(line, make("span", {}, curve.name));
      button.addEventListener("click", () => {
        curve.on = !curve.on;
        button.setAttribute("aria-pressed", curve.on);
        render();
      });
      legend.append(button);
    });
    if (chart.curves.length < 2) legend.hidden = true;

    let frame = null;
    function render() {
      const width = svg.clientWidth || 360, height = 210;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.replaceChildren();
      tip.hidden = true;
      const visible = chart.curves.filter((curve) => curve.on);
      const ys = visible.flatMap((curve) => curve.y).filter((value) => value !== null);
      if (!ys.length) { frame = null; return; }
      let low = Math.min(...ys), high = Math.max(...ys);
      if (!log && low > 0 && low < 0.4 * high) low = 0;
      if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
      const xs = visible.flatMap((curve) => [curve.x[0], curve.x[curve.x.length - 1]]);
      const left = Math.min(0, ...xs), right = Math.max(...xs, left + 1e-9);
      const yTicks = log ? [] : niceTicks(low, high, 5);
      if (log) for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const factor of [1, 2, 5]) if (factor * 10 ** power >= low * 0.999 && factor * 10 ** power <= high * 1.001) yTicks.push(factor * 10 ** power);
      }
      const labels = yTicks.map(format);
      const pad = { left: 12 + 6.4 * Math.max(...labels.map((label) => label.length), 1), right: 10, top: 8, bottom: 22 };
      const inner = { width: width - pad.left - pad.right, height: height - pad.top - pad.bottom };
      const toX = (x) => pad.left + ((x - left) / (right - left)) * inner.width;
      const scale = log ? Math.log : (value) => value;
      const toY = (y) => pad.top + (1 - (scale(y) - scale(low)) / (scale(high) - scale(low))) * inner.height;
      yTicks.forEach((tick, i) => {
        svg.append(draw("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: toY(tick), y2: toY(tick) }));
        svg.append(draw("text", { x: pad.left - 6, y: toY(tick) + 4, "text-anchor": "end" }, labels[i]));
      });
      niceTicks(left, right, Math.max(2, Math.floor(width / 75))).forEach((tick) => {
        svg.append(draw("text", { x: toX(tick), y: height - 5, "text-anchor": "middle" }, format(tick)));
      });
      svg.append(draw("text", { x: width - pad.right, y: height - 5, "text-anchor": "end" }, "epochs"));
      const last = svg.querySelectorAll("text");
      for (const text of last) if (text.getAttribute("text-anchor") === "middle" && +text.getAttribute("x") > width - 62) text.remove();
      for (const curve of visible) {
        let path = "", pen = false;
        curve.x.forEach((x, i) => {
          if (curve.y[i] === null) { pen = false; return; }
          path += `${pen ? "L" : "M"}${toX(x).toFixed(1)} ${toY(curve.y[i]).toFixed(1)}`;
          pen = true;
        });
        svg.append(draw("path", {
          d: path, stroke: curve.colour, "stroke-width": curve.faint ? 1.1 : 2, "stroke-opacity": curve.faint ? 0.4 : 1,
          "stroke-dasharray": several && curve.kind === "val" ? "6 3" : "",
        }));
        if (curve.kind !== "steps" && curve.x.length <= 60) curve.x.forEach((x, i) => {
          if (curve.y[i] !== null) svg.append(draw("circle", { cx: toX(x), cy: toY(curve.y[i]), r: curve.x.length > 30 ? 1.6 : 2.6, style: `fill:${curve.colour}` }));
        });
      }
      frame = { toX, toY, left, right, pad, width, height, visible };
    }

    svg.addEventListener("pointermove", (event) => {
      if (!frame) return;
      const bounds = svg.getBoundingClientRect();
      const at = frame.left + ((event.clientX - bounds.left - frame.pad.left) / (frame.width - frame.pad.left - frame.pad.right)) * (frame.right - frame.left);
      const epoch = Math.min(frame.right, Math.max(frame.left, at));
      svg.querySelectorAll(".cross, .dot").forEach((element) => element.remove());
      tip.replaceChildren(make("b", {}, `epoch ${format(Math.round(epoch * 100) / 100)}`));
      svg.append(draw("line", { class: "cross", x1: frame.toX(epoch), x2: frame.toX(epoch), y1: frame.pad.top, y2: frame.height - frame.pad.bottom }));
      for (const curve of frame.visible) {
        let nearest = -1;
        curve.x.forEach((x, i) => {
          if (curve.y[i] !== null && (nearest < 0 || Math.abs(x - epoch) < Math.abs(curve.x[nearest] - epoch))) nearest = i;
        });
        if (nearest < 0) continue;
        const line = make("div"), name = make("span");
        const swatch = make("i", { class: "swatch", style: `background:${curve.colour}${curve.faint ? ";opacity:.5" : ""}` });
        name.append(swatch, document.createTextNode(curve.name));
        line.append(name, make("b", {}, format(curve.y[nearest])));
        tip.append(line);
        svg.append(draw("circle", { class: "dot", cx: frame.toX(curve.x[nearest]), cy: frame.toY(curve.y[nearest]), r: 3.4, style: `fill:${curve.colour}` }));
      }
      tip.hidden = false;
      const x = frame.toX(epoch), wide = tip.offsetWidth;
      tip.style.left = `${Math.max(4, x + 18 + wide > box.clientWidth ? x - wide : x + 26)}px`;
      tip.style.top = "44px";
    });
    svg.addEventListener("pointerleave", () => {
      tip.hidden = true;
      svg.querySelectorAll(".cross, .dot").forEach((element) => element.remove());
    });
    new ResizeObserver(render).observe(box);
  }
  const holder = document.getElementById("charts");
  if (holder) data.charts.forEach((chart) => Chart(holder, chart));

  // ------------------------------------------------------------------ confusion matrices
  function Matrix(box) {
    const run = data.runs[Number(box.dataset.run)];
    const canvas = box.querySelector("canvas"), tip = box.querySelector(".tip"), context = canvas.getContext("2d");
    const count = run.classes.length;
    const total = new Float64Array(count), right = new Float64Array(count), wrongIn = new Float64Array(count);
    const rows = Array.from({ length: count }, () => new Map());
    for (let i = 0; i < run.cells.length; i += 3) {
      const [actual, predicted, number] = run.cells.slice(i, i + 3);
      rows[actual].set(predicted, number);
      total[actual] += number;
      if (actual === predicted) right[actual] += number;
      else wrongIn[predicted] += number;
    }
    const errors = (label) => total[label] - right[label];
    const accuracy = (label) => (total[label] ? right[label] / total[label] : 2);
    const all = [...Array(count).keys()];

    function similar() { // a chain in which each class stands beside one it is confused with, most confused first
      const both = all.map(() => new Map());
      all.forEach((i) => rows[i].forEach((number, j) => {
        if (i === j) return;
        both[i].set(j, (both[i].get(j) || 0) + number / total[i]);
        both[j].set(i, (both[j].get(i) || 0) + number / total[i]);
      }));
      const left = new Set([...all].sort((a, b) => errors(b) + wrongIn[b] - errors(a) - wrongIn[a]));
      const chain = [];
      let last = -1;
      while (left.size) {
        let next = -1, most = 0;
        if (last >= 0) both[last].forEach((share, j) => { if (left.has(j) && share > most) { most = share; next = j; } });
        if (next < 0) next = left.values().next().value;
        left.delete(next);
        chain.push(next);
        last = next;
      }
      return chain;
    }
    const orders = {
      label: () => all,
      name: () => [...all].sort((a, b) => collator.compare(run.classes[a], run.classes[b])),
      errors: () => [...all].sort((a, b) => errors(b) - errors(a) || wrongIn[b] - wrongIn[a] || a - b),
      accuracy: () => [...all].sort((a, b) => accuracy(a) - accuracy(b) || a - b),
      similar,
    };
    let order = [], place = new Int32Array(count), size = 1, top = 0, left = 0, margin = 0, side = 0, hover = null, asked = false;

    function reorder() {
      order = orders[box.querySelector(".order").value]();
      if (box.querySelector(".only-wrong").checked) order = order.filter((label) => errors(label) > 0 || wrongIn[label] > 0);
      place = new Int32Array(count).fill(-1);
      order.forEach((label, i) => { place[label] = i; });
      whole();
    }
    function measure() {
      const wide = canvas.clientWidth;
      context.font = "11px system-ui, sans-serif";
      let longest = 0;
      for (const name of run.classes) longest = Math.max(longest, context.measureText(name.slice(0, 22)).width);
      margin = Math.min(wide * 0.28, longest + 14);
      side = Math.max(60, Math.min(wide - 1.45 * margin, 640)); // the last names over the columns lean out to the right
      const ratio = devicePixelRatio || 1, tall = side + margin * 0.75;
      canvas.style.height = `${tall}px`;
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(tall * ratio);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    const fit = () => side / Math.max(1, order.length);
    function clamp() {
      size = Math.min(Math.max(size, fit()), Math.max(64, 2 * fit()));
      const most = Math.max(0, order.length * size - side);
      left = Math.min(Math.max(left, 0), most);
      top = Math.min(Math.max(top, 0), most);
    }
    function whole() { size = fit(); top = left = 0; request(); }
    function zoom(factor, x = side / 2, y = side / 2) {
      const before = size;
      size *= factor;
      size = Math.min(Math.max(size, fit()), Math.max(64, 2 * fit()));
      left = (left + x) * (size / before) - x;
      top = (top + y) * (size / before) - y;
      request();
    }
    function request() { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; paint(); }); } }

    const colour = (name) => {
      const probe = make("span", { style: `color:var(${name});display:none` });
      box.append(probe);
      const value = getComputedStyle(probe).color;
      probe.remove();
      return value;
    };
    const short = (text, wide) => {
      if (context.measureText(text).width <= wide) return text;
      let cut = text.length;
      while (cut > 1 && context.measureText(`${text.slice(0, cut)}…`).width > wide) cut--;
      return `${text.slice(0, cut)}…`;
    };
    function paint() {
      if (!side) return;
      clamp();
      const wide = canvas.clientWidth, headroom = margin * 0.75;
      const colours = { right: colour("--right"), wrong: colour("--wrong"), line: colour("--line"), dim: colour("--dim"), text: colour("--text"), sunken: colour("--sunken"), panel: colour("--panel") };
      context.clearRect(0, 0, wide, side + headroom);
      context.save();
      context.translate(margin, headroom);
      context.beginPath();
      context.rect(0, 0, side, side);
      context.clip();
      context.fillStyle = colours.sunken;
      context.fillRect(0, 0, side, side);
      const from = (offset) => Math.max(0, Math.floor(offset / size)), to = (offset) => Math.min(order.length, Math.ceil((offset + side) / size));
      const gap = size > 12 ? 1 : 0;
      const least = Math.max(size - gap, 1.4);
      const faintest = size < 4 ? 0.5 : 0.28; // a dot of few pixels must be seen
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.font = `${Math.min(14, size * 0.36)}px system-ui, sans-serif`;
      for (let row = from(top); row < to(top); row++) {
        const actual = order[row];
        rows[actual].forEach((number, predicted) => {
          const column = place[predicted];
          if (column < 0) return;
          const x = column * size - left, y = row * size - top;
          if (x + size < 0 || x > side) return;
          const share = number / total[actual], diagonal = actual === predicted;
          context.globalAlpha = diagonal ? 0.15 + 0.75 * share : faintest + (1 - faintest) * Math.sqrt(share);
          const wide = diagonal ? least : Math.max(least, 2.2);
          context.fillStyle = diagonal ? colours.right : colours.wrong;
          context.fillRect(x, y, wide, wide);
          context.globalAlpha = 1;
          if (size >= 26) {
            context.fillStyle = share > 0.45 ? colours.panel : colours.text;
            context.fillText(String(number), x + size / 2, y + size / 2);
          }
        });
      }
      if (hover) {
        context.strokeStyle = colours.text;
        context.lineWidth = 1.5;
        context.strokeRect(hover.column * size - left, hover.row * size - top, Math.max(size, 2), Math.max(size, 2));
      }
      context.restore();
      context.strokeStyle = colours.line;
      context.lineWidth = 1;
      context.strokeRect(margin - 0.5, headroom - 0.5, side + 1, side + 1);
      context.font = "11px system-ui, sans-serif";
      const every = Math.max(1, Math.ceil(14 / size));
      for (let row = from(top); row < to(top); row++) {
        const middle = (row + 0.5) * size - top;
        const hovered = hover && hover.row === row;
        if (middle < 0 || middle > side || (row % every && !hovered)) continue;
        if (every > 1 && hover && !hovered && Math.abs(row - hover.row) < every) continue;
        context.fillStyle = hovered ? colours.text : colours.dim;
        context.textAlign = "right";
        context.fillText(short(run.classes[order[row]], margin - 10), margin - 6, headroom + middle);
      }
      for (let column = from(left); column < to(left); column++) {
        const middle = (column + 0.5) * size - left;
        const hovered = hover && hover.column === column;
        if (middle < 0 || middle > side || (column % every && !hovered)) continue;
        if (every > 1 && hover && !hovered && Math.abs(column - hover.column) < every) continue;
        context.save();
        context.translate(margin + middle, headroom - 6);
        context.rotate(-Math.PI / 4);
        context.fillStyle = hovered ? colours.text : colours.dim;
        context.textAlign = "left";
        context.fillText(short(run.classes[order[column]], headroom * 1.3 - 12), 0, 0);
        context.restore();
      }
    }

    const cellAt = (event) => {
      const bounds = canvas.getBoundingClientRect();
      const x = event.clientX - bounds.left - margin, y = event.clientY - bounds.top - margin * 0.75;
      const column = Math.floor((x + left) / size), row = Math.floor((y + top) / size);
      const inside = x >= 0 && y >= 0 && x < side && y < side && row < order.length && column < order.length;
      return { x, y, row, column, inside };
    };
    const pointers = new Map();
    let moved = 0, spread = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event);
      moved = 0;
      spread = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (before) {
        pointers.set(event.pointerId, event);
        if (pointers.size === 2) {
          const [a, b] = [...pointers.values()];
          const distance = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
          const middle = cellAt({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 });
          if (spread) zoom(distance / spread, middle.x, middle.y);
          spread = distance;
          moved = 99;
        } else {
          left -= event.clientX - before.clientX;
          top -= event.clientY - before.clientY;
          moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
          if (moved > 4) canvas.classList.add("dragging");
        }
        request();
      }
      const cell = cellAt(event);
      hover = cell.inside ? cell : null;
      tip.hidden = !hover;
      if (hover) {
        const actual = order[cell.row], predicted = order[cell.column];
        const number = rows[actual].get(predicted) || 0;
        const share = total[actual] ? ((100 * number) / total[actual]).toFixed(1) : "0";
        tip.replaceChildren(
          make("b", {}, `${number} of ${total[actual]} (${share}%)`),
          make("div", {}, actual === predicted ? `${run.classes[actual]}, right` : `${run.classes[actual]} → ${run.classes[predicted]}`),
        );
        const x = margin + cell.x, wide = tip.offsetWidth;
        tip.style.left = `${x + 16 + wide > canvas.clientWidth ? Math.max(0, x - wide - 12) : x + 16}px`;
        tip.style.top = `${margin * 0.75 + cell.y + 18}px`;
      }
      request();
    });
    const release = (event) => { pointers.delete(event.pointerId); spread = 0; canvas.classList.remove("dragging"); };
    canvas.addEventListener("pointerup", (event) => {
      release(event);
      const cell = cellAt(event);
      const input = document.querySelector(`input.filter[data-table="mistakes-${box.dataset.run}"]`);
      if (moved > 4 || !cell.inside || !input) return;
      const actual = order[cell.row], predicted = order[cell.column];
      if (actual === predicted || !rows[actual].get(predicted)) return;
      input.value = `${run.classes[actual]} ${run.classes[predicted]}`;
      applyFilter(input, `${actual},${predicted}`);
      input.scrollIntoView({ block: "center" });
    });
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => { hover = null; tip.hidden = true; request(); });
    canvas.addEventListener("wheel", (event) => {
      const cell = cellAt(event);
      if (!cell.inside) return;
      if (event.deltaY > 0 && size <= fit() * 1.0001) return; // the page scrolls on
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.0022), cell.x, cell.y);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (move) { left += 40 * move[0]; top += 40 * move[1]; request(); } else if (event.key === "+" || event.key === "=") zoom(1.4);
      else if (event.key === "-") zoom(1 / 1.4);
      else if (event.key === "0") whole();
      else return;
      event.preventDefault();
    });
    box.querySelector(".in").addEventListener("click", () => zoom(1.6));
    box.querySelector(".out").addEventListener("click", () => zoom(1 / 1.6));
    box.querySelector(".reset").addEventListener("click", whole);
    box.querySelector(".order").addEventListener("change", reorder);
    box.querySelector(".only-wrong").addEventListener("change", reorder);
    let last = 0;
    new ResizeObserver(() => {
      if (canvas.clientWidth && canvas.clientWidth !== last) { last = canvas.clientWidth; measure(); reorder(); }
    }).observe(box);
    onTheme.push(request);
  }
  document.querySelectorAll(".matrix").forEach(Matrix);
})();
