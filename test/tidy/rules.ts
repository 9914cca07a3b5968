/**
 * Rules about the source as text, each a pure function from files to a list of violations. What
 * eslint, tsc and clang-format check is not repeated here.
 */
export interface SourceFile {
  /** Relative to the checkout, with forward slashes. */
  readonly path: string;
  readonly text: string;
}

export type Rule = (files: readonly SourceFile[]) => string[];

/** Which folders of src a folder may import (besides itself). Imports go one way. */
const EDGES: Readonly<Record<string, readonly string[]>> = {
  base: [],
  engine: ['base'],
  metadata: ['base'],
  workers: ['base', 'engine'],
  array: ['base', 'engine', 'metadata'],
  // Hands batches to the worker, which is started by its path, so only the types are known.
  copyservices: ['base', 'engine', 'metadata', 'array', 'workers (types)'],
  nbd: ['base', 'engine', 'array'],
  takeover: ['base', 'engine', 'nbd'],
  metrics: ['base', 'engine', 'array', 'copyservices', 'nbd'],
  api: ['base', 'engine', 'metadata', 'array', 'copyservices', 'metrics'],
  // Clients of the HTTP API: they see no part of the server but the types of its answers.
  // `serve` and `pool check` run in the process of the command: each a file of src, loaded then.
  cli: ['base', 'api (types)', 'main (dynamic)', 'pool-check (types)', 'pool-check (dynamic)'],
  esscli: ['base'],
};
/** Files directly in src put the parts together and may import all of them. */
const ROOT_FOLDER = '';

interface Import {
  readonly target: string;
  readonly kind: 'value' | 'types' | 'dynamic';
}

function importsOf(text: string): Import[] {
  const found: Import[] = [];
  const statements = /^(?:import|export)\b([^;'"]*?)\bfrom\s*['"]([^'"]+)['"]/gm;
  for (const [, clause, target] of text.matchAll(statements)) {
    found.push({ target: target!, kind: /^\s*type\b/.test(clause!) ? 'types' : 'value' });
  }
  for (const [, target] of text.matchAll(/^import\s*['"]([^'"]+)['"]/gm)) {
    found.push({ target: target!, kind: 'value' });
  }
  for (const [, target] of text.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)) {
    found.push({ target: target!, kind: 'dynamic' });
  }
  return found;
}

/** `src/cli/x.ts` + `../api/y.js` -> folder `api`, file `y`; undefined for packages. */
function resolveImport(from: string, target: string): { folder: string; file: string } | undefined {
  if (!target.startsWith('.')) return undefined;
  const parts = new URL(target, `file:///${from}`).pathname.slice('/src/'.length).split('/');
  const file = parts.at(-1)!.replace(/\.js$/, '');
  return { folder: parts.length === 1 ? ROOT_FOLDER : parts[0]!, file };
}

function allows(from: string, to: { folder: string; file: string }, kind: Import['kind']): boolean {
  if (from === ROOT_FOLDER || from === to.folder) return true;
  const name = to.folder === ROOT_FOLDER ? to.file : to.folder;
  const edges = EDGES[from] ?? [];
  if (edges.includes(name)) return true;
  return (
    (kind === 'types' && edges.includes(`${name} (types)`)) ||
    (kind === 'dynamic' && edges.includes(`${name} (dynamic)`))
  );
}

/** The imports of src follow EDGES, and a folder that is not in EDGES must be put there first. */
export const importEdges: Rule = (files) =>
  files
    .filter(({ path }) => path.startsWith('src/'))
    .flatMap(({ path, text }) => {
      const parts = path.split('/');
      const folder = parts.length === 2 ? ROOT_FOLDER : parts[1]!;
      if (folder !== ROOT_FOLDER && EDGES[folder] === undefined) {
        return [`${path}: the folder ${folder} is not in EDGES of test/tidy/rules.ts`];
      }
      return importsOf(text).flatMap(({ target, kind }) => {
        const to = resolveImport(path, target);
        if (to === undefined || allows(folder, to, kind)) return [];
        return [`${path}: ${folder} must not import ${target}`];
      });
    });

/** Who may name what: one folder each knows Node-API, sockets and the addon. */
const CONFINED: readonly { what: RegExp; where: RegExp; except: RegExp; why: string }[] = [
  {
    what: /#include [<"]napi\.h|#include [<"]node_api\.h/,
    where: /^native\//,
    except: /^native\/binding\//,
    why: 'only native/binding knows Node-API',
  },
  {
    what: /#include <(sys\/socket|netinet\/|arpa\/|poll|sys\/epoll)/,
    where: /^native\/core\//,
    except: /^$/,
    why: 'native/core knows no sockets',
  },
  {
    what: /#include "(nbd|binding)\//,
    where: /^native\/core\//,
    except: /^$/,
    why: 'native/core is below the other folders',
  },
  {
    what: /#include "binding\//,
    where: /^native\/nbd\//,
    except: /^$/,
    why: 'native/nbd is below native/binding',
  },
  {
    what: /flashlun_native/,
    where: /^src\//,
    except: /^src\/engine\//,
    why: 'only src/engine loads the addon',
  },
  {
    what: /from 'better-sqlite3'/,
    where: /^src\//,
    except: /^src\/metadata\//,
    why: 'only src/metadata knows SQLite',
  },
];

export const confinement: Rule = (files) =>
  CONFINED.flatMap(({ what, where, except, why }) =>
    files
      .filter(({ path }) => where.test(path) && !except.test(path))
      .filter(({ text }) => what.test(text))
      .map(({ path }) => `${path}: ${why}`),
  );

