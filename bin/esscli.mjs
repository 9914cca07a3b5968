// What the launchers of the ESS CLI commands have in common; the program is src/esscli, which finds
// out by its name which command it is.
import { existsSync } from 'node:fs';

const entry = new URL('../dist/esscli/main.js', import.meta.url);
if (existsSync(entry)) {
  const { main } = await import(entry.href);
  await main();
} else {
  console.error('ESS CLI: not built yet: dist/ is missing. Run npm run build or npm start.');
  process.exitCode = 5;
}
