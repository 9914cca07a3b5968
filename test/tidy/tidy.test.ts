/** The tidy rules, applied to this repository. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ERRORS } from '../../src/base/errors.js';
import { ROOT } from '../helpers/server.js';
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
  type SourceFile,
  trapLedgerProblems,
  typescriptCodes,
} from './rules.js';

const FOLDERS = ['src', 'native', 'bin', 'scripts', 'bench', 'test', '.ci'];
const SOURCE = /(\.(ts|mjs|js|cc|h|txt|sh)|\/[\w-]+)$/;
/** The corpus of the fuzz targets is bytes, not source. */
const SKIPPED = /^(build.*|node_modules|results|corpus)$/;

function sources(folder: string): SourceFile[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return SKIPPED.test(entry.name) ? [] : sources(path);
    return SOURCE.test(path) ? [{ path, text: readFileSync(join(ROOT, path), 'utf8') }] : [];
  });
}

function text(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

const files = FOLDERS.filter((folder) => readdirSync(ROOT).includes(folder)).flatMap(sources);

describe('this repository', () => {
  test.each([
    ['imports go one way', importEdges],
    ['each outside thing has its folder', confinement],
    ['no C++ file is too long', fileSizes],
    ['no C++ function is too long', functionSizes],
    ['no line is too wide', lineWidth],
    ['no work is left undone', bannedWords],
  ])('%s', (_, rule) => {
    expect(rule(files)).toEqual([]);
  });

  test('docs/traps.md has every trap of the design, and its places exist', () => {
    const read = (path: string) => (existsSync(join(ROOT, path)) ? text(path) : undefined);
    expect(trapLedgerProblems(text('docs/traps.md'), 29, read)).toEqual([]);
  });

  test('C++ and TypeScript know the same native error codes', () => {
    const native = nativeCodes(text('native/core/status.cc'));
    expect(native.length).toBeGreaterThan(10);
    expect(typescriptCodes(text('src/engine/types.ts'))).toEqual(native);
  });

  test('docs/operations.md lists every error code with its HTTP status and exit code', () => {
    const table = Object.entries(ERRORS).map(([code, { http, exit }]) => `${code} ${http} ${exit}`);
    expect(documentedErrors(text('docs/operations.md')).sort()).toEqual(table.sort());
  });

  test('links of the documents lead somewhere', () => {
    const documents = ['.', 'docs'].flatMap((folder) =>
      readdirSync(join(ROOT, folder))
        .filter((name) => name.endsWith('.md'))
        .map((name) => (folder === '.' ? name : `${folder}/${name}`)),
    );
    const exists = (path: string) => existsSync(join(ROOT, path));
    expect(documents.flatMap((path) => deadLinks({ path, text: text(path) }, exists))).toEqual([]);
  });
});
