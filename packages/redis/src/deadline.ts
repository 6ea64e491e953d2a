/**
 * The time within which Redis has to answer. ioredis alone would wait for a server that hangs for as long as TCP does.
 */
import { storeError, unavailable } from "./store-error.js";

/**
 * @param timeoutMs - When to give up. What `work` has sent by then may still be carried out.
 * @returns what `work` resolves to; every failure becomes `STORE_UNAVAILABLE`.
 */
export function withinDeadline<T>(timeoutMs: number, work: () => Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(unavailable(`no answer within ${timeoutMs} ms`)), timeoutMs);
    const fail = (error: unknown) => {
      clearTimeout(timer);
      reject(storeError(error));
    };
    try {
      work().then((value) => {
        clearTimeout(timer);
        resolve(value);
      }, fail);
    } catch (error) {
      // With auto-pipelining ioredis throws at once when it knows no node for the slot.
      fail(error);
    }
  });
}
