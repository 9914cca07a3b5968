/** `flashlun flashcopy ...`: establish, watch, copy again and withdraw relationships. */

import type { Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import { parsePair } from '../../base/ids.js';
import type { FlashcopiesView, FlashcopyView } from '../api-types.js';
import { type CliContext, jsonOption, parseSeconds, print, withApi } from '../context.js';
import { type Column, formatFields, formatPercent, formatTable, formatTime } from '../output.js';
import { waitForCopies } from '../wait.js';

interface EstablishFlags {
  readonly nocopy?: boolean;
  readonly wait?: boolean;
  readonly timeout?: number;
}

const COLUMNS: readonly Column<FlashcopyView>[] = [
  { title: 'PAIR', value: (pair) => pair.id },
  { title: 'MODE', value: (pair) => pair.copyMode },
  { title: 'STATE', value: (pair) => pair.state },
  { title: 'OUT OF SYNC', value: (pair) => pair.outOfSyncTracks },
  { title: 'TRACKS', value: (pair) => pair.totalTracks },
  { title: 'COPIED', value: (pair) => formatPercent(pair.copiedPercent) },
  { title: 'ESTABLISHED', value: (pair) => formatTime(pair.establishedAt) },
];

/** Adds `flashcopy` and its subcommands to the program. */
export function addFlashcopyCommands(program: Command, context: CliContext): void {
  const flashcopy = program
    .command('flashcopy')
    .alias('fc')
    .description('point-in-time copies of LUNs');
  addEstablish(flashcopy, context);

  jsonOption(flashcopy.command('list'))
    .alias('ls')
    .description('list the relationships')
    .argument('[VOLUME]', 'only those of this source or target')
    .action((ref: string | undefined, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const query = ref === undefined ? '' : `?volume=${encodeURIComponent(ref)}`;
        const answer = await api.json<FlashcopiesView>('GET', `/v1/flashcopies${query}`);
        print(context, command, answer, () => formatTable(COLUMNS, answer.flashcopies));
      }),
    );

  jsonOption(flashcopy.command('show'))
    .description('show one relationship')
    .argument('<PAIR>', 'SOURCE:TARGET', pairText)
    .action((pair: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const view = await api.json<FlashcopyView>('GET', pairPath(pair));
        print(context, command, view, () => relationshipText(view));
      }),
    );

  addAgain(flashcopy, context);

  flashcopy
    .command('withdraw')
    .description('end relationships; both volumes keep what they show')
    .argument('<PAIRS...>', 'SOURCE:TARGET ...', collectPairs)
    .action((pairs: readonly string[], _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        for (const pair of pairs) {
          await api.json('DELETE', pairPath(pair), { deadline: 'runMs' });
          context.stdout.write(`Withdrew ${pair}.\n`);
        }
      }),
    );
}

function addAgain(flashcopy: Command, context: CliContext): void {
  const add = (name: string, description: string, line: (view: FlashcopyView) => string) =>
    jsonOption(flashcopy.command(name))
      .description(description)
      .argument('<PAIR>', 'SOURCE:TARGET', pairText)
      .action((pair: string, _flags: unknown, command: Command) =>
        withApi(context, command, async (api) => {
          const path = `${pairPath(pair)}/${name}`;
          const view = await api.json<FlashcopyView>('POST', path, { deadline: 'runMs' });
          print(context, command, view, () => line(view));
        }),
      );
  add(
    'resync',
    'make the target a copy of what the source is now',
    (view) => `Resynced ${view.id}: T0 is ${formatTime(view.establishedAt)}.\n`,
  );
  add(
    'reverse',
    'make the source a copy of what the target is now; they swap their roles',
    (view) => `Reversed: ${view.target} is now the target of ${view.source}.\n`,
  );
}

function addEstablish(flashcopy: Command, context: CliContext): void {
  jsonOption(flashcopy.command('establish'))
    .description('make each target a copy of its source, all at the same point in time')
    .argument('<PAIRS...>', 'SOURCE:TARGET ... (id, serial or name)', collectPairs)
    .option('--nocopy', 'no background copy: the relationship stays until it is withdrawn')
    .option('--wait', 'return when every track has been copied')
    .option('--timeout <SECONDS>', 'with --wait: give up waiting after this time', parseSeconds)
    .addHelpText(
      'after',
      '\nExamples:\n  flashlun flashcopy establish 1203:1303' +
        '\n  flashlun flashcopy establish 1203:1303 1204:1304 --nocopy' +
        '\n  flashlun flashcopy establish 1203:1303 --wait --timeout 600',
    )
    .action((pairs: readonly string[], flags: EstablishFlags, command: Command) =>
      establish(context, pairs, flags, command),
    );
}

function establish(
  context: CliContext,
  pairs: readonly string[],
  flags: EstablishFlags,
  command: Command,
): Promise<void> {
  if (flags.wait === true && flags.nocopy === true) {
    throw new FlashlunError(
      'USAGE',
      '--wait with --nocopy would never end. Leave one of them out.',
    );
  }
  if (flags.timeout !== undefined && flags.wait !== true) {
    throw new FlashlunError('USAGE', '--timeout is only used with --wait. Add --wait.');
  }
  const body = { pairs: pairs.map(parsePair), options: { noCopy: flags.nocopy === true } };
  return withApi(context, command, async (api) => {
    const answer = await api.json<FlashcopiesView>('POST', '/v1/flashcopies', {
      body,
      deadline: 'runMs',
    });
    // Listens for Ctrl-C before it says that the copy is established, so that one right after the
    // line stops the waiting and not the process.
    const waiting =
      flags.wait === true
        ? waitForCopies(context, api, answer.flashcopies, flags.timeout)
        : undefined;
    print(context, command, answer, () => answer.flashcopies.map(establishedLine).join(''));
    await waiting;
  });
}

function establishedLine(view: FlashcopyView): string {
  const how =
    view.copyMode === 'nocopy'
      ? 'nocopy, stays until withdrawn'
      : `background copy of ${view.outOfSyncTracks} tracks`;
  return `Established ${view.id} (${how}).\n`;
}

function relationshipText(view: FlashcopyView): string {
  return formatFields([
    ['pair', view.id],
    ['source', view.source],
    ['target', view.target],
    ['mode', view.copyMode],
    ['state', view.state],
    ['established', formatTime(view.establishedAt)],
    ['out-of-sync tracks', `${view.outOfSyncTracks} of ${view.totalTracks}`],
    ['copied', formatPercent(view.copiedPercent)],
    ['problem', view.problem ?? '-'],
  ]);
}

/** `S:T` checked and normalised. @throws FlashlunError INVALID_ARGUMENT */
export function pairText(text: string): string {
  const { source, target } = parsePair(text);
  return `${source}:${target}`;
}

/** commander calls it once per word of a variadic argument. */
export function collectPairs(text: string, earlier: readonly string[] = []): string[] {
  return [...earlier, pairText(text)];
}

function pairPath(pair: string): string {
  return `/v1/flashcopies/${encodeURIComponent(pair)}`;
}
