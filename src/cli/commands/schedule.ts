/** `flashlun schedule ...`: tasks and rotations of copies at certain times. */

import { type Command, Option } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import type {
  ScheduleRunsView,
  ScheduleRunView,
  SchedulesView,
  ScheduleView,
} from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { type CopyFlags, optionsOf, relationshipOptions } from '../copy-flags.js';
import { formatFields, formatTable, formatTime } from '../output.js';

interface CreateFlags extends CopyFlags {
  readonly cron: string;
  readonly timezone?: string;
  readonly missed?: 'once' | 'skip';
  readonly disabled?: boolean;
  readonly task?: string;
  readonly source?: readonly string[];
  readonly targets?: readonly string[];
  readonly keep?: string;
  readonly lockFor?: string;
}

/** Adds `schedule` and its subcommands to the program. */
export function addScheduleCommands(program: Command, context: CliContext): void {
  const schedule = program.command('schedule').description('tasks and copies at certain times');
  addCreate(schedule, context);
  addShow(schedule, context);
  addRun(schedule, context);

  for (const verb of ['enable', 'disable'] as const) {
    schedule
      .command(verb)
      .description(verb === 'enable' ? 'switch it on, from now on' : 'switch it off')
      .argument('<NAME>')
      .action((name: string, _flags: unknown, command: Command) =>
        withApi(context, command, async (api) => {
          const body = { enabled: verb === 'enable' };
          await api.json<ScheduleView>('PATCH', schedulePath(name), { body });
          context.stdout.write(`Schedule ${name} is ${verb}d.\n`);
        }),
      );
  }

  schedule
    .command('delete')
    .description('delete a schedule; relationships it made stay')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        await api.json('DELETE', schedulePath(name));
        context.stdout.write(`Deleted schedule ${name}.\n`);
      }),
    );
}

function addCreate(schedule: Command, context: CliContext): void {
  relationshipOptions(jsonOption(schedule.command('create')))
    .description('run a task, or copies with a number to keep, at certain times')
    .argument('<NAME>')
    .requiredOption('--cron <TIMES>', '"MINUTE HOUR DAY MONTH WEEKDAY" or @daily and the like')
    .option('--timezone <ZONE>', 'of the times, as Europe/Berlin (default UTC)')
    .addOption(
      new Option('--missed <HOW>', 'times that pass while the server is off: one run, or none')
        .choices(['once', 'skip'])
        .default('once'),
    )
    .option('--disabled', 'switched off at first')
    .option('--task <TASK>', 'the saved task to run')
    .option('--source <VOLUME...>', 'or copy these volumes, all at one point in time')
    .option('--targets <VOLUMES...>', 'onto these in turn: each a list with commas, one a source')
    .option('--keep <N>', 'copies kept (default: as many as --targets)')
    .option('--lock-for <TIME>', 'so long a copy cannot be given up, as 12h or 7d')
    .addHelpText(
      'after',
      '\nExamples:\n  flashlun schedule create nightly --cron "30 2 * * *" --task VMWare_W2K_FC' +
        '\n  flashlun schedule create hourly --cron @hourly --source 1203 --targets 1303 1304' +
        '\n  flashlun schedule create db --cron "0 1 * * sun" --source 1203 1204' +
        ' --targets 1303,1304 1305,1306 --lock-for 7d',
    )
    .action((name: string, flags: CreateFlags, command: Command) => {
      const body = bodyOf(name, flags);
      return withApi(context, command, async (api) => {
        const view = await api.json<ScheduleView>('POST', '/v1/schedules', { body });
        const next =
          view.nextRunAt === null ? 'switched off' : `next ${formatTime(view.nextRunAt)}`;
        print(context, command, view, () => `Created schedule ${view.name} (${next}).\n`);
      });
    });
}

function bodyOf(name: string, flags: CreateFlags): object {
  const { cron, disabled, missed, source, targets, task, timezone } = flags;
  const given = Object.entries(optionsOf(flags)).filter(([, value]) => value !== false);
  const rotating = [source, targets, flags.keep, flags.lockFor].some((flag) => flag !== undefined);
  if (task !== undefined && (rotating || given.length > 0)) {
    throw new FlashlunError('USAGE', '--task goes without options of copies. Leave them out.');
  }
  if (task === undefined && (source === undefined || targets === undefined)) {
    throw new FlashlunError('USAGE', 'say what to run: --task TASK, or --source and --targets.');
  }
  const common = {
    ...{ name, cron, enabled: disabled !== true },
    ...(missed === undefined ? {} : { missed }),
    ...(timezone === undefined ? {} : { timeZone: timezone }),
  };
  if (task !== undefined) return { ...common, task };
  const rotation = {
    sources: source,
    targetSets: targets?.map((set) => set.split(',')),
    ...(flags.keep === undefined ? {} : { keep: parseCount(flags.keep) }),
    ...(flags.lockFor === undefined ? {} : { lockSeconds: parseDuration(flags.lockFor) }),
    options: Object.fromEntries(given),
  };
  return { ...common, rotation };
}

