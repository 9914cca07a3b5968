/** `flashlun task ...`: saved Copy Services tasks, the ones rsExecuteTask runs. */

import { Argument, type Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import { parsePair } from '../../base/ids.js';
import type { TaskRunView, TasksView, TaskView } from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { formatFields, formatTable, formatTime } from '../output.js';
import { collectPairs } from './flashcopy.js';

type TaskType = 'establish' | 'withdraw';

interface CreateFlags {
  readonly nocopy?: boolean;
  readonly description?: string;
}

/** Adds `task` and its subcommands to the program. */
export function addTaskCommands(program: Command, context: CliContext): void {
  const task = program.command('task').description('saved FlashCopy tasks (see rsExecuteTask)');
  addCreate(task, context);

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

  jsonOption(task.command('run'))
    .description('run a saved task and wait for its outcome')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) => runTask(context, name, command));

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

function addCreate(task: Command, context: CliContext): void {
  const command = jsonOption(task.command('create'));
  command
    .description('save a task')
    .argument('<NAME>')
    .addArgument(new Argument('<TYPE>', 'what it does').choices(['establish', 'withdraw']))
    .argument('<PAIRS...>', 'SOURCE:TARGET ...', collectPairs)
    .option('--nocopy', 'establish without background copy')
    .option('--description <TEXT>', 'one sentence for people')
    .addHelpText(
      'after',
      '\nExample: flashlun task create VMWare_W2K_FC establish 1203:1303 --nocopy',
    )
    .action((name: string, type: TaskType, pairs: readonly string[], flags: CreateFlags) =>
      createTask(context, { name, type, pairs, ...flags }, command),
    );
}

interface NewTask extends CreateFlags {
  readonly name: string;
  readonly type: TaskType;
  readonly pairs: readonly string[];
}

function createTask(context: CliContext, task: NewTask, command: Command): Promise<void> {
  if (task.nocopy === true && task.type === 'withdraw') {
    throw new FlashlunError('USAGE', '--nocopy only belongs to establish. Leave it out.');
  }
  const body = {
    name: task.name,
    type: task.type,
    pairs: task.pairs.map(parsePair),
    options: { noCopy: task.nocopy === true },
    ...(task.description === undefined ? {} : { description: task.description }),
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
}

function runTask(context: CliContext, name: string, command: Command): Promise<void> {
  return withApi(context, command, async (api) => {
    const result = await api.json<TaskRunView>('POST', `${taskPath(name)}/run`, {
      deadline: 'runMs',
    });
    if (result.status === 'failed') {
      throw new FlashlunError('INTERNAL', `task ${name} failed: ${result.message}`);
    }
    print(context, command, result, () => `Task ${name} completed: ${result.message}\n`);
  });
}

function taskTable(tasks: readonly TaskView[]): string {
  return formatTable(
    [
      { title: 'NAME', value: (task) => task.name },
      { title: 'TYPE', value: taskKind },
      { title: 'PAIRS', value: (task) => pairsText(task) },
      { title: 'LAST RUN', value: lastRun },
      { title: 'DESCRIPTION', value: (task) => task.description },
    ],
    tasks,
  );
}

function taskText(task: TaskView): string {
  return formatFields([
    ['name', task.name],
    ['type', taskKind(task)],
    ['pairs', pairsText(task)],
    ['description', task.description === '' ? '-' : task.description],
    ['last run', lastRun(task)],
    ['outcome', task.lastRun?.message ?? '-'],
  ]);
}

function taskKind(task: TaskView): string {
  return task.options.noCopy ? `${task.type} --nocopy` : task.type;
}

function lastRun({ lastRun }: TaskView): string {
  return lastRun === null ? '-' : `${formatTime(lastRun.finishedAt)} ${lastRun.status}`;
}

function pairsText(task: TaskView): string {
  return task.pairs.map(({ source, target }) => `${source}:${target}`).join(' ');
}

function taskPath(name: string): string {
  return `/v1/tasks/${encodeURIComponent(name)}`;
}
