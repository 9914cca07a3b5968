/** rsPrimeServer: tells the server what this host calls its disks (Figures 5 and 6). */

import { FlashlunError } from '../../base/errors.js';
import { type EssCommand, withServer } from '../command.js';
import { localDisks } from '../disks.js';
import { EXIT, step, StepFailure } from '../exit.js';
import { MESSAGES } from '../messages.js';

export const PRIME_SERVER: EssCommand = {
  name: 'rsPrimeServer',
  server: true,
  words: { what: 'word', least: 0, most: 0 },
  synopsis: '',
  help:
    'Registers this host and its disk names with the Copy Services server, which then shows\n' +
    'volumes under the names they have here. Replaces what it was told before.\n',
  saysSuccessful: true,
  run: async (run) => {
    const { args, env, host, transcript } = run;
    const disks = localDisks(env);
    if (disks.length === 0) {
      const hint = `${MESSAGES.noDisks}: attach some, or name them in RS_DISKS. Nothing was sent.`;
      throw new StepFailure(EXIT.taskFailed, [], new FlashlunError('NOT_FOUND', hint));
    }
    await withServer(
      run,
      async ({ api, clientId }) => {
        const body = { clientId, disks };
        await step(
          () => api.json('POST', '/v1/copyservices/prime', { body }),
          EXIT.taskFailed,
          MESSAGES.primeRefused,
        );
        transcript.step(MESSAGES.hostRegistered(host.name));
        transcript.step(MESSAGES.configurationChange(args.server));
      },
      true,
    );
  },
};
