/**
 * `flashlun serve`: one server in this process, from configuration to SIGTERM.
 *
 * Stdout is for the person who started it: where things are, the first password, what to try.
 * Stderr has the log, JSON lines.
 */

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { stringify as stringifyYaml } from 'yaml';
import { LIMITS } from './base/limits.js';
import { createLogger, type Logger } from './base/log.js';
import { formatSize } from './base/units.js';
import {
  type Config,
  printableConfig,
  readConfigFile,
  resolveConfig,
  type ServeOptions,
} from './config.js';
import { sdNotify } from './engine/index.js';
import { ADMIN_USER } from './first-start.js';
import { FlashlunServer } from './server.js';

export { resolveConfig, type ServeOptions } from './config.js';

const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const;
/** What a shell reports for a process ended by signal n is 128 + n. */
const SIGNAL_EXIT = { SIGTERM: 143, SIGINT: 130 } as const;

/**
 * Runs the server until SIGTERM or SIGINT, then stops it in good order; a second signal ends the
 * process at once, which loses nothing that was acknowledged.
 *
 * @throws FlashlunError with the reason why it cannot start; see FlashlunServer.start
 */
export async function serve(options: ServeOptions): Promise<void> {
  const config = resolveConfig(options, process.env, readConfigFile(options, process.env));
  if (options.printConfig === true) {
    process.stdout.write(stringifyYaml(printableConfig(config)));
    return;
  }
  // Everything below DATA is for this user alone, the files of the pool included.
  process.umask(0o077);
  // On a terminal the summary is what people want to see; the log joins in when something is wrong.
  const level = config.logLevel ?? (process.stderr.isTTY ? 'warn' : 'info');
  const log = createLogger({ level });
  surviveLostSummary(log);
  try {
    await run(config, log);
  } finally {
    endWithoutReaders();
  }
}

async function run(config: Config, log: Logger): Promise<void> {
  const stopSignal = firstSignal();
  const version = packageVersion();
  const server = await FlashlunServer.start({
    config,
    log,
    version,
    adminPassword: process.env['FLASHLUN_ADMIN_PASSWORD'],
  });
  // Without TLS it keeps its meaning: the terminal is gone.
  if (config.nbdTls !== undefined) process.on('SIGHUP', () => server.reloadTls());
  process.stdout.write(summary(server, config, version));
  tellSystemd('READY=1', log);
  const end = await Promise.race([stopSignal, server.givenTo]);
  if (typeof end === 'number') {
    // systemd must not take the end of this process for the end of the service.
    tellSystemd(`MAINPID=${end}`, log);
    log.info({ pid: end }, 'ends: another server has taken over');
    return;
  }
  const signal = end;
  log.info({ signal }, 'stopping');
  tellSystemd('STOPPING=1', log);
  await server.stop();
  log.info('stopped');
}

/** A summary that nobody reads, or on a full disk: the volumes are served anyway. */
function surviveLostSummary(log: Logger): void {
  // In place of what the commands do, whose output is their purpose.
  process.stdout.removeAllListeners('error');
  process.stdout.on('error', (error) => {
    log.warn({ err: error }, 'the summary could not be written to stdout');
  });
}

/** Output that waits for a reader who never comes would keep this process alive for ever. */
function endWithoutReaders(): void {
  setTimeout(() => process.exit(), LIMITS.outputFlushMs).unref();
}

/** Resolves at the first stop signal; from then on the next one ends the process. */
function firstSignal(): Promise<string> {
  return new Promise((resolve) => {
    let stopping = false;
    for (const signal of STOP_SIGNALS) {
      process.on(signal, () => {
        if (stopping) process.exit(SIGNAL_EXIT[signal]);
        stopping = true;
        resolve(signal);
      });
    }
  });
}

/** Without effect unless systemd started us (Type=notify). */
function tellSystemd(state: string, log: Logger): void {
  try {
    sdNotify(state);
  } catch (error) {
    log.warn({ err: error }, 'systemd could not be told');
  }
}

function packageVersion(): string {
  const file = new URL('../package.json', import.meta.url);
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  return version;
}

/** What the person at the terminal needs next. */
function summary(server: FlashlunServer, config: Config, version: string): string {
  const { array, addresses, newPassword } = server;
  const volumes = array.volumes();
  const total = volumes.reduce((sum, volume) => sum + volume.sizeBytes, 0);
  const example = array.list()[0]?.name ?? 'SERIAL';
  const lines = [
    `flashlun ${version}: ESS ${array.machine}, ${volumes.length} volumes, ${formatSize(total)}`,
    `  data      ${config.dataDir}`,
  ];
  const scheme = config.nbdTls?.mode === 'require' ? 'nbds' : 'nbd';
  if (addresses.nbd.tcp !== null) {
    lines.push(`  NBD       ${scheme}://${addresses.nbd.tcp}/${example}`);
  }
  if (addresses.nbd.unix !== null) {
    lines.push(`  NBD       ${scheme}+unix:///${example}?socket=${addresses.nbd.unix}`);
  }
  lines.push(`  HTTP      ${addresses.http}/v1`);
  if (newPassword !== undefined) {
    const file = path.join(config.dataDir, 'admin-password');
    lines.push(`  log in    user ${ADMIN_USER}, password ${newPassword} (kept in ${file})`);
  }
  const command = `${commandName()}${dataOption(config.dataDir)}`;
  lines.push('', 'Try next, in another terminal:', `  ${command} volume list`);
  const pair = examplePair(volumes.map(({ id }) => id));
  if (pair !== undefined) lines.push(`  ${command} flashcopy establish ${pair}`);
  lines.push('', 'Ready. Stop with Ctrl-C or SIGTERM.', '');
  return lines.join('\n');
}

/** As the person who started us can type it: `bin/flashlun` in a checkout, `flashlun` elsewhere. */
function commandName(): string {
  const script = path.relative(process.cwd(), process.argv[1] ?? '');
  return script === '' || script.startsWith('..') ? 'flashlun' : script;
}

/** The client commands find ./data by themselves. */
function dataOption(dataDir: string): string {
  return dataDir === path.resolve('data') ? '' : ` --data ${dataDir}`;
}

/** The pair of the white paper when there is one. */
function examplePair(ids: readonly string[]): string | undefined {
  if (ids.includes('1203') && ids.includes('1303')) return '1203:1303';
  const [source, target] = ids;
  return source === undefined || target === undefined ? undefined : `${source}:${target}`;
}
