/** `flashlun task ...`: saved Copy Services tasks, the ones rsExecuteTask runs. */

import { Argument, type Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import { parsePair } from '../../base/ids.js';
import { MIB } from '../../base/units.js';
import { TASK_TYPE_NAMES, TASK_TYPES, type TaskType } from '../../base/task-types.js';
import type { TaskRunsView, TaskRunView, TasksView, TaskView } from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { relationshipOptions } from '../copy-flags.js';
import { formatFields, formatTable, formatTime } from '../output.js';
import { type EstablishFlags, establishOptions, groupOptions } from './flashcopy.js';
import { addTaskFileCommands } from './task-files.js';

interface WorkFlags extends EstablishFlags {
  readonly fast?: boolean;
  readonly complete?: boolean;
}

interface CreateFlags extends WorkFlags {
  readonly description?: string;
}

const TYPES_HELP = TASK_TYPE_NAMES.map(
  (name) => `  ${name.padEnd(19)} ${TASK_TYPES[name].summary}`,
).join('\n');

/** Adds `task` and its subcommands to the program. */
export function addTaskCommands(program: Command, context: CliContext): void {
  const task = program.command('task').description('saved FlashCopy tasks (see rsExecuteTask)');
  addCreate(task, context);
  addShow(task, context);
  addRun(task, context);
  addTaskFileCommands(task, context);

  task
    .command('delete')
    .description('delete a saved task; relationships it made stay')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        await api.json('DELETE', taskPath(name));
        context.stdout.write(`Deleted task ${name}.\n`);
      }),
    );
}

function addShow(task: Command, context: CliContext): void {
  jsonOption(task.command('list'))
    .alias('ls')
    .description('list the saved tasks')
    .action((_flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<TasksView>('GET', '/v1/tasks');
        print(context, command, answer, () => taskTable(answer.tasks));
      }),
    );

  jsonOption(task.command('show'))
    .description('show one saved task')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const view = await api.json<TaskView>('GET', taskPath(name));
        print(context, command, view, () => taskText(view));
      }),
    );

  jsonOption(task.command('history'))
    .description('the last results of a saved task, the newest first')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<TaskRunsView>('GET', `${taskPath(name)}/runs`);
        print(context, command, answer, () => historyTable(answer.runs));
      }),
    );
}

function addCreate(task: Command, context: CliContext): void {
  const command = jsonOption(task.command('create'));
  workArguments(command.description('save a task').argument('<NAME>'))
    .option('--description <TEXT>', 'one sentence for people')
    .addHelpText(
      'after',
      `\nTypes:\n${TYPES_HELP}\n\nExamples:` +
        '\n  flashlun task create VMWare_W2K_FC establish 1203:1303 --nocopy' +
        '\n  flashlun task create Nightly group Withdraw_FC VMWare_W2K_FC',
    )
    .action((name: string, type: TaskType, subjects: readonly string[], flags: CreateFlags) => {
      const { description } = flags;
      const body = {
        name,
        ...workOf(type, subjects, flags),
        ...(description === undefined ? {} : { description }),
      };
      return withApi(context, command, async (api) => {
        const view = await api.json<TaskView>('POST', '/v1/tasks', { body });
        print(
          context,
          command,
          view,
          () => `Saved task ${view.name}. Run it: flashlun task run ${view.name}\n`,
        );
      });
    });
}

function addRun(task: Command, context: CliContext): void {
  jsonOption(task.command('run'))
    .description('run a saved task and wait for its outcome')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const path = `${taskPath(name)}/run`;
        const run = await api.json<TaskRunView>('POST', path, { deadline: 'runMs' });
        print(context, command, run, () => `Task ${name} completed: ${run.message}\n`);
      }),
    );

  const command = jsonOption(task.command('now'));
  workArguments(command.description('do what a task would do, without saving one')).action(
    (type: TaskType, subjects: readonly string[], flags: WorkFlags) =>
      withApi(context, command, async (api) => {
        const body = workOf(type, subjects, flags);
        const options = { body, deadline: 'runMs' } as const;
        const run = await api.json<TaskRunView>('POST', '/v1/tasks/run', options);
        print(context, command, run, () => `Completed: ${run.message}\n`);
      }),
  );
}

