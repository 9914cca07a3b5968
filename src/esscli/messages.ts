/**
 * Every line the rs* commands print, in one table, so that a line can be corrected when better
 * evidence turns up.
 *
 * FOUND lines are those of the white paper's Figure 11 (with the repairs of its scanning errors:
 * `fffb` for `fffh`, "Applet Status Server" for the cut "Applet Status Serv"). INVENTED lines are
 * ours, in the style of the found ones: no failing run of the real commands is known.
 */

export const MESSAGES = {
  // FOUND
  heartbeatOk: 'rsWebTest: HeartBeat to the server was successful.',
  localHost: (host: string, address: string) =>
    `rsRegister: Local host ${host} at address ${address}`,
  registering: 'rsRegister: CLI client going to register with server',
  registerRequest: (text: string) => `rsRegister: registerClient request string "${text}"`,
  registerResponse: (text: string) => `rsRegister: registerClient response string "${text}"`,
  registered: 'rsRegister: CLI client registered successfully',
  taskManager: 'rsExecuteTask: Got task manager reference',
  statusConnected: 'rsAppletStatusConnection: Successfully connected to Applet Status Server',
  joiningStatus: 'rsRegister: CLI client going to register with status server',
  statusRequest: (text: string) => `rsRegister: connectToServerProt2 request string "${text}"`,
  statusResponse: (text: string) => `rsRegister: rsAppletStatusServer response string "${text}"`,
  messengerStarted: 'rsStatusMessenger: Status Messenger started',
  finding: 'rsExecuteTask: *****Finding the tasks*****',
  found: (task: string) => `rsExecuteTask: Task ${task} found by task manager`,
  scheduling: 'rsExecuteTask: *****Scheduling the tasks*****',
  scheduled: (task: string) => `rsExecuteTask: Task ${task} scheduled with copy services server`,
  monitoring: 'rsExecuteTask: *****Monitoring the tasks*****',
  waiting: 'rsExecuteTask: Waiting on server...',
  completed: (task: string) => `rsExecuteTask: Task ${task} completed successfully`,
  successful: 'rsExecuteTask: Command successful',

  // INVENTED
  heartbeatFailed: 'rsWebTest: HeartBeat to the server failed.',
  logonRefused: 'rsExecuteTask: Logon refused by server',
  registerRefused: 'rsRegister: CLI client registration refused',
  notFound: (task: string) => `rsExecuteTask: Task ${task} not found by task manager`,
  failed: (task: string) => `rsExecuteTask: Task ${task} failed`,
  notRun: (task: string) => `rsExecuteTask: Task ${task} not run`,
  unsuccessful: 'rsExecuteTask: Command failed',
} as const;

/** Help text. INVENTED: the real command's is not known. */
export const USAGE = `Usage: rsExecuteTask [/v] [/u USER] [/p PASSWORD] /s SERVER TASK [TASK...]

Runs saved Copy Services tasks and waits for their outcome.

  /v            verbose: every step
  /u USER       user (FLASHLUN_USER, default admin)
  /p PASSWORD   password, or @FILE (FLASHLUN_PASSWORD)
  /s SERVER     host, host:port or URL (FLASHLUN_SERVER); port 8452 by default

Options may be written with / or -, in upper or lower case, before or after the tasks; -- ends them.
RS_HOST=NAME in the environment is the host name to register under.

Exit codes (flashlun's own; only 0 and not 0 are known of the original):
  0 ok, 1 usage, 2 cannot reach the server, 3 logon or registration refused,
  4 task not found, 5 task failed, 6 no answer in time
`;
