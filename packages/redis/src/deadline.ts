/**
 * The time within which Redis has to answer. ioredis alone would wait for a server that hangs for as long as TCP does.
 */
import { storeError, unavailable } from "./store-error.js";

/**
 * @param timeoutMs - When to give up. What `work` has sent by then may still be carried out.
 * @param recover - Is given what `work` failed with, and returns another attempt or `undefined`; the deadline stays the same.
 * @returns what `work` resolves to; every failure becomes `STORE_UNAVAILABLE`.
 */
export function withinDeadline<T>(
  timeoutMs: number,
  work: () => Promise<T>,
  recover: (error: unknown) => Promise<T> | undefined = () => undefined,
): Promise<T> {
  // One promise and two callbacks for the case that all is well: this surrounds every command.
  return new Promise((resolve, reject) => {
    let expired = false;
    const timer = setTimeout(() => {
      expired = true;
      reject(unavailable(`no answer within ${timeoutMs} ms`));
    }, timeoutMs);
    const succeed = (value: T) => {
      clearTimeout(timer);
      resolve(value);
    };
    const fail = (error: unknown) => {
      clearTimeout(timer);
      reject(storeError(error));
    };
    try {
      work().then(succeed, (error: unknown) => {
        const again = expired ? undefined : recover(error);
        if (again === undefined) fail(error);
        else again.then(succeed, fail);
      });
    } catch (error) {
      // With auto-pipelining ioredis throws at once when it knows no node for the slot.
      fail(error);
    }
  });
}
