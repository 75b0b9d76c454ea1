// Values under the pointer or the arrow keys, sorting, filtering, the colour of the map, and light or dark. The page says
// everything without this.
(() => {
  "use strict";
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  // Light or dark: follows the system until it is switched; kept where the browser lets us.
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = (() => { try { return localStorage; } catch { return null; } })();
  const button = make("button", { className: "theme", type: "button" });
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  const kept = stored?.getItem("ceteris-theme");
  if (kept) root.dataset.theme = kept;
  button.title = "Switch between light and dark";
  button.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    if ((wanted === "dark") === dark.matches) { delete root.dataset.theme; stored?.removeItem("ceteris-theme"); }
    else { root.dataset.theme = wanted; stored?.setItem("ceteris-theme", wanted); }
    name();
  });
  dark.addEventListener("change", name);
  name();
  document.querySelector(".bar").append(button);

  // Values: a drawing is one stop of the tab key, and the arrow keys go from mark to mark.
  const tip = make("div", { id: "tip" });
  tip.setAttribute("role", "status");
  document.body.append(tip);
  let shown = null;
  const hide = () => { tip.classList.remove("on"); shown?.classList.remove("on"); shown = null; };
  const place = (text, box) => {
    tip.textContent = text;
    tip.classList.add("on");
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), innerWidth - width - 8);
    const above = box.top - height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 8 ? box.bottom + 8 : above}px`;
  };
  const show = (mark) => {
    if (mark === shown) return;
    hide();
    shown = mark;
    mark.classList.add("on");
    place(mark.dataset.hint, (mark.querySelector(".dot") ?? mark).getBoundingClientRect());
  };
  for (const drawing of all(".drawings svg, .flowing svg")) {
    const marks = all(".mark", drawing);
    for (const mark of marks) {
      const title = mark.querySelector("title");
      mark.dataset.hint = title.textContent;
      title.remove();
    }
    if (!marks.length) continue;
    drawing.tabIndex = 0;
    drawing.setAttribute("aria-roledescription", "drawing, arrow keys read its values");
    drawing.addEventListener("pointerover", (event) => {
      const mark = event.target.closest(".mark");
      if (mark) show(mark); else hide();
    });
    drawing.addEventListener("pointerleave", hide);
    drawing.addEventListener("blur", hide);
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const at = marks.indexOf(shown);
      show(marks[at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length]);
    });
  }
  addEventListener("scroll", hide, { passive: true });

  // Sorting: a click on a heading; empty cells stay last.
  const number = (text) => Number.parseFloat(text.replace(/[\u202f,\s]/g, "").replace("\u2212", "-").replace("+", ""));
  const said = (cell) => (cell.firstChild?.nodeType === Node.TEXT_NODE ? cell.firstChild.data : cell.textContent).trim();
  for (const table of all("table")) {
    const body = table.tBodies[0];
    const heads = all("thead tr:last-child th", table);
    if (body.rows.length < 3) continue;
    heads.forEach((head, column) => {
      const sort = make("span", { className: "sort", tabIndex: 0 }, ...head.childNodes); // buttons are lost in print
      sort.setAttribute("role", "button");
      head.append(sort);
      sort.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sort.click();
      });
      sort.addEventListener("click", () => {
        const first = head.classList.contains("num") ? "descending" : "ascending";
        const other = first === "descending" ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const keyed = [...body.rows].map((row) => {
          const text = said(row.cells[column]);
          const isEmpty = text === "\u2013" || text === "" || row.cells[column].classList.contains("is-empty");
          return { row, text, isEmpty, value: number(text) };
        });
        keyed.sort((a, b) => a.isEmpty - b.isEmpty || sign * (head.classList.contains("num")
          ? a.value - b.value : a.text.localeCompare(b.text, "en", { numeric: true })));
        for (const row of body.rows) row.classList.remove("again");
        body.append(...keyed.map(({ row }) => row));
      });
    });
  }

  // Filtering: rows of tables go, rows of drawings fade.
  for (const figure of all("[data-filter]")) {
    const rows = all("tbody tr", figure);
    const drawn = all(".row", figure);
    const count = make("span");
    const field = make("input", { type: "search", size: 10, placeholder: "all" });
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = (text) => words.every((word) => text.toLowerCase().includes(word));
      for (const row of rows) row.hidden = !fits(row.textContent);
      for (const row of drawn) {
        row.classList.toggle("off", !fits(row.textContent + all(".mark", row).map((m) => m.dataset.hint).join(" ")));
      }
      const left = rows.length ? rows.filter((row) => !row.hidden).length : drawn.filter((row) => !row.matches(".off")).length;
      count.textContent = words.length ? `${left} of ${rows.length || drawn.length}` : "";
    });
    const tools = make("div", { className: "tools" }, make("label", {}, "Show only", field), count);
    count.setAttribute("role", "status");
    figure.querySelector(".head").append(tools);
  }

  // The map: which factor colours it, one class by itself, and the label of the point under the pointer.
  const source = document.getElementById("map-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const map = source.closest("figure");
  const factors = Object.keys(data.labels);
  const drawings = all(".drawings svg", map);
  const arms = Object.keys(data.arms);
  const key = map.querySelector(".key");
  const choice = make("select", {}, ...factors.map((factor) => make("option", { value: factor }, factor)));
  const tools = make("div", { className: "tools" }, make("label", {}, "Colour by", choice));
  map.querySelector(".head").append(tools);
  const kind = (factor, label) => {
    const at = data.shown[factor].indexOf(label);
    return at < 0 ? "rest" : `k${at}`;
  };
  const only = (chosen) => {
    for (const path of all(".points", map)) path.classList.toggle("off", Boolean(chosen) && !path.classList.contains(chosen));
    for (const each of all("button", key)) each.setAttribute("aria-pressed", String(each.dataset.kind === chosen));
  };
  const paint = (factor) => {
    arms.forEach((arm, index) => {
      const dots = {};
      data.arms[arm].forEach(([x, y], i) => {
        const of = kind(factor, data.labels[factor][i]);
        (dots[of] ??= []).push(`M${x} ${y}h0`);
      });
      for (const path of all(".points", drawings[index])) path.remove();
      for (const of of Object.keys(dots).sort().reverse()) {
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("class", `points ${of}`);
        path.setAttribute("d", dots[of].join(""));
        drawings[index].append(path);
      }
    });
    const others = data.classes[factor].length > data.shown[factor].length;
    const entries = data.shown[factor].map((label, at) => [`k${at}`, data.classes[factor][label]]);
    if (others) entries.push(["rest", "all others"]);
    key.replaceChildren(...entries.map(([of, text]) => {
      const each = make("button", { type: "button" }, make("i", { className: of }), text);
      each.dataset.kind = of;
      each.setAttribute("aria-pressed", "false");
      each.addEventListener("click", () => only(each.getAttribute("aria-pressed") === "true" ? null : of));
      return make("li", {}, each);
    }));
  };
  choice.addEventListener("change", () => { hide(); paint(choice.value); });
  paint(choice.value);
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("class", "ring");
  ring.setAttribute("r", "5");
  const point = (index, i) => {
    const [x, y] = data.arms[arms[index]][i];
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    drawings[index].append(ring);
    const labels = factors.map((factor) => [factor, data.classes[factor][data.labels[factor][i]]]);
    place(labels.filter(([, label]) => label !== undefined).map(([f, l]) => `${f}: ${l}`).join("; "), ring.getBoundingClientRect());
  };
  drawings.forEach((drawing, index) => {
    const points = data.arms[arms[index]];
    const order = points.map((_, i) => i).sort((a, b) => points[a][0] - points[b][0]);
    let at = -1;
    drawing.tabIndex = 0;
    drawing.setAttribute("aria-roledescription", "map, arrow keys go from picture to picture");
    drawing.addEventListener("pointermove", (event) => {
      const spot = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
      let nearest = -1, least = 144;
      points.forEach(([x, y], i) => {
        const distance = (x - spot.x) ** 2 + (y - spot.y) ** 2;
        if (distance < least) { least = distance; nearest = i; }
      });
      if (nearest < 0) { hide(); ring.remove(); } else point(index, nearest);
    });
    for (const event of ["pointerleave", "blur"]) drawing.addEventListener(event, () => { hide(); ring.remove(); });
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      at = (at + step + order.length) % order.length;
      point(index, order[at]);
    });
  });
})();
