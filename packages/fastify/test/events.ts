/** The diagnostics events of each test of a file. */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { DIAGNOSTICS_CHANNEL } from "@sealed-session/core";
import { afterEach, beforeEach } from "vitest";

/** @returns The types of the events that the running test has seen. */
export function collectEventTypes(): string[] {
  const types: string[] = [];
  const collect = (event: unknown) => void types.push((event as { type: string }).type);
  beforeEach(() => {
    types.length = 0;
    subscribe(DIAGNOSTICS_CHANNEL, collect);
  });
  afterEach(() => void unsubscribe(DIAGNOSTICS_CHANNEL, collect));
  return types;
}
