/**
 * Checks of arguments and options. They run in constructors and factories, so that a wrong setting fails when a process
 * starts and not at its first request. All throw a `TypeError` or `RangeError` that names the field and the limit.
 */

/** @returns `value`, an integer from `min` to `max`. */
export function requireInteger(field: string, value: unknown, min: number, max: number): number {
  if (typeof value !== "number") throw new TypeError(`${field} must be a number`);
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new RangeError(`${field} must be an integer from ${min} to ${max}`);
  }
  return value;
}

/** @returns `value`, a string of well-formed Unicode whose UTF-8 form has from `min` to `max` bytes. */
export function requireUtf8(field: string, value: unknown, min: number, max: number): string {
  if (typeof value !== "string") throw new TypeError(`${field} must be a string`);
  if (!value.isWellFormed()) throw new RangeError(`${field} must be well-formed Unicode`);
  const { length } = new TextEncoder().encode(value);
  if (length < min || length > max) throw new RangeError(`${field} must have ${min} to ${max} bytes of UTF-8`);
  return value;
}

/** @returns `value`, an object with a function under each of `methods`. */
export function requireMethods<T extends object>(
  field: string,
  value: T,
  ...methods: readonly (keyof T & string)[]
): T {
  if (typeof value !== "object" || value === null) throw new TypeError(`${field} must be an object`);
  for (const method of methods) {
    if (typeof value[method] !== "function") throw new TypeError(`${field}.${method} must be a function`);
  }
  return value;
}
