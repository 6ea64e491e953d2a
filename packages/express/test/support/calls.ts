/** Stores as express-session calls them, with promises. */
import type { SessionData, Store } from "express-session";

/** What a store calls back with; rejects with its error. */
function called<R>(call: (callback: (error?: unknown, result?: R) => void) => void): Promise<R | undefined> {
  return new Promise((resolve, reject) => {
    call((error, result) => (error ? reject(error) : resolve(result)));
  });
}

/** Any data, with a cookie of one minute or another. */
export function dataOf(data: object = {}, maxAge: number | null = 60_000): SessionData {
  const expires = maxAge === null ? null : new Date(Date.now() + maxAge);
  return { ...data, cookie: { originalMaxAge: maxAge, expires, httpOnly: true, path: "/" } };
}

export const get = (store: Store, sid: string) =>
  called<(SessionData & Record<string, unknown>) | null>((done) => store.get(sid, done as Parameters<Store["get"]>[1]));
export const set = (store: Store, sid: string, session: object) =>
  called<void>((done) => store.set(sid, session as SessionData, done));
export const touch = (store: Store, sid: string, session: object) =>
  called<void>((done) => store.touch?.(sid, session as SessionData, done as () => void));
export const destroy = (store: Store, sid: string) => called<void>((done) => store.destroy(sid, done));
export const all = (store: Store) =>
  called<Record<string, SessionData>>((done) => store.all?.(done as Parameters<NonNullable<Store["all"]>>[0]));
export const length = (store: Store) => called<number>((done) => store.length?.(done));
export const clear = (store: Store) => called<void>((done) => store.clear?.(done));
