/** `flashlun flashcopy ...`: what can be done with relationships that are there. */

import type { Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import { parsePair } from '../../base/ids.js';
import type {
  FlashcopiesView,
  FlashcopyView,
  UndosView,
  UndoView,
  UnfrozenView,
} from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import {
  checkWait,
  collectPairs,
  type CopyFlags,
  copyOptions,
  optionsOf,
  pairPath,
  pairText,
  parsePriority,
  parseRate,
} from '../copy-flags.js';
import { formatTable, formatTime } from '../output.js';
import { waitForCopies } from '../wait.js';

/** Adds the verbs to `flashcopy`. */
export function addFlashcopyVerbs(flashcopy: Command, context: CliContext): void {
  addResync(flashcopy, context);
  addReverse(flashcopy, context);
  addSet(flashcopy, context);
  addSimple(flashcopy, context);
  addUnfreeze(flashcopy, context);
  addUndo(flashcopy, context);
}

function addResync(flashcopy: Command, context: CliContext): void {
  copyOptions(jsonOption(flashcopy.command('resync')))
    .description('make the targets copies of what the sources are now, all at one point in time')
    .argument('<PAIRS...>', 'SOURCE:TARGET ...', collectPairs)
    .addHelpText(
      'after',
      '\nThe options replace those of the relationship: to keep --record and --persistent, give ' +
        'them again.\nOf a relationship with --record only what changed on either side is copied.',
    )
    .action((pairs: readonly string[], flags: CopyFlags, command: Command) => {
      checkWait(flags);
      const body = { pairs: pairs.map(parsePair), options: optionsOf(flags) };
      return withApi(context, command, async (api) => {
        const answer = await api.json<FlashcopiesView>('POST', '/v1/flashcopies/resync', {
          body,
          deadline: 'runMs',
        });
        const waiting =
          flags.wait === true && waitForCopies(context, api, answer.flashcopies, flags.timeout);
        const line = (view: FlashcopyView) =>
          `Resynced ${view.id}: T0 is ${formatTime(view.establishedAt)}.\n`;
        // One pair was asked for in the past, and scripts read the answer as one.
        const value = answer.flashcopies.length === 1 ? answer.flashcopies[0] : answer;
        print(context, command, value, () => answer.flashcopies.map(line).join(''));
        await waiting;
      });
    });
}

function addReverse(flashcopy: Command, context: CliContext): void {
  copyOptions(jsonOption(flashcopy.command('reverse')))
    .description('make the source a copy of what the target is now; they swap their roles')
    .argument('<PAIR>', 'SOURCE:TARGET, as it is now', pairText)
    .option('--fast', 'also while it is copied, or nocopy')
    .action((pair: string, flags: CopyFlags & { fast?: boolean }, command: Command) => {
      checkWait(flags);
      const options = { ...optionsOf(flags), ...(flags.fast === true ? { fast: true } : {}) };
      return withApi(context, command, async (api) => {
        const view = await api.json<FlashcopyView>('POST', `${pairPath(pair)}/reverse`, {
          body: { options },
          deadline: 'runMs',
        });
        const waiting = flags.wait === true && waitForCopies(context, api, [view], flags.timeout);
        print(
          context,
          command,
          view,
          () => `Reversed: ${view.target} is now the target of ${view.source}.\n`,
        );
        await waiting;
      });
    });
}

interface SetFlags {
  readonly copyRate?: number;
  readonly priority?: number;
}

function addSet(flashcopy: Command, context: CliContext): void {
  jsonOption(flashcopy.command('set'))
    .description('set rate and priority of a background copy, or the rate of all together')
    .argument('[PAIR]', 'SOURCE:TARGET; without it the rate is that of the array', pairText)
    .option('--copy-rate <MB/s>', 'or unlimited', parseRate)
    .option('--priority <0-9>', 'higher ones are copied first', parsePriority)
    .action((pair: string | undefined, flags: SetFlags, command: Command) => {
      const { copyRate: copyBytesPerSecond, priority } = flags;
      if (copyBytesPerSecond === undefined && priority === undefined) {
        throw new FlashlunError('USAGE', 'nothing to set. Give --copy-rate or --priority.');
      }
      if (pair === undefined && priority !== undefined) {
        throw new FlashlunError('USAGE', 'a priority is that of one pair. Name it.');
      }
      const body = {
        ...(copyBytesPerSecond === undefined ? {} : { copyBytesPerSecond }),
        ...(priority === undefined ? {} : { priority }),
      };
      const path = pair === undefined ? '/v1/copyservices' : pairPath(pair);
      return withApi(context, command, async (api) => {
        const view = await api.json('PATCH', path, { body });
        print(context, command, view, () => `Set ${pair ?? 'the rate of all copies'}.\n`);
      });
    });
}

function addSimple(flashcopy: Command, context: CliContext): void {
  const add = (name: string, description: string, line: (view: FlashcopyView) => string) =>
    jsonOption(flashcopy.command(name))
      .description(description)
      .argument('<PAIR>', 'SOURCE:TARGET', pairText)
      .action((pair: string, _flags: unknown, command: Command) =>
        withApi(context, command, async (api) => {
          const path = `${pairPath(pair)}/${name}`;
          const view = await api.json<FlashcopyView>('POST', path, { deadline: 'runMs' });
          print(context, command, view, () => `${line(view)}\n`);
        }),
      );
  add(
    'copy',
    'begin the background copy of a nocopy relationship',
    (view) => `Copying ${view.id}: ${view.outOfSyncTracks} tracks.`,
  );
  add('pause', 'hold up a background copy, also over restarts', (view) => `Paused ${view.id}.`);
  add('resume', 'let a background copy go on', (view) => `Resumed ${view.id}.`);
  add(
    'set-revertible',
    'resync, and keep the image of before until commit or revert',
    (view) => `${view.id} is revertible: T0 is ${formatTime(view.establishedAt)}.`,
  );
  add('commit', 'give up the image before a revertible resync', (view) => `Committed ${view.id}.`);
  add(
    'revert',
    'make the target the image before a revertible resync again',
    (view) => `Reverted ${view.id}: T0 is ${formatTime(view.establishedAt)} again.`,
  );
}

function addUnfreeze(flashcopy: Command, context: CliContext): void {
  jsonOption(flashcopy.command('unfreeze'))
    .description('"Consistency Created": hosts of these LSSs may write again; did the group hold?')
    .argument('<LSS...>', 'for example 12 13')
    .action((lss: readonly string[], _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<UnfrozenView>('POST', '/v1/consistency-groups/unfreeze', {
          body: { lss },
        });
        print(context, command, answer, () => answer.lss.map(unfrozenLine).join(''));
        const broken = answer.lss.flatMap(({ expired }) => expired);
        if (broken.length === 0) return;
        throw new FlashlunError(
          'FC_FREEZE_EXPIRED',
          `the time limit had thawed ${broken.join(', ')} before: the copies are not one point ` +
            'in time. Establish the group again.',
        );
      }),
    );
}