function workArguments(command: Command): Command {
  return groupOptions(relationshipOptions(command))
    .addArgument(new Argument('<TYPE>', 'what it does').choices(TASK_TYPE_NAMES))
    .argument('<WHAT...>', 'SOURCE:TARGET ..., names of tasks (group), LSSs (consistency-created)')
    .option('--fast', 'of a reverse: also while the background copy runs')
    .option('--complete', 'of a withdraw: end by itself when all is copied');
}

/** Those whose names differ from the API's. */
const FLAG_NAMES: Readonly<Record<string, string>> = {
  noCopy: 'nocopy',
  copyBytesPerSecond: 'copy-rate',
  freezeSeconds: 'freeze-limit',
  undoSeconds: 'undo',
};

/** Options as the API takes them. @throws FlashlunError USAGE one that the type does not have */
function optionsFor(type: TaskType, flags: WorkFlags): object {
  const given = {
    ...establishOptions(flags),
    ...(flags.fast === true ? { fast: true } : {}),
    ...(flags.complete === true ? { complete: true } : {}),
  };
  const kept = Object.entries(given).filter(([, value]) => value !== false);
  const known: readonly string[] = TASK_TYPES[type].options;
  const stranger = kept.find(([name]) => !known.includes(name))?.[0];
  if (stranger === undefined) return Object.fromEntries(kept);
  const kebab = stranger.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  const flag = FLAG_NAMES[stranger] ?? kebab;
  throw new FlashlunError('USAGE', `--${flag} does not belong to ${type}. Leave it out.`);
}

function workOf(type: TaskType, subjects: readonly string[], flags: WorkFlags): object {
  const { takes } = TASK_TYPES[type];
  const options = optionsFor(type, flags);
  const what = takes === 'pairs' ? subjects.map(parsePair) : subjects;
  return { type, [takes]: what, options };
}

function taskTable(tasks: readonly TaskView[]): string {
  return formatTable(
    [
      { title: 'NAME', value: (task) => task.name },
      { title: 'TYPE', value: taskKind },
      { title: 'PAIRS', value: subjectsText },
      { title: 'LAST RUN', value: lastRun },
      { title: 'DESCRIPTION', value: (task) => task.description },
    ],
    tasks,
  );
}

function historyTable(runs: readonly TaskRunsView['runs'][number][]): string {
  return formatTable(
    [
      { title: 'STARTED', value: (run) => formatTime(run.startedAt) },
      { title: 'FINISHED', value: (run) => formatTime(run.finishedAt) },
      { title: 'STATUS', value: (run) => run.status },
      { title: 'BY', value: (run) => run.startedBy },
      { title: 'OUTCOME', value: (run) => run.message },
    ],
    runs,
  );
}

function taskText(task: TaskView): string {
  return formatFields([
    ['name', task.name],
    ['type', taskKind(task)],
    [TASK_TYPES[task.type].takes, subjectsText(task)],
    ['description', task.description === '' ? '-' : task.description],
    ['last run', lastRun(task)],
    ['started by', task.lastRun?.startedBy ?? '-'],
    ['outcome', task.lastRun?.message ?? '-'],
  ]);
}

/** `establish --nocopy --priority 5`; what is not on the command line is short enough as it is. */
function taskKind({ options, type }: TaskView): string {
  const flags = Object.entries(options).map(([name, value]) => {
    const kebab = name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const flag = FLAG_NAMES[name] ?? kebab;
    if (name === 'copyBytesPerSecond') return `--${flag} ${rateText(Number(value))}`;
    return value === true ? `--${flag}` : `--${flag} ${value}`;
  });
  return [type, ...flags].join(' ');
}

function rateText(bytesPerSecond: number): string {
  return bytesPerSecond === 0 ? 'unlimited' : String(bytesPerSecond / MIB);
}

function lastRun({ lastRun }: TaskView): string {
  return lastRun === null ? '-' : `${formatTime(lastRun.finishedAt)} ${lastRun.status}`;
}

function subjectsText({ lss, pairs, tasks }: TaskView): string {
  return [...pairs.map(({ source, target }) => `${source}:${target}`), ...tasks, ...lss].join(' ');
}

function taskPath(name: string): string {
  return `/v1/tasks/${encodeURIComponent(name)}`;
}
