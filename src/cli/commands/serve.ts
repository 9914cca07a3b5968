/**
 * `flashlun serve`: the server itself. The rest of the program is loaded only here, so that the
 * client commands start fast and work on a machine without the addon.
 */

import { type Command, Option } from 'commander';

/**
 * Adds `serve` to the program. Values are passed on as typed: the server's configuration checks
 * them in one place.
 */
export function addServeCommand(program: Command): void {
  program
    .command('serve')
    .description('run the storage server in this process, until SIGTERM or SIGINT')
    // The global options are those of clients. --data is one of them, so the program takes it; here
    // it only says what it means to a server.
    .configureHelp({ showGlobalOptions: false })
    .option('--data <DIR>', 'where everything is kept (default: ./data)')
    .option('--config <FILE>', 'YAML file with these options as keys, without the dashes')
    .option('--nbd <HOST:PORT>', 'NBD over TCP, or none (default: 127.0.0.1:10809)')
    .option('--nbd-unix <PATH>', 'NBD unix socket, or none (default: DATA/nbd.sock)')
    .option('--http <HOST:PORT>', 'HTTP API and metrics (default: 127.0.0.1:8452)')
    .option('--ess-serial <SERIAL>', 'five characters (default: 13698); fixed at the first start')
    .option('--no-demo', 'start empty: no demo volumes in a new data directory')
    .option('--pool-capacity <SIZE>', 'most bytes the pool may use; fixed at the first start')
    .option('--meta-mirror <PATH>', 'second file for the metadata, on another disk; or none')
    .option('--copy-rate <MB/s>', 'background copies, all together (default: unlimited)')
    .option('--active-copies <N>', 'background copies at once (default: 4); the others wait')
    .option('--strict', "the ESS's own rules: 12 targets, no cascading, recorded resyncs only")
    .option('--cache <MODE>', 'writeback (default): through the page cache; none: past it')
    .option('--io <BACKEND>', 'auto (default), uring or threads: who waits for the disk')
    .option('--log-level <LEVEL>', 'trace, debug, info, warn, error or fatal')
    .option('--nbd-handshake-seconds <N>', 'longest negotiation of an NBD client (default: 10)')
    .option('--nbd-handshakes <N>', 'clients that may negotiate at once (default: 128)')
    .option('--nbd-connections <N>', 'NBD connections in all (default: 960)')
    .option('--nbd-connections-per-client <N>', 'of one address or local user (default: 512)')
    .option('--nbd-connections-per-export <N>', 'attached to one LUN (default: 128)')
    .option('--nbd-memory <SIZE>', 'payloads in flight of all connections (default: 256M)')
    .option('--nbd-peer-timeout <SECONDS>', 'a silent TCP client is gone then (default: 120)')
    .option('--nbd-tls <MODE>', 'off (default), on: for clients that want it, or require')
    .option('--nbd-tls-certificates <DIR>', 'server-cert.pem, server-key.pem, ca-cert.pem')
    .option('--nbd-tls-psk <FILE>', 'pre-shared keys instead: lines of IDENTITY:HEX-KEY')
    .option('--nbd-tls-verify-peer', 'every client must show a certificate of the CA')
    .option('--nbd-tls-rules <FILE>', 'YAML: which exports need TLS, and which clients get them')
    .option('--nbd-tls-transport <HOW>', 'auto (default), native, or bridge: through JavaScript')
    .option('--insecure-nbd', 'allow NBD on addresses that other machines can reach')
    .option('--insecure-http', 'allow plain HTTP on addresses that other machines can reach')
    .option('--takeover', 'go on with the clients of the server that runs on DATA, if one does')
    .addOption(new Option('--print-config', 'print the resulting configuration and exit'))
    .addHelpText(
      'after',
      '\nEach option is also a variable (FLASHLUN_NBD_UNIX) and a key of the file (nbd-unix).' +
        '\nOptions win over variables, variables over the file.' +
        '\n\nExample: flashlun serve --data /var/lib/flashlun --nbd none',
    )
    .action(async (_flags: unknown, command: Command) => {
      const { serve } = await import('../../main.js');
      await serve(command.optsWithGlobals());
    });
}
