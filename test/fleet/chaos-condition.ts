/** A condition that may as well not come true. */
import { untilNothingMissing } from "@sealed-session/test/servers";

/** @returns whether `condition` held within `deadlineMs`. While it throws it does not hold: servers that fail over do not answer. */
export function comesTrue(deadlineMs: number, condition: () => boolean | Promise<boolean>): Promise<boolean> {
  const missing = async () => {
    const holds = await (async () => condition())().catch(() => false);
    return holds ? undefined : "it";
  };
  return untilNothingMissing("a condition", missing, { deadlineMs }).then(
    () => true,
    () => false,
  );
}
