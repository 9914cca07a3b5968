/** Entry of the bundle and of the executables that scripts/build-ess-cli.mjs makes. */

import { main } from './main.js';

void main();
