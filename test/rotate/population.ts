/**
 * The sessions of a run. Ids and contents follow from a seed and a number, so that a model of a million of them needs no memory for either.
 */
import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { storedIdOf } from "@sealed-session/core";

/** What a session holds, as web applications keep it. */
export interface Content {
  readonly cookie: { readonly originalMaxAge: number; readonly httpOnly: boolean; readonly path: string };
  readonly passport: { readonly user: { readonly id: number; readonly email: string; readonly roles: string[] } };
  readonly csrfSecret: string;
  readonly flash: { readonly info: string[] };
  readonly cart: { readonly sku: string; readonly count: number }[];
  readonly returnTo: string;
  /** How often it was written since its creation. */
  readonly version: number;
}

/** Numbered sessions. */
export class Population {
  readonly #seed: string;

  /** @param seed - Another one makes other ids. */
  constructor(seed: string) {
    this.#seed = seed;
  }

  /** @returns What the cookie holds. */
  sessionId(index: number): string {
    return createHash("sha256").update(`${this.#seed} ${index}`).digest("base64url");
  }

  /** @returns Where the session lies. */
  storedId(index: number): string {
    return storedIdOf(this.sessionId(index)) as string;
  }
}

/** @returns What the session with this number holds in this version. */
export function contentOf(index: number, version: number): Content {
  return {
    cookie: { originalMaxAge: 86_400_000, httpOnly: true, path: "/" },
    passport: { user: { id: index, email: `user-${index}@example.com`, roles: ["user", "editor"] } },
    csrfSecret: `k2J8sd9fKJH23kjhsdf98-${index}-${version}`,
    flash: { info: [`Welcome back for the time ${version}`] },
    cart: Array.from({ length: version % 4 }, (_, item) => ({ sku: `${index}-${item}`, count: item + 1 })),
    returnTo: `/dashboard?tab=${version}`,
    version,
  };
}

/** @returns Whether this is what the session holds in the version that it names. */
export function isContentOf(value: unknown, index: number): value is Content {
  const version = Number((value as Partial<Content> | null)?.version);
  return isDeepStrictEqual(value, contentOf(index, version));
}
