/** rsQuery and rsFlashCopyQuery: the state of volumes. Their layout is ours. */

import { readFileSync } from 'node:fs';
import type { ApiClient } from '../../base/api-client.js';
import { fileReason } from '../../base/command-line.js';
import { LIMITS } from '../../base/limits.js';
import { type Arguments, type ArgumentSpec, usage } from '../arguments.js';
import { type EssCommand, type Run, withServer } from '../command.js';
import { EXIT, step } from '../exit.js';
import { MESSAGES } from '../messages.js';
import { table } from '../table.js';
import { formatTimestamp } from '../transcript.js';

/** Of the server's answers, what is used here. */
interface Volume {
  readonly id: string;
  readonly serial: string;
}

interface Relationship {
  readonly source: string;
  readonly target: string;
  readonly sourceSerial: string;
  readonly targetSerial: string;
  readonly copyMode: string;
  readonly state: string;
  readonly outOfSyncTracks: number;
  readonly totalTracks: number;
  readonly copiedPercent: number;
  readonly establishedAt: string;
}

const OWN_OPTIONS = { q: 'VOLUME[,VOLUME...]', f: 'FILE' } as const;
const OWN_HELP = `  /q VOLUMES    serial numbers or volume ids, separated by commas
  /f FILE       a file of them, separated by blanks or line ends; # begins a comment
`;

export const QUERY: EssCommand = {
  name: 'rsQuery',
  server: true,
  values: OWN_OPTIONS,
  words: { what: 'volume', least: 0, most: LIMITS.essCliVolumes },
  synopsis: '[/q VOLUMES] [/f FILE] [VOLUME...]',
  help: `Shows the FlashCopy and PPRC state of volumes.\n\n${OWN_HELP}`,
  saysSuccessful: false,
  run: (run) => {
    const refs = volumesOf(run.spec, run.args);
    if (refs.length === 0) throw usage(run.spec, 'no volume given: use /q, /f or name them');
    return withServer(run, async ({ api }) => {
      const rows = await step(() => queryRows(api, refs), EXIT.taskFailed, refusal(run));
      print(run, MESSAGES.queryHeader, rows);
    });
  },
};

export const FLASHCOPY_QUERY: EssCommand = {
  name: 'rsFlashCopyQuery',
  server: true,
  values: OWN_OPTIONS,
  words: { what: 'volume', least: 0, most: LIMITS.essCliVolumes },
  synopsis: '[/q VOLUMES] [/f FILE] [VOLUME...]',
  help: `Shows the FlashCopy relationships of volumes, or all.\n\n${OWN_HELP}`,
  saysSuccessful: false,
  run: (run) => {
    const refs = volumesOf(run.spec, run.args);
    return withServer(run, async ({ api }) => {
      const found = await step(() => relationshipsOf(api, refs), EXIT.taskFailed, refusal(run));
      if (found.length === 0) run.transcript.outcome(MESSAGES.noRelationships);
      else print(run, MESSAGES.flashCopyHeader, found.map(relationshipRow));
    });
  },
};

function refusal({ spec }: Run): string {
  return MESSAGES.queryRefused(spec.name);
}

function print(run: Run, header: readonly string[], rows: readonly string[][]): void {
  for (const line of table(header, rows)) run.transcript.outcome(line);
}

/** All volumes named, each once. @throws FlashlunError USAGE */
function volumesOf(spec: ArgumentSpec, { values, words }: Arguments): string[] {
  const { f: file, q: list } = values;
  const named = [...(list ?? '').split(','), ...(file === undefined ? [] : readList(spec, file))];
  const refs = [...named, ...words].map((ref) => ref.trim()).filter((ref) => ref !== '');
  const unique = [...new Set(refs)];
  if (unique.length > LIMITS.essCliVolumes) {
    throw usage(spec, `${unique.length} volumes, and ${LIMITS.essCliVolumes} are the most`);
  }
  const bad = unique.find((ref) => !/^[\x21-\x7e]{1,64}$/.test(ref));
  if (bad !== undefined) throw usage(spec, 'a volume is a serial number, id or name in ASCII');
  return unique;
}

function readList(spec: ArgumentSpec, file: string): string[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw usage(spec, `cannot read ${file}: ${fileReason(error)}`);
  }
  if (text.length > LIMITS.essCliFileBytes) throw usage(spec, `${file} is too long for a list`);
  return text.replace(/#.*$/gm, '').split(/\s+/);
}

/** Serial, volume, roles in FlashCopy, and PPRC, in which no volume of this array can be. */
async function queryRows(api: ApiClient, refs: readonly string[]): Promise<string[][]> {
  const volumes = await volumesNamed(api, refs);
  const all = await relationships(api);
  return [...volumes.values()].map(({ id, serial }) => {
    const targets = all.filter(({ source }) => source === id).length;
    const isTarget = all.some(({ target }) => target === id);
    const roles = [
      ...(targets > 0 ? [`source of ${targets}`] : []),
      ...(isTarget ? ['target'] : []),
    ];
    return [serial, id, roles.length === 0 ? 'none' : roles.join(', '), 'SIMPLEX'];
  });
}

/** The volumes by id, in the order in which they are named first. */
async function volumesNamed(
  api: ApiClient,
  refs: readonly string[],
): Promise<ReadonlyMap<string, Volume>> {
  const byId = new Map<string, Volume>();
  for (const ref of refs) {
    const volume = await api.json<Volume>('GET', `/v1/volumes/${encodeURIComponent(ref)}`);
    byId.set(volume.id, volume);
  }
  return byId;
}

async function relationships(api: ApiClient): Promise<Relationship[]> {
  const answer = await api.json<{ flashcopies: Relationship[] }>('GET', '/v1/flashcopies');
  return answer.flashcopies;
}

/** Relationships in which one of the volumes is source or target; all when none is named. */
async function relationshipsOf(api: ApiClient, refs: readonly string[]): Promise<Relationship[]> {
  const volumes = await volumesNamed(api, refs);
  const all = await relationships(api);
  if (refs.length === 0) return all;
  return all.filter(({ source, target }) => volumes.has(source) || volumes.has(target));
}

function relationshipRow(each: Relationship): string[] {
  return [
    each.sourceSerial,
    each.targetSerial,
    each.state,
    each.copyMode,
    String(each.outOfSyncTracks),
    String(each.totalTracks),
    `${Math.floor(each.copiedPercent)}%`,
    formatTimestamp(new Date(each.establishedAt)),
  ];
}
