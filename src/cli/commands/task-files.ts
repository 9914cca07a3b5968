/** `flashlun task export` and `import`: saved tasks as a JSON file. */

import { readFileSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { errnoOf, fileReason } from '../../base/command-line.js';
import { FlashlunError } from '../../base/errors.js';
import { LIMITS } from '../../base/limits.js';
import type { TasksView, TaskView } from '../api-types.js';
import { type CliContext, withApi } from '../context.js';
import { formatJson } from '../output.js';

const FORMAT = 'flashlun-tasks';
const VERSION = 1;

/** Adds `export` and `import` to `task`. */
export function addTaskFileCommands(task: Command, context: CliContext): void {
  task
    .command('export')
    .description('print saved tasks as JSON, for "task import"')
    .argument('[NAMES...]', 'only these tasks')
    .option('--file <FILE>', 'write to a file instead; it must not exist')
    .action((names: readonly string[], flags: { file?: string }, command: Command) =>
      withApi(context, command, async (api) => {
        const { tasks } = await api.json<TasksView>('GET', '/v1/tasks');
        const chosen = names.length === 0 ? tasks : names.map((name) => taskNamed(tasks, name));
        const document = { format: FORMAT, version: VERSION, tasks: chosen.map(exported) };
        if (flags.file === undefined) context.stdout.write(formatJson(document));
        else writeNew(flags.file, formatJson(document));
      }),
    );

  task
    .command('import')
    .description('save the tasks of a file that "task export" made, all or none')
    .argument('<FILE>', '- for standard input')
    .option('--replace', 'also those whose names exist; they keep their results')
    .action((file: string, flags: { replace?: boolean }, command: Command) => {
      const tasks = readTasks(file);
      return withApi(context, command, async (api) => {
        const body = { tasks, replace: flags.replace === true };
        const answer = await api.json<TasksView>('POST', '/v1/tasks/import', { body });
        const names = answer.tasks.map(({ name }) => name);
        context.stdout.write(`Saved ${names.length} tasks: ${names.join(', ')}.\n`);
      });
    });
}

function taskNamed(tasks: readonly TaskView[], name: string): TaskView {
  const task = tasks.find((each) => each.name === name);
  if (task !== undefined) return task;
  throw new FlashlunError(
    'TASK_NOT_FOUND',
    `there is no task '${name}'. "flashlun task list" shows those there are.`,
  );
}

function exported({ name, type, pairs, tasks, lss, options, description }: TaskView): object {
  return {
    name,
    type,
    ...(pairs.length === 0 ? {} : { pairs }),
    ...(tasks.length === 0 ? {} : { tasks }),
    ...(lss.length === 0 ? {} : { lss }),
    options,
    description,
  };
}

function writeNew(file: string, text: string): void {
  try {
    writeFileSync(file, text, { flag: 'wx' });
  } catch (error) {
    const exists = errnoOf(error) === 'EEXIST';
    const reason = exists ? 'it exists. Choose another name' : fileReason(error);
    throw new FlashlunError('USAGE', `cannot write ${file}: ${reason}.`, { cause: error });
  }
}

function readTasks(file: string): unknown[] {
  let text: string;
  try {
    text = readFileSync(file === '-' ? 0 : file, 'utf8');
  } catch (error) {
    throw new FlashlunError('USAGE', `cannot read ${file}: ${fileReason(error)}.`, {
      cause: error,
    });
  }
  if (text.length > LIMITS.httpBodyBytes) {
    throw new FlashlunError('USAGE', `${file} is larger than 1 MiB. Import it in parts.`);
  }
  const document = parsed(text);
  const { format, version, tasks } = document;
  if (format !== FORMAT || !Array.isArray(tasks)) {
    throw new FlashlunError('USAGE', `${file} is no file of "flashlun task export".`);
  }
  if (version !== VERSION) {
    throw new FlashlunError(
      'USAGE',
      `${file} is of another version than ${VERSION}. Use the flashlun that wrote it.`,
    );
  }
  return tasks as unknown[];
}

function parsed(text: string): Record<string, unknown> {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
