/** Where the addon under test is loaded from: the package's own, or the build that `SEALED_SESSION_ADDON` names. */
import { fileURLToPath } from "node:url";

export const addonPath =
  process.env.SEALED_SESSION_ADDON ?? fileURLToPath(new URL("../../lib/index.cjs", import.meta.url));
