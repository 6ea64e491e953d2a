/** The lists of a vector file, as docs/envelope-format.md section 7 describes them. */
export interface VectorFile {
  notes: string;
  derive: { dataKey: string; commitment: string; keyId: string; sealingKey: string; indexKey: string }[];
  storedId: { sessionId: string; storedId: string }[];
  index: { dataKey: string; namespace: string; name: string; value: string; entry: string }[];
  record?: RecordVector[];
  current?: { records: string[]; now: number; policy: { maxSealingAgeMs: number }; current: string | null }[];
  payload?: { bytes: string; value?: unknown; reject?: string }[];
  envelope: EnvelopeVector[];
}

export interface RecordVector {
  ring: string;
  record: string;
  ok?: { commitment: string; activatesAt: number; state: number; kmsNames: string[]; context: Record<string, string> };
  reject?: string;
}

export interface EnvelopeVector {
  name: string;
  keys: string[];
  purpose: string;
  namespace: string;
  id: string;
  now: number;
  envelope: string;
  sessionId?: string;
  shapes?: string[];
  ok?: { commitment: string; sealingKey: string; aesKey: string; aad: string; plaintext: string; value: unknown };
  reject?: { of: string; mutation: string; stage: "parse" | "key" | "open" | "expired" | "decode" };
}