const MAX_CPP_LINES = 600;
const MAX_FUNCTION_LINES = 70;
const MAX_COLUMNS = 100;
/** Of C++; eslint counts those of TypeScript. */
const CPP = /\.(cc|h)$/;

export const fileSizes: Rule = (files) =>
  files
    .filter(({ path }) => CPP.test(path))
    .flatMap(({ path, text }) => {
      const lines = text.split('\n').length - 1;
      return lines > MAX_CPP_LINES ? [`${path}: ${lines} lines, more than ${MAX_CPP_LINES}`] : [];
    });

/** TypeScript, scripts, launchers; clang-format holds C++ to the same width. Links may be long. */
export const lineWidth: Rule = (files) =>
  files
    .filter(({ path }) => !CPP.test(path) && !path.endsWith('CMakeLists.txt'))
    .flatMap(({ path, text }) =>
      text.split('\n').flatMap((line, at) => {
        if ([...line].length <= MAX_COLUMNS || line.includes('://')) return [];
        return [`${path}:${at + 1}: more than ${MAX_COLUMNS} columns`];
      }),
    );

const NOT_A_FUNCTION =
  /^\s*(namespace|class|struct|union|enum|extern|using|#|\/\/|\}|public:|private:)/;

/**
 * Functions of C++ by their indentation, which clang-format makes certain: one begins at the last
 * line of its indentation and ends at the closing brace of the same indentation. Looked for at the
 * outermost level and one level in (members of a class).
 */
export const functionSizes: Rule = (files) =>
  files.filter(({ path }) => CPP.test(path)).flatMap(longFunctions);

function longFunctions({ path, text }: SourceFile): string[] {
  const found: string[] = [];
  for (const indent of ['', '  ']) {
    let start = -1;
    let header = '';
    text.split('\n').forEach((line, at) => {
      if (!line.startsWith(indent) || !/\S/.test(line.charAt(indent.length))) return;
      if (/^\s*\}(\s*\/\/.*)?$/.test(line)) {
        const length = at - start + 1;
        if (start >= 0 && header.includes('(') && length > MAX_FUNCTION_LINES) {
          found.push(`${path}:${start + 1}: a function of ${length} lines: ${header.trim()}`);
        }
        start = -1;
      } else if (NOT_A_FUNCTION.test(line)) {
        start = -1;
      } else {
        start = at;
        header = line;
      }
    });
  }
  return found;
}

/** Words of work left undone. Each in pieces, so that this file may be checked too. */
const BANNED = ['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK', 'for ' + 'now', 'st' + 'ub'];
const BANNED_WORD = new RegExp(`\\b(${BANNED.join('|')})s?\\b`);

export const bannedWords: Rule = (files) =>
  files.flatMap(({ path, text }) =>
    text.split('\n').flatMap((line, at) => {
      const match = BANNED_WORD.exec(line);
      return match === null ? [] : [`${path}:${at + 1}: "${match[1]}" marks unfinished work`];
    }),
  );

/** The codes of native errors, as C++ and as TypeScript list them. */
export function nativeCodes(statusSource: string): string[] {
  const names = [...statusSource.matchAll(/case Code::k\w+:\s*return "([A-Z_]+)";/g)].map(
    ([, name]) => name!,
  );
  // "OK" is no error.
  return names.filter((name) => name !== 'OK').sort();
}

export function typescriptCodes(typesSource: string): string[] {
  const union = /export type NativeCode =([^;]+);/.exec(typesSource)?.[1] ?? '';
  return [...union.matchAll(/'([A-Z_]+)'/g)].map(([, name]) => name!).sort();
}

/** The rows `| CODE | http | exit |` of a table in Markdown, as `CODE http exit`. */
export function documentedErrors(markdown: string): string[] {
  const rows = /^\| `([A-Z_]+)` \| (\d+|-) \| (\d+) \|/gm;
  return [...markdown.matchAll(rows)].map(([, code, http, exit]) => `${code} ${http} ${exit}`);
}

/** Links of Markdown files to other files of the checkout that `exists` does not know. */
export function deadLinks(file: SourceFile, exists: (path: string) => boolean): string[] {
  const links = [...file.text.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)].map(([, target]) => target!);
  return links
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => new URL(target, `file:///${file.path}`).pathname.slice(1))
    .filter((path) => !exists(path))
    .map((path) => `${file.path}: there is no ${path}`);
}

/**
 * What is wrong with docs/traps.md: a trap without its row, a place that is not there. A place is
 * a file in backticks, and each quoted text behind it stands in that file.
 */
export function trapLedgerProblems(
  ledger: string,
  traps: number,
  read: (path: string) => string | undefined,
): string[] {
  const rows = ledger.split('\n').filter((line) => /^\| T\d+ \|/.test(line));
  const problems: string[] = [];
  for (let trap = 1; trap <= traps; trap += 1) {
    const own = rows.filter((row) => row.startsWith(`| T${trap} |`));
    if (own.length !== 1) problems.push(`T${trap}: ${own.length} rows`);
  }
  for (const row of rows) {
    const name = row.split(' ')[1]!;
    if (row.split(' | ').length !== 4) problems.push(`${name}: not four columns`);
    for (const [, path, texts] of row.matchAll(/`([\w./-]+)`((?:,? "[^"]+")*)/g)) {
      const file = read(path!);
      if (file === undefined) problems.push(`${name}: there is no ${path}`);
      // Comments and test names are broken into lines by clang-format.
      const flat = file?.replace(/\s*(\n\s*(\/\/)?|"\s*\n\s*")\s*/g, ' ');
      for (const [, text] of texts!.matchAll(/"([^"]+)"/g)) {
        if (flat?.includes(text!) === false) problems.push(`${name}: ${path} has no "${text}"`);
      }
    }
  }
  return problems;
}
