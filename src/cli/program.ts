/** The command tree of `flashlun`. */

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { addConnectionCommands } from './commands/connection.js';
import { addFlashcopyCommands } from './commands/flashcopy.js';
import { addHostCommands } from './commands/host.js';
import { addInventoryCommands } from './commands/inventory.js';
import { addPoolCommands } from './commands/pool.js';
import { addScheduleCommands } from './commands/schedule.js';
import { addServeCommand } from './commands/serve.js';
import { addTaskCommands } from './commands/task.js';
import { addVerifyCommand } from './commands/verify.js';
import { addAttachCommand, addVolumeCommands } from './commands/volume.js';
import type { CliContext } from './context.js';

const EPILOGUE = `
Start here:
  flashlun serve                              the server, with ./data
  flashlun volume list
  flashlun attach 1203 --format qemu
  flashlun flashcopy establish 1203:1303 --wait

Where the server is: --server, else --data, else FLASHLUN_SERVER, else ./data, else 127.0.0.1:8452.
On the server's own machine the data directory also gives user and password.

Exit codes: 0 ok, 2 usage, 3 cannot connect, 4 server error, 5 authentication,
            6 refused by a rule, 7 pool check: the next start repairs.`;

/** Builds the program. Parsing errors are thrown as CommanderError; nothing is written for them. */
export function buildProgram(context: CliContext): Command {
  const program = new Command('flashlun');
  // Before the subcommands: they inherit both.
  program.exitOverride().configureOutput({
    writeOut: (text) => context.stdout.write(text),
    writeErr: (text) => context.stderr.write(text),
    // main.ts prints the one line there is to say.
    outputError: () => undefined,
  });
  program
    .description('LUNs of an IBM ESS storage array for virtual machines, with FlashCopy')
    .version(readVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .configureHelp({ showGlobalOptions: true })
    .option('-s, --server <SERVER>', 'server: host, host:port or URL [FLASHLUN_SERVER]')
    .option('-u, --user <USER>', 'user [FLASHLUN_USER] (default: admin)')
    .option('-p, --password <PASSWORD>', 'password, @FILE or @- for stdin [FLASHLUN_PASSWORD]')
    .option('--data <DIR>', 'data directory of a server on this machine [FLASHLUN_DATA]')
    .addHelpText('after', EPILOGUE);
  addServeCommand(program);
  addVolumeCommands(program, context);
  addAttachCommand(program, context);
  addHostCommands(program, context);
  addConnectionCommands(program, context);
  addFlashcopyCommands(program, context);
  addVerifyCommand(program, context);
  addTaskCommands(program, context);
  addScheduleCommands(program, context);
  addPoolCommands(program, context);
  addInventoryCommands(program, context);
  return program;
}

/** From package.json, two folders up from both src/cli and dist/cli. */
function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
