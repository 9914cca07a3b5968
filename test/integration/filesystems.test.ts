/** Real file systems on a LUN and on its FlashCopy, through nbdfuse and a loop device. */
import { describe, expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { FILE_SYSTEM_TOOLS, FILE_SYSTEMS, fileSystemScenario } from '../helpers/file-systems.js';
import { requires } from '../helpers/requires.js';
import { startServer } from '../helpers/server.js';

const PAIR = '1203:1303';

describe.each(FILE_SYSTEMS)('$name', (system) => {
  test.for([
    { mode: 'background copy', noCopy: false },
    { mode: 'nocopy', noCopy: true },
  ])('B keeps every file of T0 while A is rewritten ($mode)', async ({ noCopy }, context) => {
    requires(context, ...FILE_SYSTEM_TOOLS, ...system.tools);
    await scoped(async (scope) => {
      const server = await startServer(scope);
      await fileSystemScenario(scope, system, {
        a: [server.unixUri('20313698')],
        b: [server.unixUri('30313698')],
        establish: () => server.api.establish([PAIR], noCopy),
        afterwards: async () => {
          if (!noCopy) return server.api.copied(PAIR);
          const copies = await server.api.flashcopies();
          expect(copies.map((copy) => copy.id)).toEqual([PAIR]);
        },
      });
    });
  });
});