function unfrozenLine({ lss, released, expired, frozenMs }: UnfrozenView['lss'][number]): string {
  if (released.length === 0 && expired.length === 0) return `LSS ${lss}: nothing was frozen.\n`;
  const held = `${released.length} of ${released.length + expired.length} sources held`;
  return `LSS ${lss}: unfrozen after ${(frozenMs / 1000).toFixed(3)} s, ${held}.\n`;
}

function addUndo(flashcopy: Command, context: CliContext): void {
  jsonOption(flashcopy.command('undo'))
    .description('make the target of an establish what it was before; without one, list them')
    .argument('[TARGET]', 'id, serial or name')
    .action((ref: string | undefined, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        if (ref === undefined) {
          const answer = await api.json<UndosView>('GET', '/v1/undo');
          return print(context, command, answer, () => undoTable(answer.undo));
        }
        const path = `/v1/volumes/${encodeURIComponent(ref)}/undo`;
        const view = await api.json<UndoView>('POST', path, { deadline: 'runMs' });
        print(
          context,
          command,
          view,
          () => `${view.volume} is what it was before ${view.pair} was established.\n`,
        );
      }),
    );
}

function undoTable(rows: readonly UndoView[]): string {
  return formatTable(
    [
      { title: 'TARGET', value: (row) => row.volume },
      { title: 'OVERWRITTEN BY', value: (row) => row.pair },
      { title: 'AT', value: (row) => formatTime(row.takenAt) },
      { title: 'KEPT UNTIL', value: (row) => formatTime(row.keptUntil) },
    ],
    rows,
  );
}
