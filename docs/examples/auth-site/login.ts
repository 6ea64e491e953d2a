/**
 * Users and their devices. A real service has its users in a database.
 */
import { randomBytes, scrypt, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";

/** What a session knows of the device that it was begun on. */
export interface Device {
  readonly browser: string;
  readonly address: string;
}

/** What a session holds once somebody has logged in. */
export interface Login {
  userId: string;
  roles: string[];
  device: Device;
}

interface User {
  readonly roles: string[];
  readonly salt: Buffer;
  readonly hash: Buffer;
}

const derive = promisify(scrypt) as (password: string, salt: Buffer, length: number) => Promise<Buffer>;
const HASH_BYTES = 32;

const users = new Map<string, User>();
for (const [name, roles] of [
  ["alice", ["admin"]],
  ["bob", ["editor"]],
] as const) {
  const salt = randomBytes(16);
  users.set(name, { roles: [...roles], salt, hash: await derive(`${name}'s password`, salt, HASH_BYTES) });
}
const nobody: User = { roles: [], salt: randomBytes(16), hash: randomBytes(HASH_BYTES) };

/**
 * Checks name and password of a form.
 *
 * @returns who it is, or `undefined` when either is wrong: in the same time for both.
 */
export async function userOf(form: unknown): Promise<Pick<Login, "userId" | "roles"> | undefined> {
  const { name, password } = (form ?? {}) as Record<string, unknown>;
  if (typeof name !== "string" || typeof password !== "string") return undefined;
  const user = users.get(name) ?? nobody;
  const isRight = timingSafeEqual(await derive(password, user.salt, HASH_BYTES), user.hash);
  return isRight ? { userId: name, roles: user.roles } : undefined;
}

/**
 * @returns whether a form was sent from another site: to log a visitor in as somebody else, for instance. SameSite cookies do not keep that off, since it
 *   needs none.
 */
export function isForeign(headers: Readonly<Record<string, string | string[] | undefined>>): boolean {
  const site = headers["sec-fetch-site"];
  return site !== undefined && site !== "same-origin" && site !== "none";
}

/** @returns what the "my devices" page shows of a client. */
export function deviceOf(userAgent: string | undefined, address: string | undefined): Device {
  const browser = /(Firefox|Edg|Chrome|Safari|curl)\/[\d.]+/.exec(userAgent ?? "")?.[1] ?? "unknown browser";
  return { browser, address: address ?? "unknown address" };
}
