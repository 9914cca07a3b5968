/** rsTestConnection: can the Copy Services server be reached? */

import { type EssCommand, heartbeat } from '../command.js';

export const TEST_CONNECTION: EssCommand = {
  name: 'rsTestConnection',
  server: true,
  words: { what: 'word', least: 0, most: 0 },
  synopsis: '',
  help: 'Asks the Copy Services server for a sign of life. User and password are not used.\n',
  saysSuccessful: true,
  run: async (run) => {
    await heartbeat(run);
  },
};
