// The API reference follows the system's light or dark theme.

const dark = matchMedia("(prefers-color-scheme: dark)");
const applyTheme = () => document.querySelector("rapi-doc")?.setAttribute("theme", dark.matches ? "dark" : "light");

dark.addEventListener("change", applyTheme);
applyTheme();
