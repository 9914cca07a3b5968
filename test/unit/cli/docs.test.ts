// docs/cli.md against the code: every command, option and exit code.
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { expect, test } from 'vitest';
import { ERRORS } from '../../../src/base/errors.js';
import { ATTACH_FORMATS } from '../../../src/cli/attach.js';
import { buildProgram } from '../../../src/cli/program.js';
import { EXIT } from '../../../src/esscli/exit.js';
import { COMMANDS } from '../../../src/esscli/main.js';

const text = readFileSync(new URL('../../../docs/cli.md', import.meta.url), 'utf8');
const nobody = { write: () => true };
const program = buildProgram({ env: {}, cwd: '/', stdout: nobody, stderr: nobody });

function leaves(command: Command, path: string[] = []): string[] {
  if (command.commands.length === 0) return [path.join(' ')];
  return command.commands.flatMap((each) => leaves(each, [...path, each.name()]));
}

test.each(leaves(program))('command %s', (path) => {
  expect(text).toContain(`\`${path}`);
});

test.each(ATTACH_FORMATS)('attach format %s', (format) => {
  expect(text).toContain(`\`${format}\``);
});

test('options of all commands', () => {
  const options = (command: Command): string[] => [
    ...command.options.map((option) => option.long ?? ''),
    ...command.commands.flatMap(options),
  ];
  const missing = options(program).filter((option) => !text.includes(option));
  expect(missing).toEqual([]);
});

test('exit codes of flashlun', () => {
  const codes = new Set([0, ...Object.values(ERRORS).map(({ exit }) => exit)]);
  for (const code of codes) expect(text).toMatch(new RegExp(`^\\| ${code} \\|`, 'm'));
});

test('the rs* commands: names, options, exit codes', () => {
  const ess = readFileSync(new URL('../../../docs/ess-cli.md', import.meta.url), 'utf8');
  for (const code of Object.values(EXIT)) {
    expect(ess).toMatch(new RegExp(`^\\| ${code} \\|`, 'm'));
  }
  for (const { name, values } of COMMANDS) {
    expect(ess).toContain(`\`${name}`);
    for (const letter of Object.keys(values ?? {})) expect(ess).toContain(`/${letter} `);
  }
});
