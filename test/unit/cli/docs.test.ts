// docs/cli.md against the code: every command, option and exit code.
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { expect, test } from 'vitest';
import { ERRORS } from '../../../src/base/errors.js';
import { ATTACH_FORMATS } from '../../../src/cli/attach.js';
import { buildProgram } from '../../../src/cli/program.js';
import { EXIT } from '../../../src/esscli/execute-task.js';

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
  const section = text.slice(0, text.indexOf('## rsExecuteTask'));
  const codes = new Set([0, ...Object.values(ERRORS).map(({ exit }) => exit)]);
  for (const code of codes) expect(section).toMatch(new RegExp(`^\\| ${code} \\|`, 'm'));
});

test('exit codes of rsExecuteTask', () => {
  const section = text.slice(text.indexOf('## rsExecuteTask'));
  for (const code of Object.values(EXIT))
    expect(section).toMatch(new RegExp(`^\\| ${code} \\|`, 'm'));
});
