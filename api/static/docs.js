// The reference, light or dark as the reader's system is.

const dark = matchMedia("(prefers-color-scheme: dark)");
const show = () => document.querySelector("rapi-doc").setAttribute("theme", dark.matches ? "dark" : "light");

dark.addEventListener("change", show);
show();
