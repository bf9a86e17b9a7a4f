/* Every page: words for numbers, and the switch between light and dark. */
"use strict";

const hk = {
  /** "31.0 MiB", "212 MiB", "812 B", as the command writes them. */
  bytes(value) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = 0;
    while (value >= 999.5 && unit < units.length - 1) {
      value /= 1024;
      unit++;
    }
    const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    return value.toFixed(digits) + " " + units[unit];
  },

  count(value) {
    return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, " ");
  },

  duration(ns) {
    const s = ns / 1e9, two = (value) => String(Math.floor(value)).padStart(2, "0");
    if (s < 0.9995)
      return Math.round(s * 1000) + " ms";
    if (s < 99.95)
      return s.toFixed(s < 9.995 ? 2 : 1) + " s";
    if (s < 3600)
      return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
    return `${Math.floor(s / 3600)} h ${two(s % 3600 / 60)} min`;
  },

  percent(part, whole) {
    const percent = whole > 0 ? 100 * part / whole : 0;
    return (percent > 0 && percent < 0.95 ? Math.max(percent, 0.1).toFixed(1) : percent.toFixed(0)) + "%";
  },

  isDark() {
    const theme = document.documentElement.dataset.theme;
    return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },

  /** The value that a colour of page.css has now. */
  colour(name) {
    const probe = document.createElement("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  },

  /** An element with text and attributes; everything from a capture gets into the page this way. */
  element(tag, text = "", attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes))
      element.setAttribute(name, value);
    return element;
  },

  /** Calls `tell` whenever light becomes dark or the other way round. */
  onTheme(tell) {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
    document.addEventListener("hk-theme", tell);
  },

  setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("heapkeeper-theme", theme);
    } catch { /* a page from a file may have no storage */ }
    document.dispatchEvent(new Event("hk-theme"));
  },
};

{
  try {
    const theme = localStorage.getItem("heapkeeper-theme");
    if (theme === "light" || theme === "dark")
      document.documentElement.dataset.theme = theme;
  } catch { /* as above */ }
  for (const button of document.querySelectorAll("[data-theme-switch]"))
    button.addEventListener("click", () => hk.setTheme(hk.isDark() ? "light" : "dark"));
}
