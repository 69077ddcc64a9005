// Dark unless somebody chose otherwise on this machine. Not a module: the choice counts before anything is painted.
(() => {
  "use strict";
  const CHOICES = ["dark", "light", "system"];
  const WORDS = { dark: "Theme: dark", light: "Theme: light", system: "Theme: as the system" };
  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  let choice = CHOICES.includes(stored()) ? stored() : "dark";
  const show = () => {
    document.documentElement.dataset.theme = choice;
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = WORDS[choice];
      button.hidden = false;
    }
  };
  show();
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme")?.addEventListener("click", () => {
      choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
      try {
        localStorage.setItem("theme", choice);
      } catch {
        // a browser that keeps nothing shows it until the next page
      }
      show();
    });
  });
})();
