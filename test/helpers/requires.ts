/** Skipping a test with its reason when a tool it needs is not there. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { TestContext } from 'vitest';

const EXTRA_FOLDERS = ['/usr/sbin', '/sbin'];

/**
 * The full path of a command, or undefined. Looks in the sbin folders too: mkfs and losetup live
 * there.
 */
export function findTool(name: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), ...EXTRA_FOLDERS];
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

/**
 * Skips the test unless every tool is there. 'root' and 'fuse' stand for the right to mount and for
 * /dev/fuse.
 */
export function requires(context: TestContext, ...needs: readonly string[]): void {
  const missing = needs.filter((need) => !isMet(need));
  if (missing.length > 0) {
    context.skip(`needs ${missing.join(', ')} (scripts/test-tools installs what can be had)`);
  }
}

function isMet(need: string): boolean {
  if (need === 'root') return process.getuid?.() === 0;
  if (need === 'fuse') return canAccess('/dev/fuse', constants.R_OK | constants.W_OK);
  return findTool(need) !== undefined;
}

function isExecutable(path: string): boolean {
  return canAccess(path, constants.X_OK);
}

function canAccess(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
