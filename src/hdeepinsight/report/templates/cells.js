// Draws the scatter plot of cells on a canvas, with legend, tooltips and keyboard navigation.
(() => {
  const data = JSON.parse(document.getElementById("hdeepinsight-cells").textContent);
  const box = document.getElementById("cells-picture");
  const canvas = box.querySelector("canvas");
  const choice = document.getElementById("cells-color");
  const legend = document.getElementById("cells-legend");
  const status = document.getElementById("cells-status");
  const tip = document.getElementById("cells-tip");
  const pen = canvas.getContext("2d");
  const n = data.n_shown;
  const MARGIN = 14;

  function unpack(text, wide) {
    const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    if (!wide) return raw;
    const view = new DataView(raw.buffer);
    return Uint16Array.from({ length: raw.length / 2 }, (_, i) => view.getUint16(2 * i, true));
  }

  const x = unpack(data.x, true);
  const y = unpack(data.y, true);
  const fields = data.fields.map((field) => ({ ...field, values: unpack(field.values, field.wide) }));
  const [width, height] = [x, y].map((values) => values.reduce((a, b) => Math.max(a, b), 1));
  let field = fields[0];
  let hidden = new Set();
  let current = -1;
  let scale = [1, 1];
  let shift = 0;
  let ratio = 1;

  const place = (i) => [MARGIN + shift + x[i] * scale[0], MARGIN + (height - y[i]) * scale[1]];
  const isNumber = (of) => of.labels === undefined;

  function text(of, i) {
    const value = of.values[i];
    if (!isNumber(of)) return of.labels[value] ?? "none";
    return value === 255 ? "missing" : (of.low + (value / 254) * (of.high - of.low)).toFixed(2);
  }

  function color(i) {
    const value = field.values[i];
    if (!isNumber(field)) return field.colors[value] ?? data.missing;
    return value === 255 ? data.missing : data.scale[Math.round((value / 254) * (data.scale.length - 1))];
  }

  function draw() {
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const size = Math.max(1.1, Math.min(3.6, (canvas.clientWidth / 9) / Math.sqrt(n)));
    // Cells without a value are drawn first, below the others.
    for (const missing of [true, false]) {
      for (let i = 0; i < n; i += 1) {
        const value = field.values[i];
        const none = isNumber(field) ? value === 255 : value >= field.labels.length;
        if (none !== missing || hidden.has(value)) continue;
        const [a, b] = place(i);
        pen.fillStyle = color(i);
        pen.beginPath();
        pen.arc(a, b, size, 0, 6.2832);
        pen.fill();
      }
    }
    if (current >= 0) {
      const [a, b] = place(current);
      pen.strokeStyle = "#1d1d1f";
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(a, b, size + 4, 0, 6.2832);
      pen.stroke();
    }
  }

  function resize() {
    ratio = window.devicePixelRatio || 1;
    const inner = Math.max(120, box.clientWidth - 2 * MARGIN);
    const tallest = Math.max(260, Math.min(620, window.innerHeight * 0.8)) - 2 * MARGIN;
    // The axes have no unit, so they may be stretched by up to a factor of two to fill the space.
    const least = Math.min(inner / width, tallest / height);
    scale = [Math.min(inner / width, 2 * least), Math.min(tallest / height, 2 * least)];
    const [w, h] = [box.clientWidth, height * scale[1] + 2 * MARGIN];
    shift = (inner - width * scale[0]) / 2;
    canvas.style.width = `${w}px`;
    canvas.style.height = `${h}px`;
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
    draw();
  }

  function describe(i) {
    const first = [field, ...fields.filter((of) => of !== field && ["Labels", "Quality"].includes(of.group))];
    return [data.names[i], ...first.map((of) => `${of.name}: ${text(of, i)}`)];
  }

  function show(i) {
    current = i;
    tip.hidden = i < 0;
    if (i >= 0) {
      tip.replaceChildren(...describe(i).map((line, k) => {
        const element = document.createElement(k ? "div" : "strong");
        element.textContent = line;
        return element;
      }));
      const [a, b] = place(i);
      const left = a > box.clientWidth / 2;
      tip.style.left = left ? "auto" : `${a + 12}px`;
      tip.style.right = left ? `${box.clientWidth - a + 12}px` : "auto";
      tip.style.top = `${Math.min(b, Math.max(0, canvas.clientHeight - tip.offsetHeight))}px`;
    }
    draw();
  }

  function nearest(a, b, accept, farthest) {
    let best = -1;
    let least = farthest ** 2;
    for (let i = 0; i < n; i += 1) {
      if (hidden.has(field.values[i])) continue;
      const [u, v] = place(i);
      const distance = (u - a) ** 2 + (v - b) ** 2;
      if (distance < least && accept(u, v, i)) [best, least] = [i, distance];
    }
    return best;
  }

  function count(code) {
    return field.values.reduce((sum, value) => sum + (value === code), 0);
  }

  function entry(label, swatch, code) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    const dot = document.createElement("i");
    dot.style.background = swatch;
    button.append(dot, `${label} `, Object.assign(document.createElement("span"), {
      textContent: count(code).toLocaleString("en"),
    }));
    button.addEventListener("click", () => {
      if (!hidden.delete(code)) hidden.add(code);
      button.setAttribute("aria-pressed", String(!hidden.has(code)));
      show(-1);
    });
    return button;
  }

  function drawLegend() {
    legend.replaceChildren();
    if (isNumber(field)) {
      const bar = document.createElement("div");
      bar.className = "ramp";
      bar.style.background = `linear-gradient(to right, ${data.scale.join(", ")})`;
      const ends = [field.low, field.high].map((end) => Object.assign(document.createElement("span"), {
        textContent: Number(end.toPrecision(3)),
      }));
      legend.append(ends[0], bar, ends[1]);
      status.textContent = "";
      return;
    }
    field.labels.forEach((label, code) => legend.append(entry(label, field.colors[code], code)));
    if (count(field.labels.length)) legend.append(entry("none", data.missing, field.labels.length));
    status.textContent = "Press a name to hide or show its cells.";
  }

  for (const group of new Set(fields.map((of) => of.group))) {
    const options = document.createElement("optgroup");
    options.label = group;
    fields.forEach((of, k) => of.group === group && options.append(new Option(of.name, k)));
    choice.append(options);
  }
  choice.addEventListener("change", () => {
    field = fields[Number(choice.value)];
    hidden = new Set();
    drawLegend();
    show(current);
  });
  canvas.addEventListener("pointermove", (event) => {
    const area = canvas.getBoundingClientRect();
    show(nearest(event.clientX - area.left, event.clientY - area.top, () => true, 14));
  });
  canvas.addEventListener("pointerleave", () => show(-1));
  canvas.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") show(-1);
    if (!(event.key in ways)) return;
    event.preventDefault();
    const [du, dv] = ways[event.key];
    const [a, b] = current < 0 ? [canvas.clientWidth / 2, canvas.clientHeight / 2] : place(current);
    const ahead = (u, v, i) => current < 0
      || (i !== current && (u - a) * du + (v - b) * dv > Math.abs((u - a) * dv) + Math.abs((v - b) * du));
    const found = nearest(a, b, ahead, Infinity);
    if (found < 0) return;
    show(found);
    status.textContent = describe(found).join("; ");
  });
  new ResizeObserver(resize).observe(box);
  window.addEventListener("beforeprint", draw);
  box.hidden = false;
  document.getElementById("cells-controls").hidden = false;
  drawLegend();
  resize();
})();
