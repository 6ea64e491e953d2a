/** Numbers, times and tables as people read them. */
import Table from "cli-table3";

/** One heading in a table, and how its column stands. */
export interface Column {
  readonly head: string;
  readonly align?: "left" | "right";
}

/** @returns `1,234,567`. */
export function formatCount(count: number): string {
  return count.toLocaleString("en-US");
}

/** @returns `1 session`, `2 sessions`. */
export function sessionsOf(count: number): string {
  return `${formatCount(count)} session${count === 1 ? "" : "s"}`;
}

/** @returns `2026-11-22 23:03:42 UTC`: the time that audit logs speak of as well. */
export function formatTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** @returns a table without lines: it has to fit beside a key id and a time into 80 columns. */
export function tableOf(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    head: columns.map(({ head }) => head),
    colAligns: columns.map(({ align = "left" }) => align),
    style: { head: [], border: [], "padding-left": 0, "padding-right": 2 },
    chars: NO_LINES,
  });
  table.push(...rows.map((row) => [...row]));
  return table.toString().replace(/[ ]+$/gm, "");
}

/** @returns lines of a name and what belongs to it, in columns. */
export function pairsOf(
  pairs: readonly (readonly [name: string, text: string])[],
  dim: (text: string) => string,
): string {
  const width = Math.max(...pairs.map(([name]) => name.length)) + 2;
  return pairs.map(([name, text]) => `  ${dim(name.padEnd(width))}${text}`).join("\n");
}

/** @returns the text in lines of at most so many columns, broken between words; a longer word has a line of its own. */
export function wrapped(text: string, columns: number): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line === "") line = word;
    else if (widthOf(line) + 1 + widthOf(word) <= columns) line += ` ${word}`;
    else {
      lines.push(line);
      line = word;
    }
  }
  return [...lines, line].join("\n");
}

/** @returns how many columns a line takes, without its colours. */
export function widthOf(line: string): number {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character is what begins a colour.
  return line.replace(/\x1b\[[\d;]+m/g, "").length;
}

/** @returns every line two columns to the right. */
export function indented(text: string): string {
  return text.replace(/^(?=.)/gm, "  ");
}

const NO_LINES = Object.fromEntries(
  ["top", "bottom", "left", "right", "mid"]
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`, `${side}-mid-mid`])
    .concat(["middle", "mid-mid", "left-mid", "right-mid", "top-left", "top-right", "bottom-left", "bottom-right"])
    .map((name) => [name, ""]),
);
