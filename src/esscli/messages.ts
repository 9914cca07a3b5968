/**
 * Every line the rs* commands print, in one table, so that a line can be corrected when better
 * evidence turns up.
 *
 * FOUND lines are those of the white paper's command listing and Figures 5, 6 and 11 (with the
 * repairs of scanning errors: `fffb` for `fffh`, "Applet Status Server" for the cut "Applet Status
 * Serv", one run of dashes a column under the list's header). INVENTED lines are ours, in the style
 * of the found ones: no failing run and no query of the real commands is known.
 */

export const MESSAGES = {
  // FOUND: rsRegister and the connection to the server
  heartbeatOk: 'rsWebTest: HeartBeat to the server was successful.',
  localHostIs: (command: string, host: string) => `${command}: Local host is ${host}`,
  localHost: (host: string, address: string) =>
    `rsRegister: Local host ${host} at address ${address}`,
  registering: 'rsRegister: CLI client going to register with server',
  registerRequest: (text: string) => `rsRegister: registerClient request string "${text}"`,
  registerResponse: (text: string) => `rsRegister: registerClient response string "${text}"`,
  registered: 'rsRegister: CLI client registered successfully',
  taskManager: (command: string) => `${command}: Got task manager reference`,
  statusConnected: 'rsAppletStatusConnection: Successfully connected to Applet Status Server',
  joiningStatus: 'rsRegister: CLI client going to register with status server',
  statusRequest: (text: string) => `rsRegister: connectToServerProt2 request string "${text}"`,
  statusResponse: (text: string) => `rsRegister: rsAppletStatusServer response string "${text}"`,
  messengerStarted: 'rsStatusMessenger: Status Messenger started',
  successful: (command: string) => `${command}: Command successful`,

  // FOUND: rsPrimeServer
  hostRegistered: (host: string) => `rsPrimeServer: Host ${host} registered`,
  configurationChange: (server: string) =>
    `rsPrimeServer: Configuration change requested made to ${server}`,

  // FOUND: rsExecuteTask
  finding: 'rsExecuteTask: *****Finding the tasks*****',
  found: (task: string) => `rsExecuteTask: Task ${task} found by task manager`,
  scheduling: 'rsExecuteTask: *****Scheduling the tasks*****',
  scheduled: (task: string) => `rsExecuteTask: Task ${task} scheduled with copy services server`,
  monitoring: 'rsExecuteTask: *****Monitoring the tasks*****',
  waiting: 'rsExecuteTask: Waiting on server...',
  completed: (task: string) => `rsExecuteTask: Task ${task} completed successfully`,

  // FOUND: rsList2105s
  disksHeader: ['disk name', '2105 serial number'],

  // INVENTED
  heartbeatFailed: 'rsWebTest: HeartBeat to the server failed.',
  logonRefused: (command: string) => `${command}: Logon refused by server`,
  registerRefused: 'rsRegister: CLI client registration refused',
  notFound: (command: string, task: string) => `${command}: Task ${task} not found by task manager`,
  failed: (task: string) => `rsExecuteTask: Task ${task} failed`,
  notRun: (task: string) => `rsExecuteTask: Task ${task} not run`,
  unsuccessful: (command: string) => `${command}: Command failed`,
  noDisks: 'no 2105 disks found on this host',
  primeRefused: 'rsPrimeServer: Configuration change refused by server',
  queryRefused: (command: string) => `${command}: Query refused by server`,
  queryHeader: ['2105 serial number', 'volume', 'FlashCopy', 'PPRC'],
  flashCopyHeader: [
    'source',
    'target',
    'state',
    'mode',
    'out of sync',
    'tracks',
    'percent',
    'established',
  ],
  noRelationships: 'rsFlashCopyQuery: No FlashCopy relationships',
  pairComplete: (pair: string) => `rsQueryComplete: Pair ${pair} complete`,
  pairWaiting: (pair: string, tracks: number) =>
    `rsQueryComplete: Pair ${pair} has ${tracks} out of sync tracks`,
  taskComplete: (task: string) => `rsQueryComplete: Task ${task} complete`,
  taskIncomplete: (task: string) => `rsQueryComplete: Task ${task} not complete`,
} as const;

/** Lines of help about each command's own arguments. INVENTED: the real texts are not known. */
export const COMMON_HELP = {
  options: `  /v            verbose: every step
  /h            this text
`,
  server: `  /u USER       user (FLASHLUN_USER, default admin)
  /p PASSWORD   password, or @FILE (FLASHLUN_PASSWORD)
  /s SERVER     host, host:port or URL (FLASHLUN_SERVER); port 8452 by default
`,
  notes: `
Options may be written with / or -, in upper or lower case, before or after other words; -- ends
them. RS_HOST=NAME in the environment is the host name to register under, and
RS_DISKS=Disk1=20313698,Disk2=20413698 takes the place of the host's own disks.

Exit codes (flashlun's own; only 0 and not 0 are known of the original):
  0 ok, 1 usage, 2 cannot reach the server, 3 logon or registration refused,
  4 task not found, 5 failed, 6 no answer in time
`,
} as const;
