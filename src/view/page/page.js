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
    const s = ns / 1e9;
    if (s < 1)
      return Math.round(s * 1000) + " ms";
    if (s < 100)
      return s.toFixed(1) + " s";
    if (s < 7200)
      return Math.floor(s / 60) + " min " + Math.floor(s % 60) + " s";
    return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
  },

  percent(part, whole) {
    if (!(whole > 0))
      return "0%";
    const percent = 100 * part / whole;
    return (percent >= 9.95 || percent === 0 ? percent.toFixed(0) : percent >= 0.095 ? percent.toFixed(1) : "<0.1") + "%";
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
