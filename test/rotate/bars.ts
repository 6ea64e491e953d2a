/** What re-sealing has to keep to. */

/** The most by which the memory of the process may grow in a run, in bytes. */
export const MOST_GROWTH_BYTES = 64 * 1_048_576;
