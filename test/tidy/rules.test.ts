/** The tidy rules themselves: each finds what it is for, and nothing else. */
import { expect, test } from 'vitest';
import {
  bannedWords,
  confinement,
  deadLinks,
  documentedErrors,
  fileSizes,
  functionSizes,
  importEdges,
  lineWidth,
  nativeCodes,
  type Rule,
  trapLedgerProblems,
  typescriptCodes,
} from './rules.js';

function check(rule: Rule, path: string, text: string, violations: number): void {
  expect({ path, text, found: rule([{ path, text }]).length }).toEqual({
    path,
    text,
    found: violations,
  });
}

const STATUS_SOURCE = `
    case Code::kOk:
      return "OK";
    case Code::kNoSpace:
      return "NO_SPACE";
    case Code::kBusy:
      return "BUSY";
  }
  return "UNKNOWN";
`;

function body(lines: number): string {
  return 'a();\n'.repeat(lines);
}

/** A function of `lines` + 2 lines. */
function cppFunction(indent: string, lines: number): string {
  return `${indent}void F(int a) {\n${`${indent}  a();\n`.repeat(lines)}${indent}}\n`;
}

test('import edges', () => {
  const from = (target: string) => `import { x } from '${target}';\n`;
  check(importEdges, 'src/array/a.ts', from('../base/units.js') + from('node:fs'), 0);
  check(importEdges, 'src/array/a.ts', from('./words.js'), 0);
  check(importEdges, 'src/base/a.ts', from('../array/volume.js'), 1);
  check(importEdges, 'src/array/a.ts', from('../copyservices/rules.js'), 1);
  check(importEdges, 'src/array/a.ts', "import {\n  x,\n  y,\n} from '../api/app.js';\n", 1);
  check(importEdges, 'src/array/a.ts', "export * from '../api/app.js';\n", 1);
  check(importEdges, 'src/array/a.ts', "import '../api/app.js';\n", 1);
  check(importEdges, 'src/cli/commands/a.ts', from('../../base/units.js'), 0);
  check(importEdges, 'src/cli/a.ts', "import type { View } from '../api/schemas.js';\n", 0);
  check(importEdges, 'src/cli/a.ts', from('../api/schemas.js'), 1);
  check(importEdges, 'src/cli/commands/a.ts', "await import('../../main.js');\n", 0);
  check(importEdges, 'src/cli/a.ts', from('../main.js'), 1);
  check(importEdges, 'src/base/a.ts', from('../main.js'), 1);
  check(importEdges, 'src/main.ts', from('./api/app.js') + from('./nbd/listener.js'), 0);
  check(importEdges, 'src/newcomer/a.ts', '', 1);
});

test('who may name what', () => {
  check(confinement, 'native/core/store.cc', '#include <napi.h>\n', 1);
  check(confinement, 'native/binding/addon.cc', '#include <napi.h>\n', 0);
  check(confinement, 'native/core/store.cc', '#include <sys/socket.h>\n', 1);
  check(confinement, 'native/nbd/connection.cc', '#include <sys/socket.h>\n', 0);
  check(confinement, 'native/core/store.cc', '#include "nbd/reply.h"\n', 1);
  check(confinement, 'src/array/a.ts', "require('flashlun_native.node')", 1);
  check(confinement, 'src/api/a.ts', "import Database from 'better-sqlite3';", 1);
});

test('sizes of C++ files and functions', () => {
  check(fileSizes, 'native/core/a.cc', body(600), 0);
  check(fileSizes, 'native/core/a.cc', body(601), 1);
  check(functionSizes, 'native/core/a.cc', cppFunction('', 68), 0);
  check(functionSizes, 'native/core/a.cc', cppFunction('', 69), 1);
  check(functionSizes, 'native/core/a.h', `class C {\n${cppFunction('  ', 80)}};\n`, 1);
  const space = `namespace n {\n${'void F() {\n  a();\n}\n\n'.repeat(40)}}  // namespace n\n`;
  check(functionSizes, 'native/core/a.cc', space, 0);
});

test('width of lines', () => {
  check(lineWidth, 'src/a.ts', `${'x'.repeat(100)}\n`, 0);
  check(lineWidth, 'src/a.ts', `${'x'.repeat(101)}\n`, 1);
  check(lineWidth, 'src/a.ts', `// https://example.org/${'x'.repeat(101)}\n`, 0);
});

test('words of unfinished work', () => {
  check(bannedWords, 'src/a.ts', `// ${'TO'}DO: later\n`, 1);
  check(bannedWords, 'src/a.ts', `// good enough ${'for'} now\n`, 1);
  check(bannedWords, 'src/a.ts', 'mkdtemp("a-XXXXXX"); // stubborn, for nowhere\n', 0);
});

test('lists of codes', () => {
  expect(nativeCodes(STATUS_SOURCE)).toEqual(['BUSY', 'NO_SPACE']);
  expect(typescriptCodes("export type NativeCode =\n  | 'NO_SPACE'\n  | 'BUSY';\n")).toEqual([
    'BUSY',
    'NO_SPACE',
  ]);
  expect(
    documentedErrors('| `USAGE` | 400 | 2 | text |\n| `CANNOT_CONNECT` | - | 3 | text |'),
  ).toEqual(['USAGE 400 2', 'CANNOT_CONNECT - 3']);
});

test('ledger of traps', () => {
  const read = (path: string) =>
    path === 'a.cc' ? '// one rule\n  // in two lines\nTEST("x")' : undefined;
  const row = (trap: string, places: string) => `| ${trap} | what | rule | ${places} |\n`;
  const good = row('T1', '`a.cc` "one rule in two lines", "TEST("') + row('T2', '`a.cc`');
  expect(trapLedgerProblems(good, 2, read)).toEqual([]);
  expect(trapLedgerProblems(good, 3, read)).toEqual(['T3: 0 rows']);
  expect(trapLedgerProblems(row('T1', '`a.cc` "gone"'), 1, read)).toEqual([
    'T1: a.cc has no "gone"',
  ]);
  expect(trapLedgerProblems(row('T1', '`b.cc`'), 1, read)).toEqual(['T1: there is no b.cc']);
});

test('links of Markdown', () => {
  const text = '[a](x.md) [b](../README.md#part) [c](https://example.org) [d](gone.md)';
  const exists = (path: string) => ['docs/x.md', 'README.md'].includes(path);
  expect(deadLinks({ path: 'docs/a.md', text }, exists)).toEqual([
    'docs/a.md: there is no docs/gone.md',
  ]);
});
