/** rsList2105s: the ESS disks of this host. Needs no server. */

import type { EssCommand } from '../command.js';
import { localDisks } from '../disks.js';
import { MESSAGES } from '../messages.js';
import { NAME_COLUMN, table } from '../table.js';

export const LIST_2105S: EssCommand = {
  name: 'rsList2105s',
  server: false,
  words: { what: 'word', least: 0, most: 0 },
  synopsis: '',
  help: 'Lists the disks of this host that are volumes of an ESS, with their serial numbers.\n',
  saysSuccessful: false,
  run: async ({ env, transcript }) => {
    const disks = localDisks(env);
    const rows = disks.map(({ name, serial }) => [name, serial]);
    for (const line of table(MESSAGES.disksHeader, rows, NAME_COLUMN)) transcript.outcome(line);
    if (disks.length === 0) transcript.note(`rsList2105s: ${MESSAGES.noDisks}.`);
  },
};