function parseCount(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new FlashlunError('USAGE', `--keep '${text}' is not a number of copies.`);
}

const UNIT_SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

function parseDuration(text: string): number {
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const seconds = UNIT_SECONDS[unit ?? ''];
  if (seconds !== undefined) return Number(count) * seconds;
  throw new FlashlunError(
    'USAGE',
    `--lock-for '${text}' is not a time. Write for example 12h or 7d.`,
  );
}

function addShow(schedule: Command, context: CliContext): void {
  jsonOption(schedule.command('list'))
    .alias('ls')
    .description('list the schedules')
    .action((_flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<SchedulesView>('GET', '/v1/schedules');
        print(context, command, answer, () => scheduleTable(answer.schedules));
      }),
    );

  jsonOption(schedule.command('show'))
    .description('show one schedule and the copies it keeps')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const view = await api.json<ScheduleView>('GET', schedulePath(name));
        print(context, command, view, () => scheduleText(view));
      }),
    );

  jsonOption(schedule.command('history'))
    .description('its last runs, the newest first')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<ScheduleRunsView>('GET', `${schedulePath(name)}/runs`);
        print(context, command, answer, () => runTable(answer.runs));
      }),
    );
}

function addRun(schedule: Command, context: CliContext): void {
  jsonOption(schedule.command('run'))
    .description('run it now, and wait for its outcome')
    .argument('<NAME>')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const path = `${schedulePath(name)}/run`;
        const run = await api.json<ScheduleRunView>('POST', path, { deadline: 'runMs' });
        print(context, command, run, () => `Schedule ${name} ${run.status}: ${run.message}\n`);
      }),
    );
}

function scheduleTable(schedules: readonly ScheduleView[]): string {
  return formatTable(
    [
      { title: 'NAME', value: (each) => each.name },
      { title: 'TIMES', value: (each) => each.cron },
      { title: 'ZONE', value: (each) => each.timeZone },
      { title: 'RUNS', value: workText },
      { title: 'NEXT RUN', value: nextText },
      { title: 'LAST RUN', value: lastText },
    ],
    schedules,
  );
}

function runTable(runs: readonly ScheduleRunView[]): string {
  return formatTable(
    [
      { title: 'DUE', value: (run) => (run.dueAt === null ? 'by hand' : formatTime(run.dueAt)) },
      { title: 'STARTED', value: (run) => formatTime(run.startedAt) },
      { title: 'STATUS', value: (run) => run.status },
      { title: 'OUTCOME', value: (run) => run.message },
    ],
    runs,
  );
}

function scheduleText(view: ScheduleView): string {
  const copies = view.copies.map(({ establishedAt, lockedUntil, pairs }) => {
    const names = pairs.map(({ source, target }) => `${source}:${target}`).join(' ');
    const lock = lockedUntil === null ? '' : `, locked until ${formatTime(lockedUntil)}`;
    return `${names} (${formatTime(establishedAt)}${lock})`;
  });
  return formatFields([
    ['name', view.name],
    ['times', `${view.cron} (${view.timeZone})`],
    ['runs', workText(view)],
    ['when missed', view.missed === 'once' ? 'one run' : 'skipped'],
    ['next run', nextText(view)],
    ['last run', lastText(view)],
    ['outcome', view.lastRun?.message ?? '-'],
    ['copies', copies.length === 0 ? '-' : copies.join('; ')],
  ]);
}

function workText({ rotation, task }: ScheduleView): string {
  if (rotation === null) return `task ${task ?? ''}`;
  const sets = rotation.targetSets.map((set) => set.join(',')).join(' ');
  const { keep, lockSeconds } = rotation;
  const lock = lockSeconds === 0 ? '' : `, lock ${lockSeconds} s`;
  const options = Object.entries(rotation.options).map(([name, value]) =>
    value === true ? `, ${name}` : `, ${name} ${value}`,
  );
  return `${rotation.sources.join(' ')} to ${sets} (keep ${keep}${lock}${options.join('')})`;
}

function nextText({ nextRunAt }: ScheduleView): string {
  return nextRunAt === null ? 'switched off' : formatTime(nextRunAt);
}

function lastText({ lastRun }: ScheduleView): string {
  return lastRun === null ? '-' : `${formatTime(lastRun.startedAt)} ${lastRun.status}`;
}

function schedulePath(name: string): string {
  return `/v1/schedules/${encodeURIComponent(name)}`;
}
