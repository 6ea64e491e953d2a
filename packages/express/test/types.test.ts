import type { SessionStore } from "@sealed-session/core";
import session, { type SessionData, Store } from "express-session";
import { describe, expect, expectTypeOf, it } from "vitest";
import { type ExpressStore, type ExpressStoreOptions, expressStore } from "../src/index.js";
import { sealed } from "./support/sealed.js";

declare module "express-session" {
  interface SessionData {
    basket?: Map<string, number>;
  }
}

interface MySession {
  plan: "free" | "paid";
}

const base = sealed();

describe("the types", () => {
  it("infer an application's own session end to end", () => {
    const store = expressStore(base.sessions as SessionStore<MySession>);
    expectTypeOf(store).toEqualTypeOf<ExpressStore<MySession>>();
    store.get("an id that a test has made", (_, found) => {
      expectTypeOf(found).toEqualTypeOf<(MySession & SessionData) | null | undefined>();
      expectTypeOf(found?.plan).toEqualTypeOf<"free" | "paid" | undefined>();
      expectTypeOf(found?.cookie.originalMaxAge).toEqualTypeOf<number | null | undefined>();
    });
    store.all((_, found) => {
      expectTypeOf(found?.["x"]?.plan).toEqualTypeOf<"free" | "paid" | undefined>();
    });
    expect(store).toBeInstanceOf(Store);
  });

  it("know what an application has added to SessionData", () => {
    const store = expressStore(base.sessions as SessionStore<SessionData>);
    expectTypeOf(store).toEqualTypeOf<ExpressStore<SessionData>>();
    store.get("an id that a test has made", (_, found) => {
      expectTypeOf(found?.basket).toEqualTypeOf<Map<string, number> | undefined>();
    });
    store.set("an id that a test has made", {} as SessionData);
    // @ts-expect-error: a session has a cookie.
    store.set("an id that a test has made", { basket: new Map() });
    expect(store).toBeInstanceOf(Store);
  });

  it("take a session store of anything, and fit into express-session's options", () => {
    const store = expressStore(base.sessions as SessionStore<unknown>);
    store.get("an id that a test has made", (_, found) => {
      expectTypeOf(found?.basket).toEqualTypeOf<Map<string, number> | undefined>();
    });
    expectTypeOf(session).parameter(0).toExtend<session.SessionOptions | undefined>();
    expectTypeOf(store).toExtend<NonNullable<session.SessionOptions["store"]>>();
    expect(session({ secret: "x", resave: false, saveUninitialized: false, store })).toBeTypeOf("function");
  });

  it("refuse unknown options", () => {
    expectTypeOf<ExpressStoreOptions["expiry"]>().toEqualTypeOf<"cookie" | "idle" | undefined>();
    // @ts-expect-error: no such mode.
    expect(() => expressStore(base.sessions, { expiry: "never" })).toThrow(RangeError);
  });
});
