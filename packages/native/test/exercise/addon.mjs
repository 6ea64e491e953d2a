/** The addon under test. */
import { createRequire } from "node:module";
import { addonPath } from "./path.mjs";

export const addon = createRequire(import.meta.url)(addonPath);
