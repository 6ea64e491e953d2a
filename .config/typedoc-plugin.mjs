/**
 * What TypeDoc has no option for: readable names of pages, and an icon that needs no file.
 */
import { Converter, JSX } from "typedoc";

const ICON =
  "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='4' fill='%23a33'/></svg>";

/** Called by TypeDoc. */
export function load(app) {
  // A guide is named after its first heading and not after its file.
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_context, document) => {
    const text = document.content.map((part) => part.text).join("");
    document.name = /^# (.+)$/m.exec(text)?.[1] ?? document.name;
  });

  // The export "." of a package with several has an empty name: it becomes the page of the package.
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    const main = project.children?.find(({ name }) => name === "");
    if (main === undefined) return;
    project.comment = main.comment;
    project.mergeReflections(main, project);
  });

  // Without one, browsers ask for /favicon.ico.
  app.renderer.hooks.on("head.end", () =>
    JSX.createElement("link", { rel: "icon", href: `data:image/svg+xml,${ICON}` }),
  );
}
