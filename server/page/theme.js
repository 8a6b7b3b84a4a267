// The theme, before anything is painted: a classic script, as modules run too late for that.
//
// Without a choice the page follows the system; a choice is remembered.
(() => {
  "use strict";
  const KEY = "galley-theme";
  const root = document.documentElement;
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

  // Storage may be forbidden; the theme then lasts as long as the page.
  const remembered = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };
  const remember = (theme) => {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // See above.
    }
  };
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches;

  const theme = remembered();
  if (theme === "dark" || theme === "light") {
    root.dataset.theme = theme;
  }

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    show();
    systemIsDark.addEventListener("change", show);
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      show();
    });
  });
})();
