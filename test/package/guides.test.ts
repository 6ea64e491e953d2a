import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const pages = ["README.md", ...readdirSync(join(root, "docs")).map((name) => `docs/${name}`)].filter((name) =>
  name.endsWith(".md"),
);
/** Guides that would teach nothing without code. */
const WITH_CODE = [
  "README.md",
  "docs/aws-kms.md",
  "docs/errors.md",
  "docs/getting-started.md",
  "docs/keys.md",
  "docs/principals.md",
  "docs/rotation.md",
];
/** Other names of fences under which code could hide from this test. */
const ALIASES = /^(?:typescript|[cm]ts|tsx|javascript|[cm]?js|jsx)$/i;

interface Block {
  readonly page: string;
  /** Where its first line of code stands in the page, counted from 1. */
  readonly line: number;
  readonly language: string;
  readonly code: string;
}

const blocks = pages.flatMap((page) => blocksOf(page, readFileSync(join(root, page), "utf8")));
const programs = blocks.filter(({ language }) => language === "ts");
const problems = check(programs);

describe("a ts block of a guide", () => {
  it.each(programs)("compiles on its own against the built packages: $page, line $line", (block) => {
    expect(problems.get(block)).toEqual([]);
  });

  it("stands in every guide that teaches with code", () => {
    const found = new Set(programs.map(({ page }) => page));
    expect(WITH_CODE.filter((page) => !found.has(page))).toEqual([]);
  });

  it("has that name, and no other under which nobody would check it", () => {
    expect(blocks.filter(({ language }) => ALIASES.test(language)).map(({ page, line }) => `${page}:${line}`)).toEqual(
      [],
    );
  });

  it("is refused when it does not compile", () => {
    const [block] = programs as [Block];
    const broken = { ...block, code: `${block.code}\nconst count: number = "one";\nmissing();` };
    const lines = broken.code.split("\n").length;
    expect(check([broken]).get(broken)).toEqual([
      `line ${block.line + lines - 2}: Type 'string' is not assignable to type 'number'.`,
      `line ${block.line + lines - 1}: Cannot find name 'missing'.`,
    ]);
  });
});

function blocksOf(page: string, text: string): Block[] {
  return [...text.matchAll(/^ *```(\w*)[^\n]*\n([\s\S]*?)^ *```$/gm)].map((match) => ({
    page,
    line: text.slice(0, match.index).split("\n").length + 1,
    language: match[1] as string,
    code: match[2] as string,
  }));
}

/** Compiles each block as a module of its own beside this file. @returns what is wrong with each. */
function check(some: readonly Block[]): Map<Block, string[]> {
  const files = new Map(some.map((block, index) => [join(import.meta.dirname, `guide-block-${index}.ts`), block]));
  const options = strictest();
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  // The last line makes a module of a block without imports; the others keep their numbers.
  const text = (name: string) => {
    const block = files.get(name);
    return block === undefined ? undefined : `${block.code}\nexport {};\n`;
  };
  host.fileExists = (name) => files.has(name) || fileExists(name);
  host.readFile = (name) => text(name) ?? readFile(name);
  host.getSourceFile = (name, languageVersion, ...rest) => {
    const code = text(name);
    return code === undefined
      ? getSourceFile(name, languageVersion, ...rest)
      : ts.createSourceFile(name, code, languageVersion, true);
  };
  const program = ts.createProgram([...files.keys()], options, host);
  const [problem] = [...program.getOptionsDiagnostics(), ...program.getGlobalDiagnostics()];
  if (problem !== undefined) throw new Error(messageOf(problem));
  return new Map(
    [...files].map(([name, block]) => {
      const file = program.getSourceFile(name);
      const found = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
      return [block, found.map((one) => `line ${block.line + lineOf(one)}: ${messageOf(one)}`)];
    }),
  );
}

/** The project's own settings, but a guide may name what it does not use. */
function strictest(): ts.CompilerOptions {
  const { config } = ts.readConfigFile(join(root, "tsconfig.base.json"), ts.sys.readFile);
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, import.meta.dirname);
  return { ...options, noEmit: true, noUnusedLocals: false, noUnusedParameters: false };
}

function lineOf({ file, start }: ts.Diagnostic): number {
  return file === undefined || start === undefined ? 0 : file.getLineAndCharacterOfPosition(start).line;
}

function messageOf({ messageText }: ts.Diagnostic): string {
  return ts.flattenDiagnosticMessageText(messageText, "\n");
}
