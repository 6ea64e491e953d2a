/**
 * Names of a KMS key: what AWS is given, and what a key record says.
 */

/** `arn:aws:kms:eu-west-1:111122223333:key/<id>`, in any partition. */
const KEY_ARN = /^arn:aws[a-z-]*:kms:([a-z0-9-]{1,32}):\d{12}:key\/([\w-]{1,128})$/;
const KEY_ID = /^[\w-]{1,128}$/;
const MAX_NAME_BYTES = 64;

/**
 * @returns `value`, a key id or key ARN.
 * @throws TypeError or RangeError for anything else, an alias above all: it may be pointed at another key, and every wrapped key would be lost.
 */
export function requireKeyId(field: string, value: unknown): string {
  if (typeof value !== "string") throw new TypeError(`${field} must be a string`);
  if (!KEY_ID.test(value) && !KEY_ARN.test(value)) {
    throw new RangeError(
      `${field} must be a key id or a key ARN; an alias is refused, it may be pointed at another key`,
    );
  }
  return value;
}

/** @returns `value`, or the name that follows from `keyId` when it is `undefined`. */
export function requireName(value: unknown, keyId: string): string {
  const [, region, id] = KEY_ARN.exec(keyId) ?? [];
  const name = value ?? (region === undefined ? `aws:${keyId}` : `aws:${region}:${id}`);
  if (typeof name !== "string") throw new TypeError("name must be a string");
  if (!name.isWellFormed()) throw new RangeError("name must be well-formed Unicode");
  const { length } = new TextEncoder().encode(name);
  if (length < 1 || length > MAX_NAME_BYTES) {
    const hint = value === undefined ? "; give a name, the one that follows from keyId is longer" : "";
    throw new RangeError(`name must have 1 to ${MAX_NAME_BYTES} bytes of UTF-8${hint}`);
  }
  return name;
}

/** @returns Whether AWS's answer, which gives an ARN, is about `keyId`. */
export function isSameKey(answered: string | undefined, keyId: string): boolean {
  return answered !== undefined && (answered === keyId || KEY_ARN.exec(answered)?.[2] === keyId);
}

/** @returns The region that a key ARN names; `undefined` for a key id. */
export function regionOf(keyId: string): string | undefined {
  return KEY_ARN.exec(keyId)?.[1];
}
