/**
 * What JSON cannot hold. The middleware finds changes by hashing a session's JSON, inside `response.end`: where that throws, the request never ends.
 */
import { encode, UnsupportedValueError } from "@sealed-session/core";

const NO_JSON = "this session cannot be written as JSON";

/**
 * Gives an object a `toJSON` that nobody sees and that never throws: it stands for itself as before, or for a fixed text when JSON cannot hold it.
 * So the hash is another one as soon as a BigInt comes in, the middleware saves, and the save can say what is wrong.
 */
export function neverThrowAsJson(session: object): void {
  if (Object.hasOwn(session, "toJSON")) return;
  let isAsked = false;
  const toJSON = (key: unknown): unknown => {
    // Inside something, and be it itself, it is no session: whoever walks it sees what is wrong.
    if (key !== "" || isAsked) return session;
    isAsked = true;
    const form = isJson(session) ? session : NO_JSON;
    isAsked = false;
    return form;
  };
  Object.defineProperty(session, "toJSON", { value: toJSON, configurable: true, writable: true });
}

/** @throws UnsupportedValueError `VALUE_UNSUPPORTED` with the path to a BigInt that JSON would meet. One inside a Map or Set is none. */
export function refuseBigInt(plain: object): void {
  if (isJson(plain)) return;
  const path = bigIntPath(plain);
  if (path === undefined) return;
  throw new UnsupportedValueError(
    "VALUE_UNSUPPORTED",
    path,
    "a BigInt cannot be kept in a session of express-session, which compares sessions as JSON",
  );
}

function isJson(session: object): boolean {
  try {
    // A copy has no toJSON of ours.
    JSON.stringify({ ...session });
    return true;
  } catch {
    return false;
  }
}

/** Puts something in the place of BigInts that the codec refuses: it knows how to name a place without giving data away. */
function bigIntPath(plain: object): string | undefined {
  const mark = crypto.randomUUID();
  try {
    const json = JSON.stringify(plain, (_, value: unknown) => (typeof value === "bigint" ? mark : value));
    encode(JSON.parse(json, (_, value: unknown) => (value === mark ? Symbol() : value)));
  } catch (error) {
    // Anything else that JSON cannot hold, such as a cycle, is refused by the codec.
    if (error instanceof UnsupportedValueError) return error.path;
  }
  return undefined;
}
