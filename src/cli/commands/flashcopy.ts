/** `flashlun flashcopy ...`: establish, watch, copy again and withdraw relationships. */

import type { Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import { parsePair } from '../../base/ids.js';
import { MIB } from '../../base/units.js';
import type { FlashcopiesView, FlashcopyView } from '../api-types.js';
import { type CliContext, jsonOption, parseSeconds, print, withApi } from '../context.js';
import {
  checkWait,
  collectPairs,
  type CopyFlags,
  copyOptions,
  optionsOf,
  pairPath,
  pairText,
} from '../copy-flags.js';
import { type Column, formatFields, formatPercent, formatTable, formatTime } from '../output.js';
import { waitForCopies } from '../wait.js';
import { addFlashcopyVerbs } from './flashcopy-verbs.js';

export { collectPairs, pairText } from '../copy-flags.js';

export interface EstablishFlags extends CopyFlags {
  readonly freeze?: boolean;
  readonly freezeLimit?: number;
  readonly atomic?: boolean;
  readonly force?: boolean;
  readonly undo?: number;
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

  addFlashcopyVerbs(flashcopy, context);

  flashcopy
    .command('withdraw')
    .description('end relationships; both volumes keep what they show')
    .option('--complete', 'copy what is left first: they end by themselves then')
    .argument('<PAIRS...>', 'SOURCE:TARGET ...', collectPairs)
    .action((pairs: readonly string[], flags: { complete?: boolean }, command: Command) =>
      withApi(context, command, async (api) => {
        const complete = flags.complete === true;
        for (const pair of pairs) {
          const path = `${pairPath(pair)}${complete ? '?complete=true' : ''}`;
          await api.json('DELETE', path, { deadline: 'runMs' });
          const line = complete ? `${pair} ends when all is copied.` : `Withdrew ${pair}.`;
          context.stdout.write(`${line}\n`);
        }
      }),
    );
}

function addEstablish(flashcopy: Command, context: CliContext): void {
  groupOptions(copyOptions(jsonOption(flashcopy.command('establish'))))
    .description('make each target a copy of its source, all at the same point in time')
    .argument('<PAIRS...>', 'SOURCE:TARGET ... (id, serial or name)', collectPairs)
    .addHelpText(
      'after',
      '\nExamples:\n  flashlun flashcopy establish 1203:1303' +
        '\n  flashlun flashcopy establish 1203:1303 1204:1304 --nocopy' +
        '\n  flashlun flashcopy establish 1203:1303 --wait --timeout 600' +
        '\n  flashlun flashcopy establish 1203:1303 --record --persistent   # then: resync' +
        '\n  flashlun flashcopy establish 1203:1303 1304:1204 --freeze      # then: unfreeze 12 13',
    )
    .action((pairs: readonly string[], flags: EstablishFlags, command: Command) =>
      establish(context, pairs, flags, command),
    );
}

/** Of an establish alone. */
export function groupOptions(command: Command): Command {
  return command
    .option('--atomic', 'one point in time for all pairs, without a freeze; always so')
    .option('--freeze', 'hold up what hosts write to the sources until "flashcopy unfreeze LSS"')
    .option('--freeze-limit <SECONDS>', 'with --freeze: and no longer than so', parseSeconds)
    .option('--force', 'also onto a target that hosts have written')
    .option('--undo <SECONDS>', 'keep what the targets held for so long', parseUndo);
}

function establish(
  context: CliContext,
  pairs: readonly string[],
  flags: EstablishFlags,
  command: Command,
): Promise<void> {
  checkWait(flags);
  const body = { pairs: pairs.map(parsePair), options: establishOptions(flags) };
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

export function establishOptions(flags: EstablishFlags): Record<string, unknown> {
  return {
    ...optionsOf(flags),
    ...(flags.freeze === true ? { freeze: true } : {}),
    ...(flags.freezeLimit === undefined ? {} : { freezeSeconds: flags.freezeLimit }),
    ...(flags.atomic === true ? { atomic: true } : {}),
    ...(flags.force === true ? { force: true } : {}),
    ...(flags.undo === undefined ? {} : { undoSeconds: flags.undo }),
  };
}

/** @throws FlashlunError USAGE */
function parseUndo(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new FlashlunError('USAGE', `'${text.slice(0, 40)}' is not a number of seconds; 0: none.`);
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
    ['persistent', yesNo(view.persistent)],
    ['change recording', yesNo(view.recording)],
    ['revertible', yesNo(view.revertible)],
    ['target writes', view.targetWriteEnabled ? 'enabled' : 'inhibited'],
    ['background copy', copyText(view)],
    ['consistency group', freezeText(view)],
    ['out-of-sync tracks', `${view.outOfSyncTracks} of ${view.totalTracks}`],
    ['copied', formatPercent(view.copiedPercent)],
    ['problem', view.problem ?? '-'],
  ]);
}

function yesNo(value: boolean): string {
  return value ? 'yes' : 'no';
}

function copyText(view: FlashcopyView): string {
  if (view.state !== 'copying' && view.outOfSyncTracks === 0) return 'done';
  if (view.copyMode === 'nocopy') return 'none';
  const how = view.paused ? 'paused' : view.activeCopy ? 'active' : 'queued';
  const rate = view.copyBytesPerSecond;
  const limit = rate === null ? '' : `, at most ${(rate / MIB).toFixed(1)} MB/s`;
  return `${how}, priority ${view.priority}${limit}`;
}

function freezeText(view: FlashcopyView): string {
  const seconds = (view.frozenMs / 1000).toFixed(3);
  switch (view.freeze) {
    case 'none':
      return '-';
    case 'frozen':
      return 'the source is frozen';
    case 'created':
      return `created, frozen for ${seconds} s`;
    case 'expired':
      return `not consistent: thawed by the time limit after ${seconds} s`;
  }
}
